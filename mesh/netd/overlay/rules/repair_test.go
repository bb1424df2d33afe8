package rules

import (
	"net/netip"
	"os/exec"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

func (n *node) deleteTable() {
	n.lab.t.Helper()
	n.nft(func(c *nftables.Conn) error { c.DelTable(inetTable()); return nil })
}

func (n *node) nft(harm func(c *nftables.Conn) error) {
	n.lab.t.Helper()
	within(n.lab.t, n.ns, func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error {
			if err := harm(c); err != nil {
				return err
			}
			return c.Flush()
		})
	})
}

func (n *node) ensure(want bool) {
	n.lab.t.Helper()
	within(n.lab.t, n.ns, func() error {
		repaired, err := n.table.Ensure()
		if repaired != want {
			n.lab.t.Errorf("repaired: %v, want %v", repaired, want)
		}
		return err
	})
}

// Whatever somebody changes of the tables comes back, and what is none of ours is
// left alone.
func TestChangesByHandArePutBack(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	l.net.DefaultDeny = true
	l.net.Rules = []Rule{{ID: "p/0", From: []string{"a"}, To: []string{"b"}}}
	a, b, c := l.nodes[0].box("a"), l.nodes[0].box("b"), l.nodes[0].box("c")
	l.service("b")
	b.serve(80)
	l.set()
	n := l.nodes[0]
	n.ensure(false)
	was := n.dump()
	element := func(i int, e nftables.SetElement) func(*nftables.Conn) error {
		return func(c *nftables.Conn) error { return c.SetAddElements(set(inetTable(), i), []nftables.SetElement{e}) }
	}
	for name, harm := range map[string]func(c *nftables.Conn) error{
		"table deleted":     func(c *nftables.Conn) error { c.DelTable(inetTable()); return nil },
		"ARP table deleted": func(c *nftables.Conn) error { c.DelTable(arpTable()); return nil },
		"all flushed":       func(c *nftables.Conn) error { c.FlushRuleset(); return nil },
		"chain flushed": func(c *nftables.Conn) error {
			c.FlushChain(&nftables.Chain{Table: inetTable(), Name: "arrive"})
			return nil
		},
		"rule added": func(c *nftables.Conn) error {
			c.InsertRule(&nftables.Rule{Table: inetTable(), Chain: &nftables.Chain{Table: inetTable(), Name: "forward"}, Exprs: accept})
			return nil
		},
		"policy of a chain": func(c *nftables.Conn) error {
			open := nftables.ChainPolicyAccept
			c.AddChain(&nftables.Chain{Table: inetTable(), Name: "forward", Policy: &open})
			return nil
		},
		"pin added":      element(setPins4, nftables.SetElement{Key: []byte(string(ifname(c.port)) + string(c.mac) + "\x00\x00" + key(a.addr4))}),
		"endpoint added": element(setIDs4, nftables.SetElement{Key: netip.MustParseAddr("10.200.0.77").AsSlice(), Val: []byte{1, 2, 3, 4}}),
		"pair added": element(setPairs, nftables.SetElement{Key: []byte(pair(n.table.plan.numbers["c"], n.table.plan.numbers["b"])),
			VerdictData: &expr.Verdict{Kind: expr.VerdictAccept}}),
		"pin removed": func(c *nftables.Conn) error { c.FlushSet(set(inetTable(), setPins6)); return nil },
		"backend changed": func(c *nftables.Conn) error {
			k := []byte(key(vip4(0)) + number(0).key())
			s := set(inetTable(), setBackends4)
			if err := c.SetDeleteElements(s, []nftables.SetElement{{Key: k}}); err != nil {
				return err
			}
			return c.SetAddElements(s, []nftables.SetElement{{Key: k, Val: a.addr4.AsSlice()}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			n.nft(harm)
			if n.dump() == was {
				t.Error("nothing was changed")
			}
			n.ensure(true)
			if n.dump() != was {
				t.Error("the tables are not what they were")
			}
			n.ensure(false)
			a.reaches("tcp", b.addr4, 80)
		})
	}
	t.Run("put to sleep", func(t *testing.T) {
		within(t, n.ns, func() error { return exec.Command("nft", "add table inet "+tableName+" { flags dormant; }").Run() })
		n.ensure(true)
		c.silent("tcp", b.addr4, 80)
	})
	t.Run("not ours", func(t *testing.T) {
		n.ensure(false)
		n.nft(func(c *nftables.Conn) error {
			c.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyINet})
			return nil
		})
		n.ensure(false)
	})
	t.Run("before a difference", func(t *testing.T) {
		n.nft(element(setPins4, nftables.SetElement{Key: []byte(string(ifname(c.port)) + string(c.mac) + "\x00\x00" + key(a.addr4))}))
		b.serving = false
		n.set()
		b.serving = true
		n.set()
		if n.dump() != was {
			t.Error("a difference left what somebody had added")
		}
	})
}

// The real nft lists what is there.
func TestNftListsIt(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n := l.nodes[0]
	n.box("a")
	n.box("b")
	l.service("b")
	l.net.Rules = []Rule{{ID: "p/0", From: []string{"a"}, To: []string{"b"}, Proto: 6, First: 1, Last: 9}}
	for _, l.net.DefaultDeny = range []bool{false, true} {
		l.set()
		within(t, n.ns, func() error {
			out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
			if err != nil {
				t.Errorf("nft list ruleset: %v\n%s", err, out)
			}
			return nil
		})
	}
}
