package fabric

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fasttap"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// bulk sends random bytes to the echo of the other and compares what comes back.
func (n *node) bulk(to *node, size int) {
	t := n.lab.t
	t.Helper()
	c, err := n.dial(to)
	if err != nil {
		t.Fatalf("node %d to %d: %v", n.i, to.i, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(deadline))
	sent := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(n.i), byte(to.i)}).Read(sent)
	done := make(chan error, 1)
	go func() { _, err := c.Write(sent); done <- err }()
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("node %d to %d: what came back is not what was sent (%v)", n.i, to.i, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// best is the mode that wireguard-go has on this machine.
func best(t *testing.T) (mode fasttap.Mode) {
	t.Helper()
	routes(t, newNetns(t), func(h *netlink.Handle) (err error) { mode, _, err = probeEmbedded(h); return err })
	return mode
}

// On the wire all modes are the same.
func TestEveryModeSpeaksToEvery(t *testing.T) {
	most, modes := best(t), []fasttap.Mode{fasttap.TunnelGSO, fasttap.Batch, fasttap.Stock}
	modes = slices.DeleteFunc(modes, func(m fasttap.Mode) bool { return m > most })
	l := newLabOf(t, modes...)
	l.connect()
	l.overlays(4097)
	for i, n := range l.nodes {
		if s := n.state(); s.GetMode() != modes[i].String() {
			t.Errorf("node %d: mode %q, want %q", n.i, s.GetMode(), modes[i])
		}
		n.echo()
	}
	for _, n := range l.nodes {
		for _, o := range l.others(n) {
			n.bulk(o, 1<<20)
		}
	}
	for _, n := range l.nodes {
		s := n.state()
		for reason, k := range s.GetDropped() {
			if k > 0 && reason != droppedSent {
				t.Errorf("node %d: %d packets dropped as %s", n.i, k, reason)
			}
		}
		if e := n.f.driver.(*embedded); n.best == fasttap.TunnelGSO && (e.link.Counters().Merged == 0 || e.link.Counters().Cut == 0 || e.link.Counters().Unmerged != 0) {
			t.Errorf("node %d: %+v", n.i, e.link.Counters())
		}
	}
}

// A netd that finds the TUN of an older one replaces it, unless somebody uses it.
func TestAnOlderInterfaceIsReplaced(t *testing.T) {
	most := best(t)
	l := newLabOf(t, fasttap.Stock, most)
	l.connect()
	a, b := l.nodes[0], l.nodes[1]
	a.stop()
	a.best = most
	a.start()
	var other fasttap.Interface
	within(t, a.ns, func() (err error) {
		other, err = fasttap.Open(a.f.link, fasttap.Config{MTU: 1420, Best: fasttap.Stock, Keep: true})
		return err
	})
	req := a.request(b)
	_, err := a.f.Declare(t.Context(), req)
	wantError(t, err, "another process uses it")
	other.Close()
	a.waitFor("declared", func() bool { return a.state().GetDegraded() == "" })
	b.declare(b.request(a))
	if s := a.state(); s.GetMode() != most.String() {
		t.Errorf("mode %q after the replacement", s.GetMode())
	}
	l.overlays(4097)
	b.echo()
	a.bulk(b, 1<<20)
	// And the new one is kept by the next.
	before := a.index()
	a.stop()
	a.start()
	b.declare(b.request(a))
	a.declare(a.request(b))
	if now := a.index(); now != before {
		t.Errorf("interface %d took the place of %d", now, before)
	}
	a.bulk(b, 1<<20)
}

// index tells one interface from another of the same name.
func (n *node) index() (i int) {
	routes(n.lab.t, n.ns, func(h *netlink.Handle) error {
		l, err := kernel.FindLink(h, n.f.link)
		if l != nil {
			i = l.Attrs().Index
		}
		return err
	})
	return i
}
