package ingress

import (
	"bytes"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// To look is to change nothing: the kernel would tell of it, and who is told looks
// again, without end.
func TestLooksChangeNothing(t *testing.T) {
	l := newLab(t, 2)
	a := l.nodes[0]
	l.publish(l.nodes, newPublished(a.task(1), l.nodes[1].task(2)))
	a.halt()
	for name, ns := range map[string]*os.File{"the node": a.ns, "the namespace of published ports": a.inside} {
		news := make(chan []byte, 1000)
		heard, err := kernel.Listen(ns, func(_ kernel.Topic, b []byte) {
			select {
			case news <- bytes.Clone(b):
			default:
			}
		}, func() {}, kernel.Paths)
		if err != nil {
			t.Fatal(err)
		}
		defer heard.Close()
		a.in.repair(t.Context())
		a.in.repair(t.Context())
		mark := netip.MustParseAddr("203.0.113.77")
		netlab.Links(t, ns, func(h *netlink.Handle) error {
			lo, err := h.LinkByName("lo")
			if err != nil {
				return err
			}
			return h.AddrAdd(lo, &netlink.Addr{IPNet: kernel.IPNet(netip.PrefixFrom(mark, 32))})
		})
		for timeout := time.After(deadline); ; {
			select {
			case b := <-news:
				if !bytes.Contains(b, mark.AsSlice()) {
					t.Errorf("a look changed something in %s: %x", name, b)
					continue
				}
			case <-timeout:
				t.Fatal("nothing was told")
			}
			break
		}
	}
}
