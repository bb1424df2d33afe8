package overlay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay/rules"
)

var errInjected = errors.New("injected")

// A faulty is what the kernel does, with failures; what is done is written down.
type faulty struct {
	Fabric
	enforcer
	sets *switches
}

type switches struct {
	mu                 sync.Mutex // guards the following
	set, ensure, admit bool
	deny               bool
	order              []string
	watch              func() // called before each step
	admitted           []fabric.Admission
}

func (s *switches) at(step string, fails *bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = append(s.order, step)
	if s.watch != nil {
		s.watch()
	}
	if *fails {
		return fmt.Errorf("%w: %s", errInjected, step)
	}
	return nil
}

func (f faulty) Set(ctx context.Context, n *rules.Network) (bool, error) {
	if err := f.sets.at("rules", &f.sets.set); err != nil {
		return false, err
	}
	return f.enforcer.Set(ctx, n)
}

func (f faulty) Ensure() (bool, error) {
	if err := f.sets.at("ensure", &f.sets.ensure); err != nil {
		return false, err
	}
	return f.enforcer.Ensure()
}

func (f faulty) Admit(ctx context.Context, all []fabric.Admission) error {
	if err := f.sets.at("admit", &f.sets.admit); err != nil {
		return err
	}
	f.sets.mu.Lock()
	f.sets.admitted = all
	f.sets.mu.Unlock()
	return f.Fabric.Admit(ctx, all)
}

// inject puts switches between the node's networks and the kernel.
func (n *node) inject() *switches {
	s := &switches{}
	n.o.mu.Lock()
	defer n.o.mu.Unlock()
	n.o.fabric = faulty{Fabric: n.o.fabric, sets: s}
	n.o.newTable = func(nf *kernel.Netfilter) enforcer { return faulty{enforcer: rules.New(nf), sets: s} }
	deny := n.o.deny
	n.o.deny = func(nf *kernel.Netfilter) error {
		if err := s.at("deny", &s.deny); err != nil {
			return err
		}
		return deny(nf)
	}
	return s
}

func (s *switches) turn(what *bool, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*what = on
}

// Whatever call fails, the network says so, nothing of it passes any more, nobody
// may send on it, other networks go on, and it comes back by itself.
func TestFailedCallsClose(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	w, other := l.network(1), l.network(2)
	w.dual, other.dual = false, false
	from, to, otherFrom, otherTo := w.box(a, 2), w.box(b, 3), other.box(a, 2), other.box(b, 3)
	near := w.box(a, 4)
	to.serve()
	otherTo.serve()
	near.serve()
	s := a.inject()
	l.declare(w, other)
	from.reaches(to)
	for name, what := range map[string]*bool{"rules": &s.set, "admit": &s.admit} {
		t.Run(name, func(t *testing.T) {
			s.turn(what, true)
			// A remote endpoint on a third node, so that there is something to tell.
			e := &netdpb.OverlayEndpoint{TaskId: ident.New(), ServiceId: ident.New(), Addresses: []string{w.four(9)}, Node: "198.18.0.9"}
			got := a.results(a.change(w, &netdpb.OverlayNetwork{Endpoints: []*netdpb.OverlayEndpoint{e}}))
			if len(got) != 3 || got[0].GetNetworkId() != w.id || !strings.Contains(got[0].GetError(), "injected: "+name) || got[1].GetError() == "" {
				t.Errorf("results %v", got)
			}
			from.cannotReach(w.four(3))
			from.cannotReach(w.four(4))
			if name != "admit" {
				otherFrom.reaches(otherTo)
				s.mu.Lock()
				for _, x := range s.admitted {
					if x.VNI == w.vni() {
						t.Errorf("%v may send on a closed network", x)
					}
				}
				s.mu.Unlock()
			}
			if st := a.state().GetNetworks(); !strings.Contains(st[0].GetError()+st[1].GetError(), "injected") {
				t.Errorf("state %v", st)
			}
			s.turn(what, false)
			a.waitFor("open again", func() bool { st := a.state().GetNetworks(); return st[0].GetError()+st[1].GetError() == "" })
			from.reaches(to)
			from.reaches(near)
			otherFrom.reaches(otherTo)
			a.declare(a.change(w, &netdpb.OverlayNetwork{RemovedEndpoints: []string{e.GetTaskId()}}))
		})
	}
}

// The kernel refuses: another VXLAN device of the node has the number.
func TestVNITaken(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n := l.nodes[0]
	w := l.network(1)
	from, to := w.box(n, 2), w.box(n, 3)
	to.serve()
	links(t, n.ns, func(h *netlink.Handle) error {
		name, _, _ := n.f.Link()
		wg, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "other", TxQLen: -1}, VxlanId: int(w.vni()),
			SrcAddr: n.mesh().AsSlice(), VtepDevIndex: wg.Attrs().Index, Port: vxlanPort})
	})
	links(t, n.ns, func(h *netlink.Handle) error { return up(h, "other") })
	got := n.results(n.request(w))
	if got[0].GetTaskId() != "" || got[0].GetError() == "" {
		t.Errorf("results %v", got)
	}
	from.cannotReach(w.four(3))
	links(t, n.ns, func(h *netlink.Handle) error {
		other, err := h.LinkByName("other")
		if err != nil {
			return err
		}
		return h.LinkDel(other)
	})
	n.waitFor("open", func() bool { return n.state().GetNetworks()[0].GetError() == "" })
	from.reaches(to)
}

// A namespace has no link before it has rules, no link of it is up before the
// rules know the network, and none before the fabric knows who may send.
func TestOrder(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n := l.nodes[0]
	w := l.network(1)
	w.box(n, 2)
	far := &netdpb.OverlayEndpoint{TaskId: ident.New(), ServiceId: ident.New(), Addresses: []string{w.four(9), w.six(9)}, Node: "198.18.0.9"}
	s := n.inject()
	var seen []string
	s.watch = func() {
		state := "no links"
		if err := kernel.WithRoutes(w.ns[n], func(h *netlink.Handle) error {
			all, err := h.LinkList()
			for _, x := range all {
				if x.Attrs().Name == "lo" {
					continue
				}
				if state == "no links" {
					state = "down"
				}
				if isUp(x) {
					state = "up"
				}
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		seen = append(seen, s.order[len(s.order)-1]+": "+state)
	}
	req := n.request(w)
	req.Networks[0].Endpoints = append(req.Networks[0].Endpoints, far)
	n.declare(req)
	s.mu.Lock()
	got := strings.Join(seen, ", ")
	s.watch = nil
	s.mu.Unlock()
	if want := "deny: no links, rules: down, admit: down"; got != want {
		t.Errorf("attaching went %s\nwant %s", got, want)
	}
	n.quiet()
	s.mu.Lock()
	s.order = nil
	s.mu.Unlock()
	n.gen++
	n.declare(&netdpb.OverlayRequest{Generation: n.gen, Base: n.gen - 1, Removed: []string{w.id}})
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := strings.Join(s.order, ", "); got != "deny, admit" || len(s.admitted) != 0 {
		t.Errorf("detaching went %s, and %v may send", got, s.admitted)
	}
}

// Without the node's end of the tunnels there is no network, and with it there is.
func TestWaitsForTheFabric(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n := l.nodes[0]
	n.stop()
	w := l.network(1)
	from, to := w.box(n, 2), w.box(n, 3)
	to.serve()
	if err := fabric.Cleanup(n.ns); err != nil {
		t.Fatal(err)
	}
	n.start()
	got := n.results(n.request(w))
	if len(got) != 3 || !strings.Contains(got[0].GetError(), "declare the fabric") {
		t.Errorf("results %v", got)
	}
	l.connect()
	n.waitFor("there", func() bool { return n.state().GetNetworks()[0].GetError() == "" })
	from.reaches(to)

	// The interface goes, and everything on it; then it is another one.
	within(t, n.ns, func() error {
		return kernel.WithRoutes(n.ns, func(h *netlink.Handle) error {
			name, _, _ := n.f.Link()
			wg, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			return h.LinkDel(wg)
		})
	})
	n.waitFor("back", func() bool {
		up := false
		links(t, w.ns[n], func(h *netlink.Handle) error {
			l, err := kernel.FindLink(h, uplinkName)
			up = l != nil && isUp(l)
			return err
		})
		return up && n.state().GetNetworks()[0].GetError() == ""
	})
	from.reaches(to)
}
