package rules

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// dialFrom connects from a port of the caller's choice.
func (b *box) dialFrom(from uint16, to netip.AddrPort, patience time.Duration) (c net.Conn, failed error) {
	b.node.lab.t.Helper()
	within(b.node.lab.t, b.ns, func() error {
		d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: int(from)}, Control: func(_, _ string, raw syscall.RawConn) (err error) {
			raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return err
		}}
		c, failed = d.DialContext(context.Background(), "tcp", to.String())
		return nil
	})
	if failed == nil {
		b.node.lab.t.Cleanup(func() { c.Close() })
	}
	return c, failed
}

// first is a packet that begins: SYN of TCP, or INIT of SCTP.
func first(from, to netip.AddrPort, l4 byte, text string) []byte {
	if l4 == unix.IPPROTO_TCP {
		const syn = 1 << 1
		return segment(from, to, syn, text)
	}
	const header, chunk, init = 12, 20, 1
	b := make([]byte, header+chunk, header+chunk+len(text))
	binary.BigEndian.PutUint16(b, from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	b[header], b[header+7] = init, 1 // a tag of its own
	binary.BigEndian.PutUint16(b[header+2:], uint16(chunk+len(text)))
	b = append(b, text...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return ip(from.Addr(), to.Addr(), l4, b)
}

// Where little is allowed, who is called begins nothing in a flow that he does not
// answer: not to the port that he was called from, unless a rule lets him.
func TestWhoIsCalledCallsNobody(t *testing.T) {
	t.Parallel()
	l, a, b, c := policyLab(t)
	asks := []Rule{{ID: "p/0", From: []string{"a"}, To: []string{"b", "c"}, First: 82, Last: 82, Proto: unix.IPPROTO_TCP},
		{ID: "p/1", From: []string{"a"}, To: []string{"b", "c"}, First: 82, Last: 82, Proto: unix.IPPROTO_SCTP}}
	a.serve(23)
	for _, n := range l.nodes {
		within(t, n.ns, func() error {
			_, err := kernel.SetSysctl("1", "netfilter/nf_conntrack_tcp_be_liberal") // as if they knew the numbers
			return err
		})
	}
	hear := a.ear()
	// From the node's own port and from the uplink, for the node of who began enforces it.
	for _, called := range []*box{b, c} {
		for _, v6 := range []bool{false, true} {
			at := func(x *box, port uint16) netip.AddrPort {
				if v6 {
					return netip.AddrPortFrom(x.addr6, port)
				}
				return netip.AddrPortFrom(x.addr4, port)
			}
			blackhole := func(do func(h *netlink.Handle, r *netlink.Route) error) {
				t.Helper()
				routes(t, called.ns, func(h *netlink.Handle) error {
					return do(h, &netlink.Route{Dst: single(at(a, 0).Addr()), Type: unix.RTN_BLACKHOLE})
				})
			}
			kind := uint16(unix.ETH_P_IP)
			if v6 {
				kind = unix.ETH_P_IPV6
			}
			calls := func(l4 byte, from uint16) {
				t.Helper()
				a.sends(frame(a.mac, portMAC, kind, first(at(a, from), at(called, 82), l4, "")))
			}
			l.net.Rules = asks
			l.set()
			for _, l4 := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_SCTP} {
				blackhole((*netlink.Handle).RouteAdd) // it answers nothing
				calls(l4, 22)
				called.sends(frame(called.mac, portMAC, kind, first(at(called, 82), at(a, 22), l4, canary)))
				if hear.hears(1, silence, endsIn(canary)) > 0 {
					t.Errorf("protocol %d: a first packet of %v arrives at where it was called from", l4, at(called, 82))
				}
				blackhole((*netlink.Handle).RouteDel)
			}
			blackhole((*netlink.Handle).RouteAdd)
			calls(unix.IPPROTO_TCP, 23)
			blackhole((*netlink.Handle).RouteDel)
			if _, err := called.dialFrom(82, at(a, 23), silence); !isTimeout(err) {
				t.Errorf("%v calls %v, by taking a call for its own: %v", at(called, 82), at(a, 23), err)
			}
			// With a rule for it, it may.
			l.net.Rules = append([]Rule{{ID: "q/0", From: []string{"b", "c"}, To: []string{"a"}, First: 24, Last: 24, Proto: unix.IPPROTO_TCP}}, asks...)
			l.set()
			blackhole((*netlink.Handle).RouteAdd)
			calls(unix.IPPROTO_TCP, 24)
			called.sends(frame(called.mac, portMAC, kind, first(at(called, 82), at(a, 24), unix.IPPROTO_TCP, canary)))
			if hear.hears(1, deadline, endsIn(canary)) == 0 {
				t.Errorf("a first packet of %v does not arrive where a rule lets it", at(called, 82))
			}
			blackhole((*netlink.Handle).RouteDel)
		}
	}
}
