package rules

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A backend that is dead and not withdrawn yet fails no connection: who is
// refused asks again, and is led to one that serves. A process that is gone refuses
// by a reset; a sandbox that is gone leaves no way, and the namespace of the
// network says so.
func TestDeadBackend(t *testing.T) {
	t.Parallel()
	for name, death := range map[string]func(*box){
		"the process":           func(*box) {},
		"the sandbox":           (*box).vanish,
		"it, behind a firewall": func(b *box) { b.prohibit() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testDeadBackend(t, death)
		})
	}
}

func testDeadBackend(t *testing.T, death func(*box)) {
	l := newLab(t, 2)
	a, other := l.nodes[0].box("a"), l.nodes[0].box("a")
	v4, v6 := l.service("b")
	alive, dead := l.nodes[1].box("b"), l.nodes[1].box("b")
	alive.serve(80)
	l.set()
	death(dead)
	dropped := func() uint64 { _, d := l.nodes[0].counters(); return d[droppedAgain] }
	const each = 8
	type outcome struct {
		server string
		err    error
	}
	var wg sync.WaitGroup
	got := make(chan outcome, 4*each)
	for _, from := range []*box{a, other} {
		for _, to := range []netip.Addr{v4, v6} {
			for range each {
				wg.Go(func() {
					f, err := from.dial("tcp", to, 80, deadline)
					o := outcome{err: err}
					if f != nil {
						o.server = f.server
					}
					got <- o
				})
			}
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); dropped() == 0 && len(got) < cap(got) && time.Now().Before(end); {
		<-tick.C
	}
	// It stays an endpoint for a while: its connections go on where it lives.
	dead.serving = false
	l.set()
	wg.Wait()
	close(got)
	for o := range got {
		if o.err != nil || o.server != alive.task {
			t.Errorf("answered by %q: %v", o.server, o.err)
		}
	}
	if dropped() == 0 {
		t.Error("nobody came to the dead backend")
	}
	// What packets put into sets is nobody's change.
	n := l.nodes[0]
	within(t, n.ns, func() error {
		if _, err := n.table.Ensure(); err != nil { // reads the form
			return err
		}
		n.table.gen--
		repaired, err := n.table.Ensure()
		if repaired {
			t.Error("the ruleset was taken for changed by somebody")
		}
		return err
	})
}

// Where nobody listens the second refusal passes, and the first to those who ask a
// backend itself, or by datagrams.
func TestRefusedASecondLate(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a := l.nodes[0].box("a")
	v4, v6 := l.service("b")
	b := l.nodes[1].box("b")
	l.set()
	refuses := func(want4, want6 error) {
		t.Helper()
		for _, to := range []netip.Addr{b.addr4, b.addr6} {
			if _, err := a.dial("tcp", to, 80, deadline); !errors.Is(err, want4) && !errors.Is(err, want6) {
				t.Errorf("%s: %v", to, err)
			}
		}
		for _, to := range []netip.Addr{v4, v6} {
			begun := time.Now()
			_, err := a.dial("tcp", to, 80, deadline)
			if took := time.Since(begun); !errors.Is(err, want4) && !errors.Is(err, want6) || took < 500*time.Millisecond {
				t.Errorf("%s: %v after %v", to, err, took)
			}
		}
	}
	for _, to := range []netip.Addr{b.addr4, b.addr6} {
		a.refused("tcp", to, 80)
	}
	for _, to := range []netip.Addr{v4, v6} {
		a.refused("udp", to, 80)
	}
	if _, d := l.nodes[0].counters(); d[droppedAgain] != 0 {
		t.Errorf("who asks the backend itself, or by datagrams, is left without an answer: %v", d)
	}
	refuses(syscall.ECONNREFUSED, syscall.ECONNREFUSED)
	b.prohibit()
	refuses(syscall.EHOSTUNREACH, syscall.EACCES)
}

// However long the withdrawal takes, nobody who asks by a virtual address is told
// that there is no way to a sandbox that is gone.
func TestNoWay(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a := l.nodes[0].box("a")
	v4, v6 := l.service("b")
	b := l.nodes[1].box("b")
	l.set()
	b.vanish()
	for _, to := range []netip.Addr{b.addr4, b.addr6} {
		if _, err := a.dial("tcp", to, 80, deadline); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%s: %v, want no way to it", to, err)
		}
	}
	var wg sync.WaitGroup
	for _, to := range []netip.Addr{v4, v6} {
		wg.Go(func() { // its first packet is sent twice in this time
			if _, err := a.dial("tcp", to, 80, 1500*time.Millisecond); !isTimeout(err) {
				t.Errorf("%s: %v, want no answer", to, err)
			}
		})
	}
	wg.Wait()
	if _, d := l.nodes[0].counters(); d[droppedAgain] < 3 {
		t.Errorf("%d errors were dropped, want those of each family, and more than one of each", d[droppedAgain])
	}
}

// vanish takes the sandbox's end of the network away, as its end does.
func (b *box) vanish() {
	routes(b.node.lab.t, b.node.ns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(b.port)
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	})
}

// prohibit has the sandbox answer everything that no host may be asked so, as
// many a firewall does.
func (b *box) prohibit() {
	within(b.node.lab.t, b.ns, func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error {
			table := c.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyINet})
			chain := c.AddChain(&nftables.Chain{Table: table, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}})
			return c.Flush()
		})
	})
}
