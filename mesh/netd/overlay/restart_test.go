package overlay

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// linkIndex is that of an interface in a network's namespace; 0: there is none.
func (w *lane) linkIndex(n *node, name string) (i int) {
	w.lab.t.Helper()
	links(w.lab.t, w.ns[n], func(h *netlink.Handle) error {
		l, err := kernel.FindLink(h, name)
		if l != nil {
			i = l.Attrs().Index
		}
		return err
	})
	return i
}

// netd ends and starts: connections within the node go on, nothing is made anew
// and nothing removed before a whole declaration, and then what that leaves out.
func TestRestart(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	w, gone := l.network(1), l.network(2)
	from, near, far, left := w.box(a, 2), w.box(a, 3), w.box(b, 4), gone.box(a, 2)
	gone.box(b, 3)
	near.serve()
	far.serve()
	l.declare(w, gone)
	from.reaches(far)
	uplink, port, other := w.linkIndex(a, uplinkName), w.linkIndex(a, portName(from.task)), gone.linkIndex(a, uplinkName)

	// One connection through all of it.
	var srv net.Listener
	within(t, near.ns, func() (err error) { srv, err = net.Listen("tcp", "0.0.0.0:7001"); return err })
	defer srv.Close()
	var client, server net.Conn
	within(t, from.ns, func() (err error) { client, err = net.DialTimeout("tcp", w.four(3)+":7001", deadline); return err })
	defer client.Close()
	server, err := srv.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	lives := func(when string) {
		t.Helper()
		buf := make([]byte, 1)
		client.SetDeadline(time.Now().Add(deadline))
		server.SetDeadline(time.Now().Add(deadline))
		_, e1 := client.Write([]byte("x"))
		_, e2 := server.Read(buf)
		if err := errors.Join(e1, e2); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	lives("before")
	a.stop()
	lives("while no netd runs")
	a.start()
	lives("after the start")
	if _, err := a.o.Declare(t.Context(), &netdpb.OverlayRequest{Generation: 9, Base: 8}); err == nil || !strings.Contains(err.Error(), "declare the whole") {
		t.Errorf("a difference to what is not known: %v", err)
	}
	if w.linkIndex(a, uplinkName) != uplink || gone.linkIndex(a, uplinkName) != other {
		t.Error("something was removed before the declaration")
	}
	// Before the fabric is declared again.
	gone.boxes = nil
	a.declare(a.request(w))
	lives("after the declaration")
	if w.linkIndex(a, uplinkName) != uplink || w.linkIndex(a, portName(from.task)) != port {
		t.Error("links were made anew")
	}
	if gone.linkIndex(a, uplinkName) != 0 || gone.linkIndex(a, portName(left.task)) != 0 {
		t.Error("what is not declared is there still")
	}
	l.connect()
	from.reaches(far)
	if left.ping(gone.four(3), silence) == nil {
		t.Error("a task without a network reaches it")
	}
	if n := a.state().GetRepairs(); n != 0 {
		t.Errorf("%d repairs", n)
	}
}

// A task goes, by a difference and by a whole declaration, then its network.
func TestDetach(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	w := l.network(1)
	from, near, far := w.box(a, 2), w.box(a, 3), w.box(b, 4)
	near.serve()
	far.serve()
	l.declare(w)
	from.reaches(near)
	from.reaches(far)
	a.declare(a.change(w, &netdpb.OverlayNetwork{RemovedEndpoints: []string{near.task}}))
	from.cannotReach(w.four(3))
	from.reaches(far)
	links(t, near.ns, func(h *netlink.Handle) error {
		if l, err := kernel.FindLink(h, "ov0"); err != nil || l != nil {
			t.Errorf("the sandbox has its interface still (%v)", err)
		}
		return nil
	})
	a.declare(a.change(w, &netdpb.OverlayNetwork{RemovedEndpoints: []string{far.task}}))
	from.cannotReach(w.four(4))

	// Both come back, in one difference.
	a.declare(a.change(w, &netdpb.OverlayNetwork{Endpoints: []*netdpb.OverlayEndpoint{near.endpoint(a), far.endpoint(a)}}))
	from.reaches(near)
	from.reaches(far)
	w.boxes = w.boxes[:2] // without far
	a.declare(a.request(w))
	from.cannotReach(w.four(4))
	a.quiet()
	a.declare(a.request())
	from.cannotReach(w.four(3))
	if i := w.linkIndex(a, uplinkName); i != 0 {
		t.Error("the VXLAN device is there still")
	}
	b.stop()
	if err := Cleanup(b.runDir, b.ns); err != nil {
		t.Fatal(err)
	}
	if i := w.linkIndex(b, uplinkName); i != 0 {
		t.Error("the VXLAN device outlived the cleanup")
	}
	if n := a.state().GetRepairs(); n != 0 {
		t.Errorf("%d repairs", n)
	}
}

// A task moves to another node and keeps its address; then an address passes to
// another task.
func TestMoves(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	w := l.network(1)
	from, mover := w.box(a, 2), w.box(b, 4)
	mover.serve()
	l.declare(w)
	from.reaches(mover)
	// The same task, now on the node of the other.
	old := *mover
	mover.node, mover.ns = a, a.pin(mover.netns)
	mover.serve()
	b.declare(b.change(w, &netdpb.OverlayNetwork{Endpoints: []*netdpb.OverlayEndpoint{mover.endpoint(b)}}))
	a.declare(a.change(w, &netdpb.OverlayNetwork{Endpoints: []*netdpb.OverlayEndpoint{mover.endpoint(a)}}))
	from.reaches(mover)
	// Its address, of another task on the other node.
	heir := w.box(b, 4)
	heir.serve()
	for _, n := range l.nodes {
		n.declare(n.change(w, &netdpb.OverlayNetwork{RemovedEndpoints: []string{mover.task}, Endpoints: []*netdpb.OverlayEndpoint{heir.endpoint(n)}}))
	}
	from.reaches(heir)
	if old.ping(w.four(2), silence) == nil || mover.ping(w.four(2), silence) == nil {
		t.Error("who has moved away is still there")
	}
}

// One task on thirty networks.
func TestThirtyNetworks(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	var ws []*lane
	first := (*box)(nil)
	var others []*box
	for k := range 30 {
		w := l.network(k + 1)
		w.dual = k%2 == 0
		if first == nil {
			first = w.box(a, 2)
		} else {
			x := *first
			x.lane, x.index, x.addrs = w, uint32(k), []string{w.four(2)}
			if w.dual {
				x.addrs = append(x.addrs, w.six(2))
			}
			w.boxes = append(w.boxes, &x)
		}
		other := w.box(b, 3)
		other.serve()
		others = append(others, other)
		ws = append(ws, w)
	}
	l.declare(ws...)
	for _, other := range others {
		for _, addr := range other.addrs {
			if err := first.ping(addr, deadline); err != nil {
				t.Error(err)
			}
		}
	}
	// A network is no way to another one.
	others[0].cannotReach(ws[1].four(2))
	others[0].cannotReach(ws[1].four(3))
}
