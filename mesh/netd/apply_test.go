package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

func (w *world) errorOf(req *netdpb.ApplyRequest, task string) string {
	w.t.Helper()
	resp, err := w.n.Apply(context.Background(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range resp.GetResults() {
		if r.GetTaskId() == task {
			return r.GetError()
		}
	}
	w.t.Fatalf("no result for task %s", task)
	return ""
}

func TestProbeFindsAllHere(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	for _, f := range w.n.Probe() {
		if !f.GetPresent() {
			t.Errorf("%s: %s", f.GetName(), f.GetDetail())
		}
	}
	if after := w.snapshot(); after != before {
		t.Errorf("probing left something behind:\n%s\nbefore:\n%s", after, before)
	}
}

// snapshot lists what of netd's is in the node's namespace.
func (w *world) snapshot() (s string) {
	w.t.Helper()
	w.routes(w.node, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, l := range links {
			on, _ := forwards(l.Attrs().Name)
			s += fmt.Sprintln("link", l.Attrs().Name, "forwarding", on)
		}
		if err != nil {
			return err
		}
		return kernel.WithNFT(func(c *nftables.Conn) error {
			ts, err := c.ListTables()
			for _, t := range ts {
				s += fmt.Sprintln("table", t.Family, t.Name)
			}
			return err
		})
	})
	return s
}

func TestApplyIsIdempotent(t *testing.T) {
	w := newWorld(t)
	a := w.box(1, tcpPort(8080, 80))
	req := w.apply(a)
	gen, index := w.n.gen, w.linkIndex(a)
	for range 2 {
		w.mustApply(req)
	}
	w.apply(a)
	_, changes, err := w.n.reconcile(context.Background(), w.n.plan, true)
	if err != nil || len(changes) != 0 {
		t.Errorf("changes %q, err %v", changes, err)
	}
	if w.n.gen != gen || w.linkIndex(a) != index {
		t.Error("rules or interface were made again")
	}
	if s := w.n.State(); s.GetGeneration() != w.gen || s.GetRepairs() != 0 || len(s.GetEndpoints()) != 1 {
		t.Errorf("state %v", s)
	}
}

func (w *world) linkIndex(b box) (i int) {
	w.t.Helper()
	w.routes(w.node, func(h *netlink.Handle) error {
		l, err := h.LinkByName(portName(b.GetTaskId()))
		if err == nil {
			i = l.Attrs().Index
		}
		return err
	})
	return i
}

func TestGenerationGuard(t *testing.T) {
	w := newWorld(t)
	a, b := w.box(1), w.box(2)
	old := w.apply(a)
	cur := w.apply(a, b)
	other := proto.CloneOf(cur)
	other.Endpoints = other.Endpoints[:1]
	for want, req := range map[string]*netdpb.ApplyRequest{
		"older than 2":         old,
		"with another content": other,
		"generation is missing": {
			BridgeAddress: bridgeCIDR},
	} {
		if _, err := w.n.Apply(context.Background(), req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if s := w.n.State(); s.GetGeneration() != 2 || len(s.GetEndpoints()) != 2 {
		t.Errorf("state changed: %v", s)
	}
}

func TestRestartAdopts(t *testing.T) {
	w := newWorld(t)
	a := w.box(1, tcpPort(8080, 80))
	w.serve(a.ns, "tcp", "0.0.0.0:80")
	req := w.apply(a)
	index := w.linkIndex(a)
	w.n.Close()
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP) // while none runs
	w.n = w.start()
	w.mustApply(req)
	if w.linkIndex(a) != index {
		t.Error("the interface was made again")
	}
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
}

// Whatever step the process dies at, the same request makes the same state. Most of
// it is waiting for the kernel, so several nodes share the steps.
func TestKillAtEachStep(t *testing.T) {
	t.Parallel()
	const nodes = 6
	var steps atomic.Int32
	var all sync.WaitGroup
	for first := range nodes { // at once, however few processors there are
		all.Go(func() {
			t.Run(strconv.Itoa(first), func(t *testing.T) { steps.Add(killAtSteps(t, first, nodes)) })
		})
	}
	all.Wait()
	if n := steps.Load(); n < 30 {
		t.Errorf("only %d steps were interrupted", n)
	}
}

// killAtSteps interrupts at every n-th step, and returns how many that were.
func killAtSteps(t *testing.T, first, n int) (steps int32) {
	w := newWorld(t)
	a, b := w.box(1, tcpPort(8080, 80)), w.box(2, tcpPort(8081, 80))
	w.serve(a.ns, "tcp", "0.0.0.0:80")
	w.serve(b.ns, "tcp", "0.0.0.0:80")
	w.serve(w.outside, "tcp", "0.0.0.0:7000")
	for kill := first; ; kill += n {
		left := kill
		w.n.fault = func(step string) error {
			if left--; left < 0 {
				return fmt.Errorf("%w at %s", errInjected, step)
			}
			return nil
		}
		// From a alone to both, and from both to b, each interrupted.
		var injected bool
		for _, boxes := range [][]box{{a}, {a, b}, {b}} {
			_, err := w.n.Apply(context.Background(), w.request(boxes...))
			if err != nil && !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			injected = injected || err != nil
			// Never more than was asked for, in whatever state it is.
			if err != nil {
				if _, err := w.ask(b.ns, "tcp", a.ip+":80", 50*time.Millisecond); err == nil {
					t.Fatalf("step %d: containers reach each other", kill)
				}
			}
		}
		if !injected {
			return steps
		}
		steps++
		w.n.Close()
		w.n = w.start() // knows nothing
		w.apply(a, b)
		w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
		w.reaches(w.outside, "tcp", nodeIP+":8081", outsideIP)
		w.reaches(a.ns, "tcp", outsideIP+":7000", nodeIP)
		w.n.generation = 0
		w.mustApply(&netdpb.ApplyRequest{Generation: 1})
		w.n.Close()
		w.n = w.start()
	}
}

func TestRemoval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clean := w.snapshot()
	a, b := w.box(1, tcpPort(8080, 80)), w.box(2)
	w.apply(a, b)
	// An established connection through the published port.
	var l net.Listener
	w.in(a.ns, func() (err error) { l, err = net.Listen("tcp", "0.0.0.0:80"); return err })
	defer l.Close()
	var c net.Conn
	w.in(w.outside, func() (err error) { c, err = net.DialTimeout("tcp", nodeIP+":8080", deadline); return err })
	defer c.Close()
	w.apply(b)
	w.routes(w.node, func(h *netlink.Handle) error {
		flows, err := h.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, f := range flows {
			if f.Reverse.SrcIP.String() == a.ip {
				t.Errorf("the connection is still tracked: %v", f)
			}
		}
		if l, _ := kernel.FindLink(h, portName(a.GetTaskId())); l != nil {
			t.Error("the interface is still there")
		}
		return err
	})
	w.serve(w.node, "tcp", "0.0.0.0:8080") // free again

	w.gen++
	w.mustApply(&netdpb.ApplyRequest{Generation: w.gen}) // nothing is wanted
	if s := w.snapshot(); s != clean {
		t.Errorf("left behind:\n%s\nbefore:\n%s", s, clean)
	}
	w.apply(b)
	for range 2 {
		if err := Cleanup(w.node); err != nil {
			t.Fatal(err)
		}
		if s := w.snapshot(); s != clean {
			t.Errorf("left behind:\n%s\nbefore:\n%s", s, clean)
		}
	}
}

func TestPortInUse(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			w := newWorld(t)
			port := tcpPort(8080, 80)
			port.Udp = network == "udp"
			a := w.box(1, port)
			bind := func() (c interface{ Close() error }, err error) {
				err = kernel.InNetns(w.node, func() error {
					if network == "udp" {
						c, err = net.ListenPacket(network, ":8080")
					} else {
						c, err = net.Listen(network, ":8080")
					}
					return err
				})
				return c, err
			}
			c, err := bind()
			if err != nil {
				t.Fatal(err)
			}
			req := w.request(a)
			want := "port 8080/" + network + " is in use on this node"
			if got := w.errorOf(req, a.GetTaskId()); !strings.Contains(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
			w.in(w.node, func() error { // what netd asks where it cannot bind
				p, err := parsePort(port)
				if err != nil {
					return err
				}
				if used, err := hold.Listening(p.hold()); err != nil || !used {
					t.Errorf("diagnosis says %v, %v", used, err)
				}
				p.published++
				if used, err := hold.Listening(p.hold()); err != nil || used {
					t.Errorf("diagnosis of a free port says %v, %v", used, err)
				}
				return nil
			})
			c.Close()
			w.mustApply(req) // the same request works now
			if c, err := bind(); !errors.Is(err, unix.EADDRINUSE) {
				c.Close()
				t.Errorf("a process took the published port: %v", err)
			}
		})
	}
}

// A port moves from one task to its successor in one step.
func TestPortMoves(t *testing.T) {
	w := newWorld(t)
	a, b := w.box(1, tcpPort(8080, 80)), w.box(2, tcpPort(8080, 80, nodeIP))
	w.serve(b.ns, "tcp", "0.0.0.0:80")
	w.apply(a)
	req := w.request(b, a) // both: the one that has it keeps it
	if got := w.errorOf(req, b.GetTaskId()); !strings.Contains(got, "published already as 8080/tcp") {
		t.Errorf("got %q", got)
	}
	w.apply(b)
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
	if got := w.errorOf(w.request(b, w.box(3, tcpPort(9000, 1, "203.0.113.7"))), w.n.order[0]); got != "" {
		t.Errorf("got %q", got)
	}
	if got := w.n.results()[1].GetError(); !strings.Contains(got, "203.0.113.7 is no address of this node") {
		t.Errorf("got %q", got)
	}
}

func TestSandboxFile(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.runDir, "netns")
	make := func(fn func(path string) error) string {
		name := ident.New()
		if err := fn(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good := w.box(1)
	for want, name := range map[string]string{
		"does not exist":  ident.New(),
		"is no namespace": make(func(p string) error { return os.WriteFile(p, nil, 0o600) }),
		"open sandbox":    make(func(p string) error { return os.Symlink(good.GetNetns(), p) }),
		"the node's own": make(func(p string) error {
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				return err
			}
			t.Cleanup(func() { unix.Unmount(p, unix.MNT_DETACH) })
			return unix.Mount(w.node.Name(), p, "", unix.MS_BIND, "")
		}),
		"is no network": make(func(p string) error {
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				return err
			}
			t.Cleanup(func() { unix.Unmount(p, unix.MNT_DETACH) })
			return unix.Mount("/proc/self/ns/uts", p, "", unix.MS_BIND, "")
		}),
	} {
		b := w.box(2)
		b.Netns = name
		req := w.request(good, b)
		if got := w.errorOf(req, b.GetTaskId()); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := w.errorOf(req, good.GetTaskId()); got != "" {
			t.Errorf("the other endpoint: %s", got)
		}
	}
}

func TestBridgeConflicts(t *testing.T) {
	w := newWorld(t)
	req := w.request()
	req.BridgeAddress = "192.0.2.129/25"
	if _, err := w.n.Apply(context.Background(), req); err == nil || !strings.Contains(err.Error(), "overlaps 192.0.2.1/24 of up0") {
		t.Errorf("got %v", err)
	}
	w.routes(w.node, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, TxQLen: -1}, PeerName: "peer"})
	})
	if _, err := w.n.Apply(context.Background(), w.request()); err == nil || !strings.Contains(err.Error(), "is a veth") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkApply200(b *testing.B) {
	w := newWorld(b)
	var boxes []box
	for i := range 200 {
		boxes = append(boxes, w.box(i+1, tcpPort(uint32(20000+i), 80)))
	}
	for b.Loop() {
		w.apply(boxes...)
		b.StopTimer()
		w.apply()
		b.StartTimer()
	}
}
