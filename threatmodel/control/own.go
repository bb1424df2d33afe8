package control

import (
	"context"
	"slices"
	"sync"
)

// RunOwn judges the node of a run directory by those of its controls that ids name,
// for a daemon of it that is asked to. Where the data is, the daemon says: what
// others' command lines say of that is their word. What containers run it says, too.
func RunOwn(ctx context.Context, run, data string, ids []string, containers func(context.Context) ([]Container, error)) []Result {
	asked := some(All(), func(c Control) bool { return c.Check != nil && slices.Contains(ids, c.ID) })
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
	n.Containers = sync.OnceValues(func() ([]Container, error) { return containers(ctx) })
	return Run(ctx, asked, n)
}
