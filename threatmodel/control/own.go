package control

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"sync"
)

// RunOwn judges the node of a run directory by those of its controls that ids name,
// for a daemon of it that is asked to. Where the data is, the daemon says: what
// others' command lines say of that is their word. What runs, and by whose leave, it says,
// too.
func RunOwn(ctx context.Context, run, data string, ids []string, own Rund) []Result {
	asked := some(All(), func(c Control) bool { return c.Check != nil && c.By != ByControl && slices.Contains(ids, c.ID) })
	n, err := FindNode(run)
	if err != nil {
		results := make([]Result, len(asked))
		for i, c := range asked {
			results[i] = failed(err)
			results[i].Control = c
		}
		return results
	}
	n.Data = data
	n.Containers = sync.OnceValues(func() ([]Container, error) { return own.Containers(ctx) })
	n.Lock = sync.OnceValue(own.Lock)
	return Run(ctx, asked, n)
}

// Rund is what rund knows of what runs on its node.
type Rund struct {
	Containers func(context.Context) ([]Container, error)
	Lock       func() Lock
}

// Lock is what rund goes by of the deployment lock.
type Lock struct {
	On bool // tasks are begun only where they are signed
	// Changed says what is in the file instead; empty: what rund goes by.
	Changed string
}

// Own is what redoubtd knows of itself and of its networks.
type Own struct {
	// Roots are the SHA-256 of the roots that it trusts, and of those that it has kept
	// in a file to trust when it starts.
	Roots func() (trusted, kept [][]byte, err error)
	// Networks is what netd has of what it was told.
	Networks func(context.Context) (Networks, error)
}

// Networks is how a node's networks are, as netd reads them from the kernel.
type Networks struct {
	Changed string   // rules that somebody changed lately and netd put back; empty: none
	Wrong   []string // what is not as it was declared
}

// RunControl judges a node by those of redoubtd's controls that ids name, for redoubtd.
func RunControl(ctx context.Context, data string, ids []string, own *Own) []Result {
	asked := some(All(), func(c Control) bool { return c.By == ByControl && slices.Contains(ids, c.ID) })
	return Run(ctx, asked, &Node{Data: data, Own: own})
}

// checkRootsKept: a root that redoubtd does not trust now, it would when it starts.
func checkRootsKept(_ context.Context, n *Node, found *Found) error {
	trusted, kept, err := n.Own.Roots()
	if err != nil {
		return err
	}
	found.Looked()
	for _, hash := range kept {
		found.Looked()
		if !slices.ContainsFunc(trusted, func(t []byte) bool { return bytes.Equal(t, hash) }) {
			found.Against("%s has the root %x, which is not trusted until redoubtd starts anew", filepath.Join(n.Data, "control", "roots"), hash[:min(len(hash), shownHash)])
		}
	}
	return nil
}

// checkNetworks: netd puts back what somebody changed, and says so for a day.
func checkNetworks(ctx context.Context, n *Node, found *Found) error {
	is, err := n.Own.Networks(ctx)
	if err != nil {
		return err
	}
	found.Looked()
	if is.Changed != "" {
		found.Against("rules were %s", is.Changed)
	}
	for _, w := range is.Wrong {
		found.Against("%s", w)
	}
	return nil
}
