package ingress

import (
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// withdraw has a task serve no more, as entry node n sees it.
func (p *published) withdraw(n *node, x *task) { p.serve(n, x, false) }

func (p *published) serve(n *node, x *task, serves bool) {
	n.lab.t.Helper()
	p.idle[x] = !serves
	n.gen++
	s := &netdpb.IngressService{ServiceId: p.id, Changes: true, Endpoints: []*netdpb.IngressEndpoint{p.endpoint(n, x)}}
	if bad := n.declare(&netdpb.IngressRequest{Generation: n.gen, Base: n.gen - 1, Services: []*netdpb.IngressService{s}}); len(bad) > 0 {
		n.lab.t.Fatal(bad)
	}
}

// A task that is dead and not withdrawn yet fails no connection: the client is
// not told, asks again, and is led to one that serves. Where none does, it is told.
func TestDeadTask(t *testing.T) {
	for _, x := range []struct {
		name          string
		here, entries int // whether the task is on the node that is asked, and how many are
		death         func(*task)
		refuses       bool
	}{
		{"its process", 0, 1, func(x *task) { x.deafen() }, true},
		{"its sandbox", 0, 1, (*task).vanish, false},
		{"its sandbox on an entry node", 0, 2, (*task).vanish, false},
		{"its sandbox on the node that is asked", 1, 1, (*task).vanish, false},
		{"its process, behind a firewall", 0, 1, func(x *task) { x.deafen(); x.prohibit() }, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, 2)
			entry, other := l.nodes[0], l.nodes[1]
			alive, dead := other.task(1), l.nodes[1-x.here].task(2)
			p := newPublished(alive, dead)
			l.publish(l.nodes[:x.entries], p)
			for range 2 { // from here on no link is new
				l.mustAsk("tcp", net.JoinHostPort(entry.under(), "8080"))
			}
			x.death(dead)
			dropped := func() uint64 { return entry.in.State().GetDropped()[droppedAgain] }
			askedOfTheDead(t, entry, p, alive, dead)
			if (dropped() > 0) != x.refuses {
				t.Errorf("%d answers were dropped", dropped())
			}
			if x.death(alive); !x.refuses {
				return
			}
			began := time.Now()
			if who, err := ask(l.client, "tcp", net.JoinHostPort(entry.under(), "8080"), deadline); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) || time.Since(began) < 500*time.Millisecond {
				t.Errorf("nobody listens, and who asks is told %q, %v after %v", who, err, time.Since(began))
			}
		})
	}
}

// askedOfTheDead asks while one of two tasks is dead, which every other one who
// asks is led to, and withdraws it when only those are left.
func askedOfTheDead(t *testing.T, entry *node, p *published, alive, dead *task) {
	t.Helper()
	l := entry.lab
	var wg sync.WaitGroup
	type outcome struct {
		who string
		err error
	}
	const each = 8
	got := make(chan outcome, 3*each)
	for _, to := range []string{net.JoinHostPort(entry.under(), "8080"), net.JoinHostPort(entry.under6(), "8080"), "127.0.0.1:8080"} {
		from := l.client
		if strings.HasPrefix(to, "127") {
			from = entry.ns
		}
		for range each {
			wg.Go(func() {
				who, err := ask(from, "tcp", to, deadline)
				got <- outcome{who, err}
			})
		}
	}
	entry.waitFor("answered by the task that lives", func() bool { return len(got) >= cap(got)/2 })
	p.withdraw(entry, dead)
	wg.Wait()
	close(got)
	for o := range got {
		if o.err != nil || !strings.HasPrefix(o.who, alive.addr+" ") && !strings.HasPrefix(o.who, alive.six+" ") {
			t.Errorf("%q, %v", o.who, o.err)
		}
	}
}

// vanish takes the sandbox's interface for published ports away, as its end does.
func (x *task) vanish() {
	x.node.halt()
	netlab.Links(x.node.lab.t, x.node.inside, func(h *netlink.Handle) error {
		l, err := h.LinkByName(portName(x.id))
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	})
}

// prohibit has the sandbox answer everything that no host may be asked so, as
// many a firewall does.
func (x *task) prohibit() {
	netlab.Within(x.node.lab.t, x.ns, func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error {
			table := c.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyINet})
			chain := c.AddChain(&nftables.Chain{Table: table, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}})
			return c.Flush()
		})
	})
}

// Datagrams of a client go elsewhere as soon as their task serves no more.
func TestDatagramsLeave(t *testing.T) {
	l := newLab(t, 2)
	entry := l.nodes[0]
	a, b := l.nodes[1].task(1), l.nodes[1].task(2)
	p := newPublished(a, b)
	l.publish(l.nodes[:1], p)
	for range 2 { // new links lose packets, and a datagram is not sent again
		l.mustAsk("tcp", net.JoinHostPort(entry.under(), "8080"))
	}
	var c net.Conn
	netlab.Within(t, l.client, func() (err error) { c, err = net.Dial("udp", net.JoinHostPort(entry.under(), "5353")); return err })
	defer c.Close()
	who, err := askOn(c, deadline)
	if err != nil {
		t.Fatal(err)
	}
	first, then := a, b
	if strings.HasPrefix(who, b.addr+" ") {
		first, then = b, a
	}
	p.withdraw(entry, first)
	if who, err := askOn(c, deadline); err != nil || !strings.HasPrefix(who, then.addr+" ") {
		t.Errorf("%q answers after it stopped serving, %v", who, err)
	}
}
