package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// realFabric is netd's, in the process of the test.
type realFabric struct {
	mu sync.Mutex
	f  *fabric.Fabric
	ns *os.File
	t  testing.TB
	// stop ends it as the end of a process does.
	stop func()
}

func (r *realFabric) get() *fabric.Fabric { r.mu.Lock(); defer r.mu.Unlock(); return r.f }

func (r *realFabric) Declare(ctx context.Context, req *netdpb.FabricRequest) (*netdpb.FabricResponse, error) {
	return r.get().Declare(ctx, req)
}
func (r *realFabric) Rotate(ctx context.Context) (*netdpb.FabricRotateResponse, error) {
	return r.get().Rotate(ctx)
}
func (r *realFabric) Prove(_ context.Context, req *netdpb.FabricProveRequest) (*netdpb.FabricProveResponse, error) {
	return r.get().Prove(req)
}
func (r *realFabric) State(context.Context) (*netdpb.FabricStateResponse, error) {
	return r.get().State()
}

func (r *realFabric) start() {
	r.t.Helper()
	f, err := fabric.New(fabric.Options{Netns: r.ns})
	if err == nil {
		err = f.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.f = f
	r.stop = sync.OnceFunc(func() { cancel(); <-ended; f.Close() })
	r.t.Cleanup(r.stop)
}

// within runs fn on a thread in that network namespace.
func within(t testing.TB, ns *os.File, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends here
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func newNetns(t testing.TB) (f *os.File) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// links configures the end of a veth and lo.
func links(address string) error {
	for name, cidr := range map[string]string{"lo": "", "u0": address} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if cidr != "" {
			a, err := netlink.ParseAddr(cidr)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	return nil
}

type realNode struct {
	*Peers
	fabric *realFabric
	ns     *os.File
	view   View
}

// realPair is two nodes in namespaces of their own with netd's own fabric, connected
// by a cable.
func realPair(t *testing.T) [2]*realNode {
	ca := pkitest.New(t)
	var out [2]*realNode
	spaces := [2]*os.File{newNetns(t), newNetns(t)}
	within(t, spaces[0], func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "u0"}, PeerName: "u0", PeerNamespace: netlink.NsFd(int(spaces[1].Fd()))})
	})
	for i, ns := range spaces {
		under := fmt.Sprintf("192.0.2.%d", i+1)
		creds := ca.NewNode(t, profilepb.Role_ROLE_WORKER).Credentials
		x := &realNode{ns: ns, fabric: &realFabric{ns: ns, t: t},
			view: View{ID: creds.Identity().NodeID, Mesh: netip.AddrFrom4([4]byte{198, 18, 0, byte(i + 1)}), Underlay: under + ":7946"}}
		var l net.Listener
		within(t, ns, func() (err error) {
			if err = links(under + "/24"); err == nil {
				l, err = net.Listen("tcp", x.view.Underlay)
			}
			return err
		})
		x.fabric.start()
		p, err := New(Options{ID: x.view.ID, TLS: creds, Netd: x.fabric, Listener: l, RotateEvery: -1, Port: 51820,
			Logger: slog.New(slog.NewTextHandler(testWriter{t, i + 1}, &slog.HandlerOptions{Level: slog.LevelDebug})), look: 50 * time.Millisecond,
			dial: func(ctx context.Context, address string) (c net.Conn, err error) {
				done := make(chan struct{})
				go func() {
					defer close(done)
					runtime.LockOSThread()
					if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
						c, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
					}
				}()
				<-done
				return c, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		x.Peers = p
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		})
		out[i] = x
	}
	return out
}

// until polls for what a kernel does in its own time.
func until(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ; time.Since(began) < 2*deadline; <-tick.C {
		if ok() {
			return time.Since(began)
		}
	}
	t.Fatalf("%s: not within %s", what, deadline)
	return 0
}

// The real thing: two nodes find each other, a connection through their tunnel goes
// on while pre-shared keys and the key of a node change, and after a restart of
// netd, without anybody's help.
func TestRealFabric(t *testing.T) {
	pair := realPair(t)
	a, b := pair[0], pair[1]
	for i, x := range pair {
		if err := x.Set(netip.PrefixFrom(x.view.Mesh, 15), []View{pair[1-i].view}); err != nil {
			t.Fatal(err)
		}
	}
	shook := func(x *realNode) bool {
		s := x.State()
		return len(s.Peers) == 1 && s.Peers[0].Declared && s.Peers[0].Handshake >= 0 && len(s.Degraded) == 0
	}
	t.Logf("from Set to the first handshake: %s", until(t, "a handshake", func() bool { return shook(a) && shook(b) }).Round(time.Millisecond))

	// The mesh's table lets nothing through the tunnel but VXLAN.
	c := overlay(t, a, b)
	defer c.Close()
	say := func(what string) time.Duration {
		t.Helper()
		began := time.Now()
		c.SetDeadline(began.Add(2 * deadline))
		b := []byte("hello")
		if _, err := c.Write(b); err == nil {
			_, err = c.Read(b)
			if err != nil {
				t.Fatalf("%s: the connection was lost: %v", what, err)
			}
		}
		return time.Since(began)
	}
	say("at first")
	for _, x := range []*realNode{a, b} {
		epoch := x.State().Peers[0].Epoch
		x.Renew()
		worst := time.Duration(0)
		until(t, "a new pre-shared key", func() bool {
			worst = max(worst, say("while the pre-shared key changes"))
			return a.State().Peers[0].Epoch > epoch && b.State().Peers[0].Epoch == a.State().Peers[0].Epoch
		})
		t.Logf("pre-shared key changed: the longest exchange took %s", worst.Round(100*time.Microsecond))
		was := string(x.State().PublicKey)
		if err := x.RotateKey(); err != nil {
			t.Fatal(err)
		}
		worst = 0
		took := until(t, "a new key", func() bool {
			worst = max(worst, say("while the key changes"))
			return string(x.State().PublicKey) != was && shook(x)
		})
		t.Logf("key changed in %s: the longest exchange took %s", took.Round(time.Millisecond), worst.Round(100*time.Microsecond))
		x.fabric.stop()
		x.fabric.start()
		began := time.Now()
		say("while netd is started anew")
		t.Logf("netd was started anew: the connection goes on after %s", time.Since(began).Round(time.Millisecond))
		until(t, "a handshake", func() bool { return shook(a) && shook(b) })
	}
}
