package netd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds what must happen; silence is how long a test listens for what
// must not.
const (
	deadline = 20 * time.Second
	silence  = 500 * time.Millisecond
)

const (
	bridgeCIDR = "172.29.0.1/24"
	gatewayIP  = "172.29.0.1"
	nodeIP     = "192.0.2.1"
	outsideIP  = "192.0.2.9"
	otherIP    = "198.51.100.9"
)

// A world is a node, a host outside on its first network, another host on its
// second, and sandboxes; all of them network namespaces of this test.
//
//	outside 192.0.2.9 ── 192.0.2.1 node 198.51.100.1 ── 198.51.100.9 other
//	                       172.29.0.1
//	                 172.29.0.2 … sandboxes
type world struct {
	t                    testing.TB
	runDir               string
	node, outside, other *os.File
	n                    *Node
	gen                  uint64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, runDir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(w.runDir, "netns"), 0o711); err != nil {
		t.Fatal(err)
	}
	_, w.node = w.newNetns()
	_, w.outside = w.newNetns()
	_, w.other = w.newNetns()
	w.wire("up0", nodeIP+"/24", w.outside, outsideIP+"/24")
	w.wire("up1", "198.51.100.1/24", w.other, otherIP+"/24")
	w.in(w.node, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) })
	w.n = w.start()
	return w
}

// newNetns makes a namespace and pins it as rund does.
func (w *world) newNetns() (name string, f *os.File) {
	w.t.Helper()
	name = ident.New()
	path := filepath.Join(w.runDir, "netns", name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	f, err := os.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { f.Close() })
	w.routes(f, func(h *netlink.Handle) error { return setLinkUp(h, "lo") })
	return name, f
}

func setLinkUp(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetUp(l)
}

func (w *world) in(ns *os.File, fn func() error) {
	w.t.Helper()
	if err := kernel.InNetns(ns, fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) routes(ns *os.File, fn func(h *netlink.Handle) error) {
	w.t.Helper()
	if err := kernel.WithRoutes(ns, fn, unix.NETLINK_NETFILTER); err != nil {
		w.t.Fatal(err)
	}
}

// wire connects the node with a host.
func (w *world) wire(name, addr string, host *os.File, hostAddr string) {
	w.t.Helper()
	address := func(h *netlink.Handle, link, cidr string) error {
		l, err := h.LinkByName(link)
		if err != nil {
			return err
		}
		if _, err := kernel.OnlyAddress(h, l, netip.MustParsePrefix(cidr)); err != nil {
			return err
		}
		return h.LinkSetUp(l)
	}
	w.routes(w.node, func(h *netlink.Handle) error {
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, PeerName: "eth0",
			PeerNamespace: netlink.NsFd(int(host.Fd()))}); err != nil {
			return err
		}
		return address(h, name, addr)
	})
	w.routes(host, func(h *netlink.Handle) error {
		if err := address(h, "eth0", hostAddr); err != nil {
			return err
		}
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: netip.MustParsePrefix(addr).Addr().AsSlice()})
	})
}

// start makes a netd of the node, as a new process would.
func (w *world) start() *Node {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(logWriter{w.t}, nil))
	n, err := New(Options{RunDir: w.runDir, Netns: w.node, Logger: log})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { n.Close() })
	return n
}

type logWriter struct{ t testing.TB }

func (l logWriter) Write(b []byte) (int, error) {
	if _, bench := l.t.(*testing.B); !bench {
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// A box is a sandbox and the endpoint declared for it.
type box struct {
	*netdpb.Endpoint
	ns *os.File
	ip string
}

// box makes the i-th sandbox, 172.29.0.<i+1>.
func (w *world) box(i int, ports ...*netdpb.PublishedPort) box {
	w.t.Helper()
	name, ns := w.newNetns()
	ip := fmt.Sprintf("172.29.0.%d", i+1)
	return box{&netdpb.Endpoint{TaskId: name, Netns: name, Mac: fmt.Sprintf("02:00:00:00:00:%02x", i),
		Address: ip + "/24", Ports: ports}, ns, ip}
}

func tcpPort(published, target uint32, host ...string) *netdpb.PublishedPort {
	return &netdpb.PublishedPort{Published: published, Target: target, HostIp: strings.Join(host, "")}
}

func udpPort(published, target uint32) *netdpb.PublishedPort {
	return &netdpb.PublishedPort{Published: published, Target: target, Udp: true}
}

// request declares the boxes under the next generation.
func (w *world) request(boxes ...box) *netdpb.ApplyRequest {
	w.gen++
	req := &netdpb.ApplyRequest{Generation: w.gen, BridgeAddress: bridgeCIDR}
	for _, b := range boxes {
		req.Endpoints = append(req.Endpoints, b.Endpoint)
	}
	return req
}

// apply declares the boxes; all must be attached.
func (w *world) apply(boxes ...box) *netdpb.ApplyRequest {
	w.t.Helper()
	req := w.request(boxes...)
	w.mustApply(req)
	return req
}

func (w *world) mustApply(req *netdpb.ApplyRequest) {
	w.t.Helper()
	resp, err := w.n.Apply(context.Background(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range resp.GetResults() {
		if r.GetError() != "" {
			w.t.Fatalf("task %s: %s", r.GetTaskId(), r.GetError())
		}
	}
}

// serve answers each connection, or each datagram, with the address it came
// from.
func (w *world) serve(ns *os.File, network, addr string) {
	w.t.Helper()
	var closer io.Closer
	done := make(chan struct{})
	w.in(ns, func() error {
		if network == "udp" {
			pc, err := net.ListenPacket(network, addr)
			if err != nil {
				return err
			}
			closer = pc
			go func() {
				defer close(done)
				buf := make([]byte, 64)
				for {
					_, from, err := pc.ReadFrom(buf)
					if err != nil {
						return
					}
					pc.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		closer = l
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.SetDeadline(time.Now().Add(deadline))
				io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
				c.Close()
			}
		}()
		return nil
	})
	w.t.Cleanup(func() { closer.Close(); <-done })
}

// ask connects and returns the address the other side saw.
func (w *world) ask(ns *os.File, network, addr string, patience time.Duration) (saw string, err error) {
	err = kernel.InNetns(ns, func() error {
		c, err := net.DialTimeout(network, addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 64)
		k, err := c.Read(buf)
		saw = string(buf[:k])
		return err
	})
	return saw, err
}

func (w *world) reaches(ns *os.File, network, addr, as string) {
	w.t.Helper()
	saw, err := w.ask(ns, network, addr, deadline)
	if err != nil {
		w.t.Errorf("%s %s: %v", network, addr, err)
	} else if as != "" && saw != as {
		w.t.Errorf("%s %s saw %s, want %s", network, addr, saw, as)
	}
}

func (w *world) cannotReach(ns *os.File, network, addr string) {
	w.t.Helper()
	if saw, err := w.ask(ns, network, addr, silence); err == nil {
		w.t.Errorf("%s %s was reached (as %s)", network, addr, saw)
	}
}
