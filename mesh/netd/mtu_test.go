package netd

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// A container's packets fit through the node's narrowest uplink, also when that
// changes under containers that run.
func TestMTUFollowsUplink(t *testing.T) {
	w := newWorld(t)
	a := w.box(1)
	set := func(mtu int) {
		w.routes(w.node, func(h *netlink.Handle) error {
			l, err := h.LinkByName("up0")
			if err != nil {
				return err
			}
			return h.LinkSetMTU(l, mtu)
		})
	}
	check := func(want int) {
		t.Helper()
		w.routes(a.ns, func(h *netlink.Handle) error {
			l, err := h.LinkByName(sandboxLink)
			if err == nil && l.Attrs().MTU != want {
				t.Errorf("the container has MTU %d, want %d", l.Attrs().MTU, want)
			}
			return err
		})
		w.routes(w.node, func(h *netlink.Handle) error {
			l, err := h.LinkByName(portName(a.GetTaskId()))
			if err == nil && l.Attrs().MTU != want {
				t.Errorf("the port has MTU %d, want %d", l.Attrs().MTU, want)
			}
			return err
		})
	}
	set(1400)
	w.apply(a)
	check(1400)
	set(1280)
	w.n.repair(t.Context())
	check(1280)
	set(1500)
	w.n.repair(t.Context())
	check(1500)
}
