package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Container is what rund knows of a container that runs, or of a task that has files on
// the node and no container.
type Container struct {
	Task  string
	Image string // as its service names it
	// Wanted is the digest that managers want the task to run; Made is the one that it
	// was made from.
	Wanted, Made string
	// Layers is the snapshot that its file system lies upon; Should is the one that the
	// image of Made has.
	Layers, Should string
	// Refused says why the image policies in force do not admit it, by what is on the
	// node; empty: they do.
	Refused string
	// Unsigned says why nothing that a deployer signed lets it run now; empty: something
	// does, or the node has no deployment lock.
	Unsigned string
	// PID is its first process; 0: there is no container.
	PID int
	// IDs begin at Base on the host and are Size.
	Base, Size uint32
	User       uint32 // in the container, when it was started
	ReadOnly   bool   // its root file system is to be
	// Capabilities that it may hold, as the kernel numbers them; Unfiltered: it may be
	// without a filter of system calls. Of what it was started with, both are what the
	// node's configuration allows.
	Capabilities uint64
	Unfiltered   bool
	// Granted is how many files its service was granted, by where they are; Files is
	// how many there are.
	Granted, Files map[string]int
	// Inside runs a function, on a thread of its own, as who may look into the
	// container; nil: whoever asks may.
	Inside func(func() error) error
}

// eachContainer looks at all that run. A node without one has been looked at, too.
func eachContainer(look func(c Container, found *Found)) func(context.Context, *Node, *Found) error {
	return func(_ context.Context, n *Node, found *Found) error {
		all, err := n.Containers()
		if err != nil {
			return err
		}
		found.Looked()
		for _, c := range all {
			look(c, found)
			found.Looked()
		}
		return nil
	}
}

func checkImage(c Container, found *Found) {
	switch {
	case c.PID == 0:
	case c.Wanted != c.Made:
		found.Against("task %s runs %s of %s, and is to run %s", c.Task, c.Made, c.Image, c.Wanted)
	case c.Layers != c.Should:
		found.Against("task %s does not run the layers of %s, which it was made from", c.Task, c.Made)
	case c.Refused != "":
		found.Against("task %s: %s", c.Task, c.Refused)
	}
}

// confined holds the container's first process, as the kernel has it, against what it
// was started as.
func (c Container) confined(p Process, found *Found) error {
	if err := c.held(p, found); err != nil {
		return err
	}
	uid, err := p.uid()
	if err != nil {
		return err
	}
	if id := int64(uid) - int64(c.Base); c.User != 0 && id >= 0 && id < int64(c.Size) && id != int64(c.User) { // root may have become another
		found.Against("%s runs as %d, and was started as %d", p.Name, id, c.User)
	}
	ids, err := p.read("uid_map")
	if err != nil {
		return err
	}
	if got, want := strings.Join(strings.Fields(ids), " "), fmt.Sprintf("0 %d %d", c.Base, c.Size); got != want {
		found.Against("%s has the ids %q, and is to have %q", p.Name, got, want)
	}
	if !c.ReadOnly {
		return nil
	}
	mounts, err := p.read("mountinfo")
	if err != nil {
		return err
	}
	if !rootReadOnly(mounts) {
		found.Against("%s may write to its root file system", p.Name)
	}
	return nil
}

// held is what holds for every process of the container.
func (c Container) held(p Process, found *Found) error {
	for key, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2"} {
		got, err := p.status(key)
		if err != nil {
			return err
		}
		if got != want && !(c.Unfiltered && key == "Seccomp") {
			found.Against("%s: %s is %s, and is to be %s", p.Name, key, got, want)
		}
	}
	may := fmt.Sprintf("%016x", c.Capabilities)
	for _, set := range []string{"CapInh", "CapEff", "CapPrm", "CapBnd", "CapAmb"} {
		got, err := p.status(set)
		if err != nil {
			return err
		}
		if beyond(got, may) {
			found.Against("%s: %s is %s, and may be %s", p.Name, set, got, may)
		}
	}
	uid, err := p.uid()
	if err != nil {
		return err
	}
	if id := int64(uid) - int64(c.Base); id < 0 || id >= int64(c.Size) {
		found.Against("%s runs as %d of the node, outside its own %d ids from %d", p.Name, uid, c.Size, c.Base)
	}
	return nil
}

// rootReadOnly tells whether what is mounted at / last, in the kernel's list, is
// read-only.
func rootReadOnly(mounts string) (readOnly bool) {
	const at, options = 4, 5
	for l := range strings.Lines(mounts) {
		if f := strings.Fields(l); len(f) > options && f[at] == "/" {
			readOnly = slices.Contains(strings.Split(f[options], ","), "ro")
		}
	}
	return readOnly
}

func checkGranted(c Container, found *Found) {
	for _, where := range slices.Sorted(maps.Keys(c.Files)) {
		if has, may := c.Files[where], c.Granted[where]; has > may {
			found.Against("task %s has %d files in %s, and was granted %d", c.Task, has, where, may)
		}
	}
}
