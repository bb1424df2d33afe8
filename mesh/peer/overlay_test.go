package peer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
)

// overlay makes a VXLAN network through the tunnel of the two and returns a
// connection in it, which says what it is told.
func overlay(t *testing.T, a, b *realNode) net.Conn {
	var spaces [2]*os.File
	for i, x := range []*realNode{a, b} {
		other := []*realNode{a, b}[1-i]
		spaces[i] = newNetns(t)
		mac := func(x *realNode) net.HardwareAddr {
			m := x.view.Mesh.As4()
			return append(net.HardwareAddr{2, 0x52}, m[:]...)
		}
		name, mtu, _ := x.fabric.get().Link()
		within(t, x.ns, func() error {
			wg, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			v := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx0", MTU: mtu - 50, HardwareAddr: mac(x)}, VxlanId: 4097,
				SrcAddr: x.view.Mesh.AsSlice(), VtepDevIndex: wg.Attrs().Index, Port: 4789}
			return errors.Join(netlink.LinkAdd(v), netlink.LinkSetNsFd(v, int(spaces[i].Fd())))
		})
		within(t, spaces[i], func() error {
			v, err := netlink.LinkByName("vx0")
			if err != nil {
				return err
			}
			addr, err := netlink.ParseAddr(fmt.Sprintf("10.200.0.%d/24", i+1))
			if err != nil {
				return err
			}
			return errors.Join(netlink.AddrAdd(v, addr), netlink.LinkSetUp(v),
				netlink.NeighSet(&netlink.Neigh{LinkIndex: v.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
					IP: net.IPv4(10, 200, 0, byte(2-i)).To4(), HardwareAddr: mac(other)}),
				netlink.NeighAppend(&netlink.Neigh{LinkIndex: v.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT,
					Flags: netlink.NTF_SELF, IP: other.view.Mesh.AsSlice(), HardwareAddr: mac(other)}))
		})
		if err := x.fabric.get().Admit(t.Context(), []fabric.Admission{{Node: other.view.Mesh, VNI: 4097, MAC: [6]byte(mac(other))}}); err != nil {
			t.Fatal(err)
		}
	}
	var l net.Listener
	within(t, spaces[1], func() (err error) { l, err = net.Listen("tcp", "10.200.0.2:7"); return err })
	var echo sync.WaitGroup
	served := make(chan net.Conn, 1)
	echo.Go(func() {
		defer close(served)
		c, err := l.Accept()
		if err == nil {
			served <- c
			io.Copy(c, c)
		}
	})
	var c net.Conn
	within(t, spaces[0], func() (err error) { c, err = net.DialTimeout("tcp", "10.200.0.2:7", deadline); return err })
	t.Cleanup(func() { // the tunnel is gone by now, so neither hears of the other's end
		c.Close()
		l.Close()
		if s := <-served; s != nil {
			s.Close()
		}
		echo.Wait()
	})
	return c
}
