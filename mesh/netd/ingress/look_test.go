package ingress

import (
	"net"
	"os/exec"
	"testing"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// What a change made is looked at as what came with the whole is. What others
// have beside our table is not.
func TestLooksAfterChanges(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	x := b.task(1)
	p := newPublished(x, b.task(2))
	l.publish(l.nodes, p)
	a.halt()
	ours := outsideTables[0]
	port := &nftables.Chain{Table: ours, Name: "tcp_8080"}
	others := &nftables.Table{Name: "others", Family: nftables.TableFamilyINet}
	backends, targets := four.outsideSets()[4], four.outsideSets()[5]
	key := func(set string) (any []byte) {
		for k := range a.in.outer.have.whole().sets[set] {
			any = []byte(k)
		}
		return any
	}
	for n, c := range []struct {
		name    string
		ours    bool
		harm    func(c *nftables.Conn)
		repairs uint64
	}{
		{"nothing", false, func(*nftables.Conn) {}, 0},
		{"a table of others", false, func(c *nftables.Conn) { c.AddTable(others) }, 0},
		{"a chain of others", false, func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: others, Name: port.Name}) }, 0},
		{"a port's chain is empty", true, func(c *nftables.Conn) { c.FlushChain(port) }, 1},
		{"a port's chain has another rule", true, func(c *nftables.Conn) { c.InsertRule(&nftables.Rule{Table: ours, Chain: port, Exprs: accept}) }, 1},
		{"a chain too many", true, func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: ours, Name: "open"}) }, 1},
		{"a set too many", true, func(c *nftables.Conn) {
			c.AddSet(&nftables.Set{Table: ours, Name: "more", KeyType: nftables.TypeIPAddr}, nil)
		}, 1},
		{"a target too few", true, func(c *nftables.Conn) {
			c.SetDeleteElements(&targets, []nftables.SetElement{{Key: key(setTargets)}})
		}, 1},
		{"a target too many", true, func(c *nftables.Conn) {
			more := key(setTargets)
			more[3]++
			more[3] |= 0x80
			c.SetAddElements(&targets, []nftables.SetElement{{Key: more}})
		}, 1},
		{"a backend that is another", true, func(c *nftables.Conn) {
			place := key(setBackends)
			to := []byte(a.in.outer.have.whole().sets[setBackends][string(place)])
			c.SetDeleteElements(&backends, []nftables.SetElement{{Key: place, Val: to}})
			c.SetAddElements(&backends, []nftables.SetElement{{Key: place, Val: append([]byte{to[0], to[1], to[2], to[3] ^ 0x80}, to[4:]...)}})
		}, 1},
		{"a table that is asleep", true, func(*nftables.Conn) {
			if err := exec.Command("nft", "add table inet "+tableName+" { flags dormant; }").Run(); err != nil {
				t.Error(err)
			}
		}, 1},
	} {
		p.serve(a, x, n%2 == 1) // so that chains are others than at the last look
		before, print := a.in.State().GetRepairs(), a.in.outer.parts
		netlab.Within(t, a.ns, func() error {
			return kernel.WithNFT(func(conn *nftables.Conn) error { c.harm(conn); return conn.Flush() })
		})
		a.in.repair(t.Context())
		s := a.in.State()
		if s.GetRepairs()-before != c.repairs || s.GetError() != "" {
			t.Errorf("%s: %d repairs, want %d; %s", c.name, s.GetRepairs()-before, c.repairs, s.GetError())
		}
		// Rules that are made anew have other numbers.
		if again := !a.in.outer.parts.Same(print); again != c.ours {
			t.Errorf("%s: made again: %v", c.name, again)
		}
		l.mustAsk("tcp", net.JoinHostPort(a.under(), "8080"))
	}
}
