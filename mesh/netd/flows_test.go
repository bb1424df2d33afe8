package netd

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// echo serves connections until the other side closes.
func (w *world) echo(ns *os.File, addr string) {
	w.t.Helper()
	var l net.Listener
	w.in(ns, func() (err error) { l, err = net.Listen("tcp", addr); return err })
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(3 * deadline))
				for buf := make([]byte, 1); ; {
					if _, err := c.Read(buf); err != nil {
						return
					}
					c.Write(buf)
				}
			})
		}
	})
	w.t.Cleanup(func() { l.Close(); all.Wait() })
}

// open connects and leaves the connection open until the test ends.
func (w *world) open(ns *os.File, addr string, patience time.Duration) (c net.Conn, err error) {
	err = kernel.InNetns(ns, func() (err error) { c, err = net.DialTimeout("tcp", addr, patience); return err })
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(2 * deadline))
	}
	return c, err
}

func answers(c net.Conn) error {
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// tracked counts the node's entries of connections that began at addr.
func (w *world) tracked(addr string) (count int) {
	w.t.Helper()
	w.routes(w.node, func(h *netlink.Handle) error {
		all, err := h.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, f := range all {
			if f.Forward.SrcIP.String() == addr {
				count++
			}
		}
		return err
	})
	return count
}

func TestOpenConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 8
	w := newWorld(t)
	w.n.bounds = flowBounds{open: most, rate: 1000, burst: 1000}
	a, b := w.box(1, tcpPort(8080, 80)), w.box(2, tcpPort(8081, 80))
	w.apply(a, b)
	w.echo(w.outside, "0.0.0.0:7000")
	for _, x := range []box{a, b} {
		w.serve(x.ns, "tcp", "0.0.0.0:80")
	}
	var held []net.Conn
	for i := range most {
		c, err := w.open(a.ns, outsideIP+":7000", deadline)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		held = append(held, c)
	}
	full := func() {
		t.Helper()
		for _, addr := range []string{outsideIP + ":7000", nodeIP + ":8081"} {
			if _, err := w.open(a.ns, addr, silence); err == nil {
				t.Errorf("one connection more was opened, to %s", addr)
			}
		}
		if got := w.tracked(a.ip); got != most {
			t.Errorf("the node tracks %d connections, want %d", got, most)
		}
		for i, c := range held {
			if err := answers(c); err != nil {
				t.Errorf("connection %d, which stood: %v", i, err)
			}
		}
	}
	full()
	// The node, other containers, and ways in are not concerned.
	if _, err := w.open(w.node, outsideIP+":7000", deadline); err != nil {
		t.Errorf("the node's own: %v", err)
	}
	if _, err := w.open(b.ns, outsideIP+":7000", deadline); err != nil {
		t.Errorf("another container's: %v", err)
	}
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
	// What was counted is not forgotten when the rules are replaced.
	w.apply(a, b, w.box(3))
	full()
	// One that was closed makes room.
	held[0].Close()
	for until := time.Now().Add(deadline); ; {
		c, err := w.open(a.ns, outsideIP+":7000", silence)
		if err == nil {
			if err := answers(c); err != nil {
				t.Error(err)
			}
			break
		}
		if time.Now().After(until) {
			t.Fatal("a closed connection is counted for ever")
		}
	}
}

// The rate bounds connections, not packets: one flow that is never answered
// goes on.
func TestNewConnectionsAreBoundedInRate(t *testing.T) {
	const burst = 10
	w := newWorld(t)
	w.n.bounds = flowBounds{open: 1000, rate: 1, burst: burst}
	a := w.box(1)
	w.apply(a)
	var sink net.PacketConn
	w.in(w.outside, func() (err error) { sink, err = net.ListenPacket("udp", "0.0.0.0:7000"); return err })
	defer sink.Close()
	send := func(packets int, text string) {
		w.in(a.ns, func() error {
			c, err := net.Dial("udp", outsideIP+":7000")
			if err != nil {
				return err
			}
			defer c.Close()
			for range packets {
				if _, err := c.Write([]byte(text)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	// received reads until it has enough, and then what comes in a silence more.
	received := func(enough func(seen map[string]int) bool) map[string]int {
		seen, buf := map[string]int{}, make([]byte, 64)
		for {
			wait := silence
			if !enough(seen) {
				wait = 20 * time.Second
			}
			sink.SetReadDeadline(time.Now().Add(wait))
			k, _, err := sink.ReadFrom(buf)
			if err != nil {
				return seen
			}
			seen[string(buf[:k])]++
		}
	}
	started := time.Now()
	send(100, "one flow")
	if got := received(func(seen map[string]int) bool { return seen["one flow"] == 100 })["one flow"]; got != 100 {
		t.Errorf("%d packets of one flow arrived, want all", got)
	}
	for i := range 100 {
		send(1, fmt.Sprint(i))
	}
	seen := received(func(seen map[string]int) bool { return len(seen) >= burst-1 })
	if most := burst + 2 + int(time.Since(started).Seconds()); len(seen) < burst-1 || len(seen) > most {
		t.Errorf("%d new flows arrived, want %d to %d", len(seen), burst-1, most)
	}
}

// A kernel that cannot count gets the other rules, and it is said.
func TestBoundsAreNotRequired(t *testing.T) {
	w := newWorld(t)
	saved := features
	defer func() { features = saved }()
	features = append([]feature(nil), saved...)
	for i := range features {
		if features[i].name == featureFlows {
			features[i].try = func(*netlink.Handle, *kernel.Netfilter) error { return unix.ENOENT }
		}
	}
	for _, f := range w.n.Probe() {
		if f.GetName() == featureFlows && (f.GetRequired() || f.GetPresent() || f.GetDetail() == "") {
			t.Errorf("%v", f)
		}
	}
	a := w.box(1)
	w.apply(a)
	w.serve(w.outside, "tcp", "0.0.0.0:7000")
	w.reaches(a.ns, "tcp", outsideIP+":7000", nodeIP)
	w.in(w.node, func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error {
			if there, err := kernel.Exists(c, flows()); err != nil || there {
				t.Errorf("the table was made (%v)", err)
			}
			return nil
		})
	})
}
