package fabric

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

func wantError(t testing.TB, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v, want one line with %q", err, part)
	}
}

// waitFor looks until it is so.
func (n *node) waitFor(what string, so func() bool) {
	n.lab.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); !so(); <-tick.C {
		if time.Now().After(end) {
			n.lab.t.Fatalf("node %d: not %s", n.i, what)
		}
	}
}

// Whatever of table or interface is taken away or changed comes back, is
// counted, and frames go on.
func TestChangesByHandArePutBack(t *testing.T) {
	l := newLab(t, 2)
	l.connect()
	l.overlays(4097)
	a, b := l.nodes[0], l.nodes[1]
	b.echo()
	table := meshTable()
	nft := func(harm func(c *nftables.Conn) error) func() error {
		return func() error {
			return kernel.WithNFT(func(c *nftables.Conn) error {
				if err := harm(c); err != nil {
					return err
				}
				return c.Flush()
			})
		}
	}
	link := func(harm func(h *netlink.Handle, l netlink.Link) error) func() error {
		return func() error {
			return kernel.WithRoutes(a.ns, func(h *netlink.Handle) error {
				l, err := h.LinkByName(a.f.link)
				if err != nil {
					return err
				}
				return harm(h, l)
			})
		}
	}
	for name, harm := range map[string]func() error{
		"table deleted": nft(func(c *nftables.Conn) error { c.DelTable(table); return nil }),
		"all flushed":   nft(func(c *nftables.Conn) error { c.FlushRuleset(); return nil }),
		"chain flushed": nft(func(c *nftables.Conn) error {
			c.FlushChain(&nftables.Chain{Table: table, Name: "input"})
			return nil
		}),
		"rule added": nft(func(c *nftables.Conn) error {
			c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: "leave"}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
			return nil
		}),
		"admission added": nft(func(c *nftables.Conn) error {
			s, err := c.GetSetByName(table, setAssigned)
			if err != nil {
				return err
			}
			k := Admission{Node: b.mesh(), VNI: 7, MAC: b.mac()}.key()
			return c.SetAddElements(s, []nftables.SetElement{{Key: k[:]}})
		}),
		"table put to sleep": dormant,
		"interface down":     link(func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) }),
		"address taken": link(func(h *netlink.Handle, l netlink.Link) error {
			return h.AddrDel(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.mesh().AsSlice(), Mask: net.CIDRMask(15, 32)}})
		}),
	} {
		t.Run(name, func(t *testing.T) {
			before := a.state().GetRepairs()
			within(t, a.ns, harm)
			a.waitFor("put back", func() bool { return a.state().GetRepairs() > before })
			within(t, a.ns, func() error {
				nf, err := kernel.OpenNetfilter()
				if err != nil {
					return err
				}
				defer nf.Close()
				a.f.mu.Lock()
				defer a.f.mu.Unlock()
				read := a.f.table
				read.nf = nf
				same, err := read.inForce()
				if found, e := nf.Structure(table); e != nil || err != nil || !same || found != read.print {
					t.Errorf("the table is not what it was (%v, %v)", err, e)
				}
				return nil
			})
			a.reaches(b)
		})
	}
}

// What somebody admits right before a declaration does not become part of what is
// to be.
func TestADifferenceIsMadeToTheOwnTableOnly(t *testing.T) {
	l := newLab(t, 2)
	l.connect()
	a, b := l.nodes[0], l.nodes[1]
	forged, admitted := Admission{Node: b.mesh(), VNI: 7, MAC: b.mac()}.key(), Admission{Node: b.mesh(), VNI: 8, MAC: b.mac()}.key()
	a.f.mu.Lock() // nothing is put back meanwhile
	defer a.f.mu.Unlock()
	if err := a.f.inside(func(*netlink.Handle) error {
		if err := kernel.WithNFT(func(c *nftables.Conn) error {
			s, err := c.GetSetByName(meshTable(), setAssigned)
			if err != nil {
				return err
			}
			return errors.Join(c.SetAddElements(s, []nftables.SetElement{{Key: forged[:]}}), c.Flush())
		}); err != nil {
			return err
		}
		next := a.f.table.content
		next.assigned = map[[16]byte]bool{admitted: true}
		if err := a.f.table.set(next); err != nil {
			return err
		}
		found := table{nf: a.f.table.nf, content: content{assigned: map[[16]byte]bool{}}}
		if err := found.adopt(); err != nil {
			return err
		}
		if got := found.content.assigned; got[forged] || !got[admitted] || len(got) != 1 {
			t.Errorf("the table admits %d, the forged one: %v, the declared one: %v", len(got), got[forged], got[admitted])
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// dormant is `nft add table inet redoubt_mesh { flags dormant; }`, which the
// library cannot say.
func dormant() error {
	return exec.Command("nft", "add table inet "+tableName+" { flags dormant; }").Run()
}

func TestPortInUse(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	var taken net.PacketConn
	within(t, a.ns, func() (err error) { taken, err = net.ListenPacket("udp4", "0.0.0.0:51820"); return err })
	req := a.request(b)
	_, err := a.f.Declare(t.Context(), req)
	wantError(t, err, "UDP port 51820 is in use on this node")
	if d := a.state().GetDegraded(); !strings.Contains(d, "51820") {
		t.Errorf("degraded: %q", d)
	}
	taken.Close()
	// netd comes back to it by itself, and to the same declaration.
	a.waitFor("declared", func() bool { return a.state().GetDegraded() == "" })
	b.declare(b.request(a))
	l.overlays(4097)
	b.echo()
	a.reaches(b)
}

// The MTU is the underlay's less 80, larger or smaller, and follows it; what is
// too small for IPv6 in a container is refused.
func TestMTUFollowsTheUnderlay(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	set := func(mtu int) {
		routes(t, a.ns, func(h *netlink.Handle) error {
			u, err := h.LinkByName("u0")
			if err != nil {
				return err
			}
			return h.LinkSetMTU(u, mtu)
		})
	}
	set(minUnderlayMTU - 1)
	_, err := a.f.Declare(t.Context(), a.request(b))
	wantError(t, err, fmt.Sprintf("the MTU of the underlay is %d, the mesh needs %d", minUnderlayMTU-1, minUnderlayMTU))
	for _, mtu := range []int{9000, 1500, minUnderlayMTU} {
		set(mtu)
		a.waitFor(fmt.Sprintf("MTU %d", mtu-80), func() bool {
			s := a.state()
			return s.GetMtu() == uint32(mtu-80) && s.GetDegraded() == ""
		})
		within(t, a.ns, func() error {
			i, err := net.InterfaceByName(a.f.link)
			if err == nil && i.MTU != mtu-80 {
				t.Errorf("MTU %d of the interface, want %d", i.MTU, mtu-80)
			}
			return err
		})
	}
	set(1300)
	a.waitFor("degraded", func() bool { return strings.Contains(a.state().GetDegraded(), "1300") })
	if n := a.state().GetRepairs(); n != 0 {
		t.Errorf("%d repairs", n)
	}
}

// Cleanup leaves nothing; the table stands from the start until then.
func TestTheTableStandsFromStartToCleanup(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	there := func() (ok bool) {
		within(t, a.ns, func() error {
			return kernel.WithNFT(func(c *nftables.Conn) (err error) { ok, err = kernel.Exists(c, meshTable()); return err })
		})
		return ok
	}
	if !there() {
		t.Error("no table before the first declaration")
	}
	a.declare(a.request(b))
	driver := a.state().GetDriver()
	if p := a.f.Probe(); !p.GetPresent() || !strings.Contains(p.GetDetail(), driver+" driver in force, "+a.state().GetMode()) {
		t.Errorf("%v", p)
	}
	a.gen++
	if _, err := a.f.Declare(t.Context(), nothing(a.gen)); err != nil {
		t.Fatal(err)
	}
	if !there() {
		t.Error("no table after the last peer")
	}
	if p := a.f.Probe(); !p.GetPresent() || !strings.Contains(p.GetDetail(), map[string]string{driverKernel: "the kernel's", driverEmbedded: "wireguard-go inside netd, "}[driver]) {
		t.Errorf("%v", p)
	}
	a.declare(a.request(b))
	a.stop()
	if err := Cleanup(a.ns); err != nil {
		t.Fatal(err)
	}
	if there() {
		t.Error("the table is still there")
	}
	within(t, a.ns, func() error {
		links, err := net.Interfaces()
		for _, i := range links {
			if strings.HasPrefix(i.Name, "rdt") {
				t.Errorf("%s is still there", i.Name)
			}
		}
		return err
	})
	if err := Cleanup(a.ns); err != nil {
		t.Errorf("again: %v", err)
	}
}

// Nobody without the right attaches to the interface that a dead netd left.
func TestTheInterfaceIsNobodyElses(t *testing.T) {
	l := newLab(t, 1)
	a := l.nodes[0]
	a.declare(a.request())
	a.stop()
	err := kernel.InNetns(a.ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// This thread ends with the call; it gives its rights up first.
		if err := dropAll(); err != nil {
			return err
		}
		ifr, err := unix.NewIfreq(a.f.link)
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != unix.EPERM {
			return fmt.Errorf("attached by another user: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// dropAll makes the calling thread, and no other, an ordinary user's.
func dropAll() error {
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, errno := unix.RawSyscall(call, 39126, 39126, 39126); errno != 0 {
			return os.NewSyscallError("setres*id", errno)
		}
	}
	return nil
}
