package e2e

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMeshRemoved: worker-3 was stolen. It hears nobody any more, its WireGuard
// goes on, and it is on a network with two others. From `node revoke` on it has one
// second; the two others lose nothing. It is listed as revoked until `node rm`, and its
// certificate stands on a list that openssl reads.
func TestMeshRemoved(t *testing.T) {
	t.Parallel()
	c := up(t, "meshremoved", 1, 4)
	c.load()
	c.ok("manager-1", "network", "create", "back")
	c.populate("a back worker-1", "b back worker-2", "c back worker-3")
	w := []*meshHost{c.meshHost("worker-1"), c.meshHost("worker-2"), c.meshHost("worker-3")}
	_, people := c.overlay("back", w...)
	x := &removal{cluster: c, a: people["a"], b: people["b"], c: people["c"], ears: map[string]*ear{}}
	for name, p := range people {
		x.ears[name] = listen(t, name, p.ns)
	}
	agreed := []float64{c.metric("worker-1", "redoubt_mesh_exchanges_total"), c.metric("worker-2", "redoubt_mesh_exchanges_total")}

	x.talk("first ")
	for _, name := range []string{"c-a", "c-b", "a-c", "b-c", "a-b", "b-a"} {
		x.ears[name[2:]].waits("first "+name, 1, nil) // there are tunnels
	}
	x.stop()
	x.talk("")
	echoes := x.converse()

	// It hears nobody, as its redoubtd is stopped, and does not care.
	pid := c.daemons(w[2].host)["redoubtd"]
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
	thief := peerConfig((&attack{cluster: c}).stolen(t, "worker-3", "leaf"))
	eventually(t, 20*time.Second, func() string { // a connection that was made a moment ago has precedence
		if !c.welcome("worker-1", thief) {
			return "its leaf is not welcome at a peer's before it is removed: the test shows nothing"
		}
		return ""
	})

	chain := filepath.Join(c.host("worker-3").DataDir, "control", "leaf")
	c.onLists(chain, "before it is revoked", false)
	id := c.nodeID("worker-3")
	issued := time.Now()
	c.ok("manager-1", "node", "revoke", "worker-3")
	returned := time.Now()
	eventually(t, 20*time.Second, func() string {
		for _, name := range []string{"c-a", "c-b", "a-c", "b-c"} {
			if last := x.last(name); time.Since(last) < time.Second {
				return fmt.Sprintf("%s arrived %v ago", name, time.Since(last))
			}
		}
		return ""
	})
	silent := time.Now()
	for i, name := range []string{"worker-1", "worker-2"} {
		eventually(t, 20*time.Second, func() string {
			if now := c.metric(name, "redoubt_mesh_exchanges_total"); now <= agreed[i] {
				return fmt.Sprintf("%s has agreed on pre-shared keys %v times, as before the removal", name, now)
			}
			return ""
		})
	}
	for _, name := range []string{"worker-1", "worker-2", "manager-1"} {
		if c.welcome(name, thief) {
			t.Errorf("its leaf is still welcome at %s", name)
		}
	}
	t.Logf("new pre-shared keys %v after the command", time.Since(returned).Round(time.Millisecond))
	x.quiet()
	for _, name := range []string{"c-a", "c-b", "a-c", "b-c"} {
		last := x.last(name)
		t.Logf("%s: the last arrived %v after `node revoke` was given, %v after it ended", name, last.Sub(issued).Round(time.Millisecond), last.Sub(returned).Round(time.Millisecond))
		if last.After(silent) {
			t.Errorf("%s: something arrived again, %v after `node revoke` ended", name, last.Sub(returned))
		}
	}
	for _, name := range []string{"a-b", "b-a"} {
		sent, seen := x.sent[name], x.ears[name[2:]].seen[name]
		t.Logf("%s: %d of %d arrived", name, seen, sent)
		if seen != sent {
			t.Errorf("%s: %d of %d arrived: the others lost something", name, seen, sent)
		}
	}
	c.onLists(chain, "revoked", true)
	if r := c.on("manager-1", "node", "ls", "--filter", "state=revoked", "-q"); strings.TrimSpace(r.stdout) != id {
		t.Errorf("revoked are: %v", r)
	}
	c.ok("manager-1", "node", "rm", id)
	if r := c.on("manager-1", "node", "ls", "-q"); strings.Contains(r.stdout, id) {
		t.Errorf("it was removed, and is listed: %v", r)
	}
	c.onLists(chain, "removed", true)
	answers, longest := echoes()
	t.Logf("one connection of theirs: %d answers, the slowest after %v", answers, longest.Round(time.Microsecond))

	// The CA that issued it is replaced, and signs no list any more.
	issuing, err := x509.ParseCertificate(c.keptChain(chain)[1])
	if err != nil {
		t.Fatal(err)
	}
	c.ok("manager-1", "ca", "rotate")
	c.onLists(chain, "after its issuing CA was replaced", true)
	if !c.listed(issuing.SerialNumber) {
		t.Error("the issuing CA of before is not on the root's list")
	}
	c.onLists(filepath.Join(c.host("worker-1").DataDir, "control", "leaf"), "of one that stays", false)
}

type removal struct {
	*cluster
	a, b, c *inhabitant
	ears    map[string]*ear

	stop func()
	sent map[string]int // after stop
}

// talk has everybody send to everybody, every two milliseconds, until stop.
// The marks begin with a word.
func (x *removal) talk(word string) {
	ctx, cancel := context.WithCancel(x.t.Context())
	x.sent = map[string]int{}
	var wg sync.WaitGroup
	people := []*inhabitant{x.a, x.b, x.c}
	outs := map[string]*wire{}
	for _, p := range people {
		outs[p.name] = openWire(x.t, p.ns, "ov0")
	}
	wg.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, from := range people {
				for _, to := range people {
					if from != to {
						name := from.name + "-" + to.name
						outs[from.name].send(ipFrame(gatewayMAC, from.mac, datagram(from, to, mark(word+name))))
						x.sent[name]++
					}
				}
			}
		}
	})
	x.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	x.t.Cleanup(x.stop)
}

// quiet ends talk, and waits for what is under way between those who stay.
func (x *removal) quiet() {
	x.stop()
	for _, way := range [][2]*inhabitant{{x.a, x.b}, {x.b, x.a}} {
		from, to := way[0], way[1]
		out, end := openWire(x.t, from.ns, "ov0"), "end "+from.name+"-"+to.name
		x.ears[to.name].waits(end, 1, func() { out.send(ipFrame(gatewayMAC, from.mac, datagram(from, to, mark(end)))) })
	}
}

// last is when the last one arrived.
func (x *removal) last(name string) time.Time {
	e := x.ears[name[2:]]
	e.hear()
	return e.last[name]
}

// converse has a talk with b on one connection of TCP, and returns what ends that
// and says how often a was answered, and how long it waited at most.
func (x *removal) converse() (end func() (answers int, longest time.Duration)) {
	t := x.t
	t.Helper()
	var l net.Listener
	var conn net.Conn
	within(t, x.b.ns, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(x.b.a4, 7070).String())
		return err
	})
	within(t, x.a.ns, func() (err error) {
		conn, err = net.Dial("tcp", l.Addr().String())
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	})
	var answers int
	var longest time.Duration
	stop := make(chan struct{})
	wg.Go(func() {
		defer conn.Close()
		buf := make([]byte, 64)
		for {
			select {
			case <-stop:
				return
			default:
			}
			at := time.Now()
			conn.SetDeadline(at.Add(10 * time.Second))
			if _, err := conn.Write(buf); err != nil {
				t.Errorf("the connection of the others broke: %v", err)
				return
			}
			if _, err := io.ReadFull(conn, buf); err != nil {
				t.Errorf("the connection of the others broke: %v", err)
				return
			}
			answers, longest = answers+1, max(longest, time.Since(at))
		}
	})
	halt := sync.OnceFunc(func() { close(stop); l.Close(); wg.Wait() })
	t.Cleanup(halt)
	return func() (int, time.Duration) { halt(); return answers, longest }
}

// metric is one of a host's, without labels.
func (c *cluster) metric(host, name string) float64 {
	c.t.Helper()
	out, err := exec.Command("curl", "-sf", "--max-time", "5", "--unix-socket", filepath.Join(c.host(host).RunDir, "metrics.sock"), "http://node/metrics").Output()
	if err != nil {
		c.t.Fatalf("%s gives no metrics: %v", host, err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			v, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				c.t.Fatal(err)
			}
			return v
		}
	}
	c.t.Fatalf("%s has no metric %s", host, name)
	return 0
}
