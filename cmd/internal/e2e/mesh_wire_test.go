package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
)

// within runs f on a thread in a network namespace; "" is this process's own.
// Sockets that it opens stay there.
func within(t *testing.T, ns string, f func() error) {
	t.Helper()
	if err := onThreadIn(ns, f); err != nil {
		t.Fatalf("in %s: %v", ns, err)
	}
}

// onThreadIn throws the thread away afterwards. It is never the main one, whose
// namespaces are taken for those of the process.
func onThreadIn(ns string, f func() error) error {
	if ns == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			err := onThreadIn(ns, f) // elsewhere, as this thread is held
			runtime.UnlockOSThread()
			done <- err
			return
		}
		there, err := netns.GetFromPath(ns)
		if err == nil {
			err = netns.Set(there)
			there.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}

// allFrames is ETH_P_ALL in the order of the network.
const allFrames = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8

// A wire is one interface of a namespace, to which frames are written past all
// rules there, as root of that namespace can.
type wire struct {
	t     *testing.T
	fd    int
	index int
	mac   net.HardwareAddr
}

func openWire(t *testing.T, ns, link string) *wire {
	t.Helper()
	w := &wire{t: t}
	within(t, ns, func() error {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		w.index, w.mac = l.Index, l.HardwareAddr
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// send writes a whole frame.
func (w *wire) send(frame []byte) {
	w.t.Helper()
	to := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(frame[12:]), Ifindex: w.index, Halen: 6}
	if err := unix.Sendto(w.fd, frame, 0, to); err != nil {
		w.t.Fatalf("send a frame: %v", err)
	}
}

// sendIP writes a packet to an interface whose frames have addresses that nobody
// reads, as those of the mesh have.
func (w *wire) sendIP(p []byte) {
	w.t.Helper()
	w.send(ipFrame(make([]byte, 6), make([]byte, 6), p))
}

// mark is a text that a frame carries so that it is known wherever it arrives.
func mark(name string) []byte { return []byte("<<" + name + ">>") }

var marks = regexp.MustCompile(`<<([^<>]+)>>`)

// An ear counts the marks that arrive in a namespace, on any of its interfaces,
// before any rule there is asked. What the namespace itself sends is not
// counted.
type ear struct {
	t    *testing.T
	name string
	fd   int
	buf  []byte
	seen map[string]int
	last map[string]time.Time // by the kernel's clock
	// keep, if not nil, is shown every frame.
	keep func(frame []byte)
}

func listen(t *testing.T, name, ns string) *ear {
	t.Helper()
	return listenAt(t, name, ns, "")
}

// listenAt has an ear on one interface alone; "": on all.
func listenAt(t *testing.T, name, ns, link string) *ear {
	t.Helper()
	e := &ear{t: t, name: name, buf: make([]byte, 1<<16), seen: map[string]int{}, last: map[string]time.Time{}}
	within(t, ns, func() (err error) {
		if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		at := &unix.SockaddrLinklayer{Protocol: allFrames}
		if link != "" {
			l, err := net.InterfaceByName(link)
			if err != nil {
				return err
			}
			at.Ifindex = l.Index
		}
		return errors.Join(unix.Bind(e.fd, at), unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
			unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
	})
	t.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// hear takes in what has arrived.
func (e *ear) hear() {
	e.t.Helper()
	oob := make([]byte, 128)
	for {
		n, k, _, from, err := unix.Recvmsg(e.fd, e.buf, oob, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			if st, err := unix.GetsockoptTpacketStats(e.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || st.Drops > 0 {
				e.t.Errorf("%s: %d frames were not looked at (%v)", e.name, st.Drops, err)
			}
			return
		case errors.Is(err, unix.ENETDOWN): // an interface of many went
			continue
		case err != nil:
			e.t.Fatalf("%s: %v", e.name, err)
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if e.keep != nil {
			e.keep(e.buf[:n])
		}
		for _, m := range marks.FindAllSubmatch(e.buf[:n], -1) {
			e.seen[string(m[1])]++
			e.last[string(m[1])] = stamp(oob[:k])
		}
	}
}

// stamp is when the kernel received a packet.
func stamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if err == nil && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Time{}
}

// waits fails the test where a mark does not arrive n times; resend, if not nil,
// is called before each look.
func (e *ear) waits(name string, n int, resend func()) {
	e.t.Helper()
	eventually(e.t, 20*time.Second, func() string {
		if resend != nil {
			resend()
		}
		if e.hear(); e.seen[name] < n {
			return fmt.Sprintf("%s has seen %q %d times, want %d", e.name, name, e.seen[name], n)
		}
		return ""
	})
}

// A stranger is a machine on the wire between the hosts that is none of them.
type stranger struct {
	t    *testing.T
	ns   string
	addr netip.Addr
	out  *wire
}

// stranger plugs a machine into the lab's switch. It goes with the test.
func (c *cluster) stranger(last byte) *stranger {
	t := c.t
	t.Helper()
	l, err := lab.Open(c.name)
	if err != nil {
		t.Fatal(err)
	}
	a := l.Gateway().As4()
	a[3] = last
	s := &stranger{t: t, addr: netip.AddrFrom4(a)}
	var held *os.File
	if err := onThreadIn("/proc/self/ns/net", func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			held, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() }) // its interface goes with it
	s.ns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), held.Fd())
	br, err := netlink.LinkByName(l.Bridge())
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = fmt.Sprintf("rdtl%d-s%d", l.Number, last), br.Attrs().Index
	outer := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(held.Fd()))}
	if err := errors.Join(netlink.LinkAdd(outer), netlink.LinkSetUp(outer)); err != nil {
		t.Fatalf("plug in a stranger: %v", err)
	}
	within(t, s.ns, func() error {
		for _, name := range []string{"lo", "eth0"} {
			link, err := netlink.LinkByName(name)
			if err == nil && name == "eth0" {
				err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: s.addr.AsSlice(), Mask: net.CIDRMask(24, 32)}})
			}
			if err == nil {
				err = netlink.LinkSetUp(link)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	s.out = openWire(t, s.ns, "eth0")
	return s
}

// hostNS is a host's network namespace.
func (c *cluster) hostNS(name string) string { return "/run/netns/rdt-" + c.name + "-" + name }

// macOf is an interface's MAC in a namespace.
func macOf(t *testing.T, ns, link string) (mac net.HardwareAddr) {
	t.Helper()
	within(t, ns, func() error {
		l, err := net.InterfaceByName(link)
		if err == nil {
			mac = slices.Clone(l.HardwareAddr)
		}
		return err
	})
	return mac
}

// meshLink is the name of a host's WireGuard interface.
func (c *cluster) meshLink(host string) string {
	c.t.Helper()
	fields := strings.Fields(c.ok(host, "status"))
	if i := slices.Index(fields, "Mesh:"); i >= 0 && i+2 < len(fields) {
		return strings.TrimSuffix(fields[i+2], ",")
	}
	c.t.Fatalf("%s says nothing of its mesh", host)
	return ""
}
