package overlay

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// toldOf sends a datagram and returns what an error of ICMP says of it, and who.
func (b *box) toldOf(addr string, payload int, prepare func(c *net.UDPConn) error) (errno unix.Errno, who net.IP, info uint32, err error) {
	v6 := net.ParseIP(addr).To4() == nil
	err = kernel.InNetns(b.ns, func() error {
		c, err := net.Dial("udp", net.JoinHostPort(addr, "9"))
		if err != nil {
			return err
		}
		defer c.Close()
		u := c.(*net.UDPConn)
		raw, err := u.SyscallConn()
		if err != nil {
			return err
		}
		level, option := unix.IPPROTO_IP, unix.IP_RECVERR
		if v6 {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		}
		var set error
		raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, 1) })
		if err := errors.Join(set, prepare(u)); err != nil {
			return err
		}
		if _, err := u.Write(make([]byte, payload)); err != nil {
			return err
		}
		u.SetReadDeadline(time.Now().Add(deadline))
		if _, err := u.Read(make([]byte, 1)); errors.Is(err, unix.ETIMEDOUT) || err == nil {
			return err
		}
		var read error
		raw.Control(func(fd uintptr) {
			oob := make([]byte, 512)
			var n int
			if _, n, _, _, read = unix.Recvmsg(int(fd), make([]byte, 1), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT); read != nil {
				return
			}
			messages, e := unix.ParseSocketControlMessage(oob[:n])
			read = e
			for _, m := range messages {
				if m.Header.Type != int32(option) || len(m.Data) < 16+8 {
					continue
				}
				// struct sock_extended_err, and the address of who sent it.
				errno = unix.Errno(uint32(m.Data[0]) | uint32(m.Data[1])<<8)
				info = uint32(m.Data[8]) | uint32(m.Data[9])<<8
				who = net.IP(m.Data[16+4 : 16+8])
				if v6 && len(m.Data) >= 16+24 {
					who = net.IP(m.Data[16+8 : 16+24])
				}
			}
		})
		return read
	})
	return errno, who, info, err
}

// What the namespace of another node has to say of a packet comes back, as from
// the gateway: that its time is over, and that it is too big there.
func TestErrorsOfOtherNodesArrive(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	w := l.network(1)
	from, to := w.box(l.nodes[0], 2), w.box(l.nodes[1], 3)
	to.serve()
	l.declare(w)
	from.reaches(to)
	for i, gateway := range []string{w.four(1), w.six(1)} {
		errno, who, _, err := from.toldOf(to.addrs[i], 10, func(c *net.UDPConn) error {
			if i == 0 {
				return ipv4.NewConn(c).SetTTL(2)
			}
			return ipv6.NewConn(c).SetHopLimit(2)
		})
		if err != nil || errno != unix.EHOSTUNREACH || who.String() != gateway {
			t.Errorf("after two steps to %s: %v of %v (%v), want %v of %s", to.addrs[i], errno, who, err, unix.EHOSTUNREACH, gateway)
		}
	}
}

// Datagrams of any size go from node to node, in fragments where they have to; one
// that is not to be divided, and fits here but not there, comes back with what
// fits; and TCP notices nothing. Nodes whose ways have different MTUs are as good.
func TestSizes(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	w := l.network(1)
	from, to := w.box(a, 2), w.box(b, 3)
	l.declare(w)
	for _, x := range []*box{from, to} {
		x.echo()
	}
	all := func(when string) {
		for _, way := range [][2]*box{{from, to}, {to, from}} {
			for _, addr := range way[1].addrs {
				for _, size := range []int{1, 1300, 1342, 1400, 4000, 60000} {
					if err := way[0].echoed("udp", addr, size); err != nil {
						t.Errorf("%s: %d bytes to %s: %v", when, size, addr, err)
					}
				}
				if err := way[0].echoed("tcp", addr, 1<<20); err != nil {
					t.Errorf("%s: TCP to %s: %v", when, addr, err)
				}
			}
		}
	}
	all("the same MTU")

	const narrow = 1450
	links(t, b.ns, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		return h.RouteReplace(&netlink.Route{LinkIndex: u.Attrs().Index, Dst: netOf(netip.MustParsePrefix("192.0.2.0/24")),
			Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL, Src: net.ParseIP(b.under()), MTU: narrow})
	})
	const fits = narrow - 80 - vxlanOverhead
	b.waitFor("the MTU", func() bool { return b.state().GetNetworks()[0].GetMtu() == fits })
	for i, gateway := range []string{w.four(1), w.six(1)} {
		headers := 28 + 20*i
		errno, who, info, err := from.toldOf(to.addrs[i], fits+10-headers, func(c *net.UDPConn) error {
			raw, err := c.SyscallConn()
			if err != nil {
				return err
			}
			level, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
			if i == 1 {
				level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
			}
			var set error
			raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_DO) })
			return set
		})
		if err != nil || errno != unix.EMSGSIZE || who.String() != gateway || info != fits {
			t.Errorf("too big for %s: %v of %v, %d fit (%v); want %v of %s, %d", to.addrs[i], errno, who, info, err, unix.EMSGSIZE, gateway, fits)
		}
	}
	all("another MTU over there")
}

// echo sends back whatever comes.
func (b *box) echo() {
	t := b.lane.lab.t
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	within(t, b.ns, func() (err error) {
		if l, err = net.Listen("tcp", ":7"); err == nil {
			p, err = net.ListenPacket("udp", ":7")
		}
		return err
	})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(2 * deadline))
				io.Copy(c, c)
			})
		}
	})
	running.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() { l.Close(); p.Close(); running.Wait() })
}

// echoed sends that many bytes and fails unless they come back.
func (b *box) echoed(network, addr string, size int) error {
	return kernel.InNetns(b.ns, func() error {
		c, err := net.DialTimeout(network, net.JoinHostPort(addr, "7"), deadline)
		if err != nil {
			return err
		}
		defer c.Close()
		sent, got := make([]byte, size), make([]byte, size)
		rand.Read(sent)
		// One of many fragments may be dropped for want of room; that is UDP's.
		for until := time.Now().Add(deadline); ; {
			c.SetDeadline(time.Now().Add(deadline))
			wrote := make(chan error, 1)
			go func() { _, err := c.Write(sent); wrote <- err }()
			if network == "udp" {
				c.SetReadDeadline(time.Now().Add(time.Second))
			}
			_, err := io.ReadFull(c, got)
			if e := <-wrote; e != nil && !errors.Is(e, unix.EMSGSIZE) {
				return e
			}
			if err == nil && !bytes.Equal(sent, got) {
				return errors.New("other bytes came back")
			}
			if err == nil || network == "tcp" || time.Now().After(until) {
				return err
			}
		}
	})
}
