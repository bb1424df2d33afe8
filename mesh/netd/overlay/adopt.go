package overlay

import (
	"fmt"
	"os"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay/rules"
)

// adopt looks at what an earlier process left, before anything was declared: what
// has its rules goes on by them, and what has lost them lets nothing pass.
func (o *Overlays) adopt() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.plan.generation != 0 {
		return nil
	}
	var name string
	return eachPinned(o.runDir, o.ns, func(x string) bool { name = x; return true }, func(_ *os.File, nf *kernel.Netfilter) error {
		return o.close(nf, name)
	})
}

// close lets nothing pass in a namespace without rules.
func (o *Overlays) close(nf *kernel.Netfilter, what string) error {
	there, err := rules.Present(nf)
	if err != nil || there {
		return err
	}
	if err := o.deny(nf); err != nil {
		return fmt.Errorf("close %s: %w", what, err)
	}
	return nil
}
