package rules

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// serve answers on TCP and UDP port: a line with the task's name and who called,
// then for TCP every line again.
func (b *box) serve(port int) {
	t := b.node.lab.t
	t.Helper()
	for _, network := range []string{"4", "6"} {
		within(t, b.ns, func() error {
			ln, err := net.Listen("tcp"+network, fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			pc, err := net.ListenPacket("udp"+network, fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			done := make(chan struct{}, 2)
			go func() { b.serveTCP(ln); done <- struct{}{} }()
			go func() { b.serveUDP(pc); done <- struct{}{} }()
			t.Cleanup(func() { ln.Close(); pc.Close(); <-done; <-done })
			return nil
		})
	}
}

func (b *box) serveTCP(ln net.Listener) {
	var flows sync.WaitGroup
	var open []net.Conn
	for {
		c, err := ln.Accept()
		if err != nil {
			break
		}
		open = append(open, c)
		flows.Go(func() {
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s %s\n", b.task, host)
			io.Copy(c, c)
			c.Close()
		})
	}
	for _, c := range open {
		c.Close()
	}
	flows.Wait()
}

func (b *box) serveUDP(pc net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		host, _, _ := net.SplitHostPort(from.String())
		pc.WriteTo(fmt.Appendf(nil, "%s %s\n", b.task, host), from)
	}
}

// A flow is a client's connection.
type flow struct {
	net.Conn
	r      *bufio.Reader
	server string // task that answered
	client string // address it saw
}

// dial connects and reads who answers.
func (b *box) dial(network string, to netip.Addr, port int, patience time.Duration) (f *flow, err error) {
	t := b.node.lab.t
	err = kernel.InNetns(b.ns, func() error {
		d := net.Dialer{Timeout: patience}
		c, err := d.DialContext(t.Context(), network, netip.AddrPortFrom(to, uint16(port)).String())
		if err != nil {
			return err
		}
		f = &flow{Conn: c, r: bufio.NewReader(c)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { f.Close() })
	if network == "udp" {
		return f, f.ask(patience)
	}
	return f, f.answer(patience)
}

// answer reads the line that says who answers.
func (f *flow) answer(patience time.Duration) error {
	f.SetReadDeadline(time.Now().Add(patience))
	line, err := f.r.ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &f.server, &f.client)
	}
	return err
}

// ask sends once more in a flow of UDP.
func (f *flow) ask(patience time.Duration) error {
	// A box that was made a moment ago may not have its IPv6 address yet.
	for until := time.Now().Add(patience); ; {
		if _, err := f.Write([]byte("?")); err != nil {
			return err
		}
		err := f.answer(min(patience, time.Second))
		if err == nil || time.Now().After(until) || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// works reports whether a line comes back in a flow of TCP.
func (f *flow) works(patience time.Duration) error {
	f.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(f, "line\n"); err != nil {
		return err
	}
	line, err := f.r.ReadString('\n')
	if err == nil && line != "line\n" {
		err = fmt.Errorf("%q came back", line)
	}
	return err
}

// reaches fails unless the destination answers.
func (b *box) reaches(network string, to netip.Addr, port int) *flow {
	t := b.node.lab.t
	t.Helper()
	f, err := b.dial(network, to, port, deadline)
	if err != nil {
		t.Fatalf("%s → %s %s port %d: %v", b.task, network, to, port, err)
	}
	return f
}

// silent fails if there is an answer of any kind.
func (b *box) silent(network string, to netip.Addr, port int) {
	t := b.node.lab.t
	t.Helper()
	_, err := b.dial(network, to, port, silence)
	if !isTimeout(err) {
		t.Errorf("%s → %s %s port %d: %v, want no answer", b.task, network, to, port, err)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// flows are the tracked ones of a node that have the address at an end.
func (l *lab) flows(n *node, a netip.Addr) (count int) {
	l.t.Helper()
	routes(l.t, n.ns, func(h *netlink.Handle) error {
		family := netlink.InetFamily(unix.AF_INET)
		if a.Is6() {
			family = unix.AF_INET6
		}
		all, err := h.ConntrackTableList(netlink.ConntrackTable, family)
		for _, f := range all {
			if addrFrom(f.Forward.SrcIP) == a || addrFrom(f.Reverse.SrcIP) == a {
				count++
			}
		}
		return err
	})
	return count
}

// refused fails unless it is refused, and at once.
func (b *box) refused(network string, to netip.Addr, port int) {
	t := b.node.lab.t
	t.Helper()
	if _, err := b.dial(network, to, port, deadline); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s → %s %s port %d: %v, want a refusal", b.task, network, to, port, err)
	}
}

// echoes reports whether the address answers ICMP echo.
func (b *box) echoes(to netip.Addr, patience time.Duration) bool {
	t := b.node.lab.t
	t.Helper()
	ok := false
	err := kernel.InNetns(b.ns, func() error {
		family, proto, kind := unix.AF_INET, unix.IPPROTO_ICMP, byte(8)
		var dest unix.Sockaddr = &unix.SockaddrInet4{Addr: as4(to)}
		if to.Is6() {
			family, proto, kind = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128
			dest = &unix.SockaddrInet6{Addr: to.As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		m := []byte{kind, 0, 0, 0, 0x12, 0x34, 0, 1, 'c', 'a', 'n', 'a', 'r', 'y'}
		if family == unix.AF_INET {
			sum := checksum(m)
			m[2], m[3] = byte(sum>>8), byte(sum)
		}
		if err := unix.Sendto(fd, m, 0, dest); err != nil {
			return err
		}
		buf := make([]byte, 1500)
		for end := time.Now().Add(patience); time.Now().Before(end); {
			tv := unix.NsecToTimeval(max(time.Until(end).Nanoseconds(), 1000))
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
			n, err := unix.Read(fd, buf)
			if err != nil {
				continue
			}
			reply := buf[:n]
			if family == unix.AF_INET {
				reply = reply[20:]
			}
			if reply[0] == map[bool]byte{true: 0, false: 129}[family == unix.AF_INET] && strings.HasSuffix(string(reply), "canary") {
				ok = true
				return nil
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return ok
}

func as4(a netip.Addr) (b [4]byte) {
	if a.Is4() {
		b = a.As4()
	}
	return b
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		if i+1 < len(b) {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		} else {
			sum += uint32(b[i]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Everything that a network is there for, in both families.
func TestEndpointsAndVirtualAddresses(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b, c := l.nodes[0].box("a"), l.nodes[0].box("b"), l.nodes[1].box("b")
	l.service("a")
	v4, v6 := l.service("b")
	l.set()
	for _, x := range []*box{a, b, c} {
		x.serve(80)
	}
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []*box{b, c} {
			for _, addr := range []netip.Addr{to.addr4, to.addr6} {
				f := a.reaches(network, addr, 80)
				if from := map[bool]netip.Addr{true: a.addr4, false: a.addr6}[addr.Is4()]; f.server != to.task || f.client != from.String() {
					t.Errorf("%s %s: answered by %s, which saw %s", network, addr, f.server, f.client)
				}
			}
		}
		for _, vip := range []netip.Addr{v4, v6} {
			got := map[string]int{}
			for range 40 {
				got[a.reaches(network, vip, 80).server]++
			}
			// The odds of fewer than 4 of 40 are 1 in 10⁷.
			if got[b.task] < 4 || got[c.task] < 4 || len(got) != 2 {
				t.Errorf("%s %s: %v, want about as much of both", network, vip, got)
			}
		}
	}
	for _, addr := range []netip.Addr{v4, v6, gateway4, gateway6, b.addr4, b.addr6, c.addr4, c.addr6} {
		if !a.echoes(addr, deadline) {
			t.Errorf("%s does not answer echo", addr)
		}
	}
	for _, n := range l.nodes {
		if _, dropped := n.counters(); dropped[droppedSpoofed]+dropped[droppedUplink]+dropped[droppedPolicy]+dropped[droppedStray]+dropped[droppedInvalid] > 0 {
			t.Errorf("node %d: %v", n.i, dropped)
		}
	}
}

func addrFrom(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
