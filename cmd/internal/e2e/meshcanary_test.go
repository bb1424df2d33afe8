package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
)

// TestMeshCanary: canaries cross an overlay without pause, from before there is a
// tunnel on, while everything that makes it dies and changes its keys. On the
// wire of every host each frame is looked at: no canary, no VXLAN.
func TestMeshCanary(t *testing.T) {
	t.Parallel()
	c := up(t, "meshcanary", 3, 2)
	c.load()
	l, err := lab.Open(c.name)
	if err != nil {
		t.Fatal(err)
	}
	x := &aviary{cluster: c, ears: map[string]*ear{}, outs: map[string]*wire{}, seen: map[string]int{}}
	cables := map[string]string{}
	for _, h := range l.Hosts {
		cables[h.Name] = fmt.Sprintf("rdtl%d-%d", l.Number, h.Number)
		x.watch(h.Name, cables[h.Name])
	}
	c.ok("manager-1", "network", "create", "--ipv6", "back")
	c.populate("web back worker-1", "db back worker-2")
	w1, w2 := c.meshHost("worker-1"), c.meshHost("worker-2")
	_, people := c.overlay("back", w1, w2)
	x.web, x.db = people["web"], people["db"]
	for _, p := range people {
		x.settle(p)
	}
	x.fly()
	x.cross("the start")
	c.ok("manager-1", "node", "rotate-mesh-key", "worker-1", "worker-2")
	x.cross("the change of both keys")

	x.kill("netd of a node", w1, "redoubt-netd")
	x.kill("netd of both nodes", w1, "redoubt-netd", w2, "redoubt-netd")
	x.kill("redoubtd of both nodes", w1, "redoubtd", w2, "redoubtd")
	x.kill("rund and named", w2, "redoubt-rund", w2, "redoubt-named")
	leader := c.leader("manager-1")
	c.lab("stop", leader)
	x.cross("the leader's end")
	x.kill("netd of both nodes after that", w2, "redoubt-netd", w1, "redoubt-netd")
	c.inHost("worker-1", "ip", "link", "delete", w1.link)
	x.cross("the end of the WireGuard interface")
	eventually(t, 30*time.Second, func() string { // its session may be on its way to the new leader
		if r := c.on(c.survivor(leader), "node", "rotate-mesh-key", "worker-2"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	x.cross("another change of a key")
	c.lab("start", "--unlock", leader)
	x.supervisor(w2)
	x.reboot(w1, w2, cables["worker-1"])
	x.check()
}

// survivor is a manager that is not that one.
func (c *cluster) survivor(gone string) string {
	if gone == "manager-1" {
		return "manager-2"
	}
	return "manager-1"
}

// An aviary is what lets canaries fly, and counts those that got out.
type aviary struct {
	*cluster
	web, db *inhabitant
	wires   []*ear           // at the hosts' cables
	ears    map[string]*ear  // of web and db
	outs    map[string]*wire // of web and db

	mu    sync.Mutex // guards the above and the following once they fly
	phase string
	seen  map[string]int // on the cables: what kind of frame
	stop  func()
}

// watch looks at every frame that a host sends.
func (x *aviary) watch(host, link string) (frames *int) {
	frames = new(int)
	e := listenAt(x.t, "the cable of "+host, "", link)
	e.keep = func(frame []byte) {
		*frames++
		if _, ok := wireguardOf(frame); ok {
			x.seen["tunnel"]++
		}
		if len(frame) >= 42 && binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IP && frame[23] == unix.IPPROTO_UDP {
			if head := 14 + int(frame[14]&15)*4; len(frame) >= head+4 && binary.BigEndian.Uint16(frame[head+2:]) == vxlanPort {
				x.seen["VXLAN"]++
			}
		}
	}
	x.wires = append(x.wires, e)
	return frames
}

// settle lets canaries fly from an inhabitant, and arrive there.
func (x *aviary) settle(p *inhabitant) {
	p.silence(x.t)
	x.ears[p.name], x.outs[p.name] = listen(x.t, p.name, p.ns), openWire(x.t, p.ns, "ov0")
}

// fly sends a canary each way every few milliseconds, of both families, until stop.
func (x *aviary) fly() {
	t := x.t
	stop, done := make(chan struct{}), make(chan struct{})
	x.phase = "the start"
	go func() {
		defer close(done)
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			x.mu.Lock()
			m := mark("canary of " + x.phase)
			web, db := x.outs["web"], x.outs["db"]
			web.try(ipFrame(gatewayMAC, x.web.mac, datagram(x.web, x.db, m)))
			db.try(ipFrame(gatewayMAC, x.db.mac, datagram(x.db, x.web, m)))
			web.try(ipFrame(gatewayMAC, x.web.mac, udp(x.web.a6, x.db.a6, 7001, 7001, m)))
			if n%16 == 0 {
				for _, e := range x.wires {
					e.hear()
				}
			}
			x.mu.Unlock()
		}
	}()
	x.stop = sync.OnceFunc(func() { close(stop); <-done })
	t.Cleanup(x.stop)
}

// try is send for an interface that may be away for a moment.
func (w *wire) try(frame []byte) {
	to := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(frame[12:]), Ifindex: w.index, Halen: 6}
	if err := unix.Sendto(w.fd, frame, 0, to); err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.ENOBUFS) {
		w.t.Errorf("send a canary: %v", err)
	}
}

// cross waits until canaries that were sent from now on arrive at both.
func (x *aviary) cross(phase string) {
	x.t.Helper()
	at := time.Now()
	x.mu.Lock()
	x.phase = phase
	x.mu.Unlock()
	name := "canary of " + phase
	eventually(x.t, 40*time.Second, func() string {
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, e := range x.ears {
			if e.hear(); e.seen[name] < 5 {
				return fmt.Sprintf("%d canaries of %s arrived at %s", e.seen[name], phase, e.name)
			}
		}
		return ""
	})
	x.t.Logf("after %s they crossed again within %v", phase, time.Since(at).Round(time.Millisecond))
}

// kill ends daemons, host and name by turns, all at once.
func (x *aviary) kill(phase string, who ...any) {
	x.t.Helper()
	o := &overlayStory{cluster: x.cluster}
	for i := 0; i < len(who); i += 2 {
		o.kill(who[i].(*meshHost).host, who[i+1].(string))
	}
	x.cross("the end of " + phase)
}

// supervisor kills a node's redoubt-node, with which all its daemons end, and
// starts it again.
func (x *aviary) supervisor(of *meshHost) {
	x.t.Helper()
	(&overlayStory{cluster: x.cluster}).kill(of.host, "redoubt-node")
	eventually(x.t, 20*time.Second, func() string {
		if left := x.daemons(of.host); len(left) > 0 {
			return fmt.Sprintf("still there: %v", left)
		}
		return ""
	})
	x.lab("start", of.Name)
	x.cross("the end of a supervisor")
}

// reboot has web's machine lose its power: its links, rules, namespaces and
// containers are gone. What it sends is looked at from its first frame on.
func (x *aviary) reboot(of, other *meshHost, cable string) {
	t := x.t
	t.Helper()
	x.lab("kill", "--containers", of.Name)
	plugged, stop := make(chan netlink.LinkUpdate, 100), make(chan struct{})
	defer close(stop)
	if err := netlink.LinkSubscribe(plugged, stop); err != nil {
		t.Fatal(err)
	}
	started := make(chan result, 1)
	go func() { started <- run(t, nil, "lab", "start", "--name", x.name, of.Name) }()
	for u := range plugged {
		if u.Link.Attrs().Name == cable {
			break
		}
	}
	x.mu.Lock()
	frames := x.watch(of.Name, cable)
	again := x.wires[len(x.wires)-1]
	x.mu.Unlock()
	if r := <-started; r.code != 0 {
		t.Fatal(r)
	}
	was := x.web.task
	eventually(t, time.Minute, func() string {
		for _, task := range x.tasks("manager-1", "web") {
			if task.State == "running" && task.ID != was {
				return ""
			}
		}
		return fmt.Sprintf("web does not run again: %v", x.tasks("manager-1", "web"))
	})
	_, people := x.overlay("back", x.meshHost(of.Name), x.meshHost(other.Name)) // supervisors are others now
	x.mu.Lock()
	x.web = people["web"]
	x.settle(x.web)
	x.mu.Unlock()
	x.cross("the end of a machine")

	// None went by before the ear was there.
	b, err := os.ReadFile("/sys/class/net/" + cable + "/statistics/rx_packets")
	if err != nil {
		t.Fatal(err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	sent, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || sent == 0 {
		t.Errorf("%s has sent %d frames since it was started (%v)", of.Name, sent, err)
	}
	// A frame is counted before the kernel hands it to those who listen.
	eventually(t, 10*time.Second, func() string {
		if again.hear(); *frames < sent {
			return fmt.Sprintf("%s had sent %d frames since it was started, %d were looked at", of.Name, sent, *frames)
		}
		return ""
	})
}

// check fails where anything was to be read on a cable, or nothing was looked at.
func (x *aviary) check() {
	t := x.t
	x.stop()
	// What is in clear is seen.
	within(t, x.web.host.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, mark("a sparrow"), 0, &unix.SockaddrInet4{Port: 9, Addr: x.db.host.under.As4()})
	})
	crossed, sparrows, canaries := 0, 0, 0
	for _, e := range x.wires {
		e.hear()
		sparrows += e.seen["a sparrow"]
		for name, n := range e.seen {
			if strings.HasPrefix(name, "canary of ") {
				canaries += n
				t.Errorf("%s: %d times %q in clear", e.name, n, name)
			}
		}
	}
	for _, e := range x.ears {
		e.hear()
		for _, n := range e.seen {
			crossed += n
		}
	}
	t.Logf("%d canaries crossed; on the cables: %d of them, %d frames of VXLAN, %d packets of tunnels, %d sparrows", crossed, canaries, x.seen["VXLAN"], x.seen["tunnel"], sparrows)
	if x.seen["VXLAN"] > 0 {
		t.Errorf("%d frames of VXLAN were on the cables in clear", x.seen["VXLAN"])
	}
	if sparrows == 0 || x.seen["tunnel"] == 0 {
		t.Error("what is there to be seen was not seen: nobody looked")
	}
}
