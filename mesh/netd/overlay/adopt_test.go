package overlay

import (
	"testing"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay/rules"
)

// Rules vanish while no netd runs: the next one lets nothing pass there before
// anything is declared, and touches nothing where they still are.
func TestStartClosesWhatHasNoRules(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n := l.nodes[0]
	open, kept := l.network(1), l.network(2)
	a, b := open.box(n, 2), open.box(n, 3)
	c, d := kept.box(n, 2), kept.box(n, 3)
	b.serve()
	d.serve()
	l.declare(open, kept)
	n.quiet()
	n.stop()
	generation := func(w *lane) (gen uint32) {
		within(t, w.ns[n], func() (err error) { gen, err = netlab.Generation(); return err })
		return gen
	}
	within(t, open.ns[n], func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error {
			c.DelTable(&nftables.Table{Name: "redoubt_overlay", Family: nftables.TableFamilyINet})
			return c.Flush()
		})
	})
	a.reaches(b) // nothing is in the way: the test shows something
	was := generation(kept)
	n.start()
	n.waitFor("closed", func() (there bool) {
		within(t, open.ns[n], func() error {
			nf, err := kernel.OpenNetfilter()
			if err != nil {
				return err
			}
			defer nf.Close()
			there, err = rules.Present(nf)
			return err
		})
		return there
	})
	a.cannotReach(open.four(3))
	c.reaches(d)
	if now := generation(kept); now != was {
		t.Errorf("the rules that were there were touched: generation %d, then %d", was, now)
	}
	l.connect()
	n.declare(n.request(open, kept))
	a.reaches(b)
	c.reaches(d)
}
