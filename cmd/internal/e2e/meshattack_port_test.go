package e2e

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	wires "github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
	"github.com/redoubt-cluster/redoubt/pki"
)

// flood: strangers' handshakes, and what only looks like one, do not end what
// goes on.
func (f *siege) flood() {
	t, me, w1 := f.t, f.stranger, f.w1
	there := f.speaks(f.web, f.db)
	random := make([]byte, 4096)
	rand.Read(random)
	var sent atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := uint32(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// The four kinds of message in their sizes, from everywhere.
			n := []int{148, 92, 64, 32, 1400}[i%5]
			p := append([]byte{byte(i%4) + 1, 0, 0, 0}, random[i%1024:][:n-4]...)
			binary.BigEndian.PutUint32(p[8:], i)
			from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			me.out.send(ipFrame(w1.mac, me.out.mac, udp(from, w1.under, uint16(i)|1024, f.tunnelPort, p)))
			sent.Add(1)
		}
	}()
	eventually(t, 20*time.Second, func() string {
		there(mark("amid a flood"))
		if n := sent.Load(); n < 20_000 {
			return fmt.Sprintf("%d packets were sent", n)
		}
		return ""
	})
	f.ears["db"].waits("at the end of a flood", 1, func() { there(mark("at the end of a flood")) })
	close(stop)
	<-done
	t.Logf("%d false handshakes and packets, and the tunnel went on", sent.Load())
}

// peersPort: nobody but a peer is heard at port 7946, and a peer about itself.
func (f *siege) peersPort() {
	t := f.t
	a := &attack{cluster: f.cluster}
	w2, w3 := a.stolen(t, "worker-2", "leaf"), a.stolen(t, "worker-3", "leaf")
	refused := f.metric("worker-1", "redoubt_mesh_refused_total")
	for name, x := range map[string]struct {
		host string
		cfg  *tls.Config
	}{
		"nobody":                          {"worker-1", anyone(nil, peersProtocol)},
		"a boot leaf":                     {"worker-1", anyone(a.stolen(t, "manager-1", "boot"), peersProtocol)},
		"a peer, in another protocol":     {"worker-1", anyone(w2, "h2")},
		"a peer, in none":                 {"worker-1", anyone(w2)},
		"a worker that is no peer":        {"worker-2", anyone(w3, peersProtocol)},
		"a worker that is no peer either": {"worker-3", anyone(w2, peersProtocol)},
		"a worker, at a manager":          {"manager-1", anyone(w3, peersProtocol)},
	} {
		if f.welcome(x.host, x.cfg) {
			t.Errorf("%s is welcome at %s", name, x.host)
		}
	}
	if now := f.metric("worker-1", "redoubt_mesh_refused_total"); now < refused+4 {
		t.Errorf("%v of 4 are counted", now-refused)
	}
	f.lies(w3)
	f.halfOpen()
}

// asPeer is a connection to a node's peers' port that has announced a key.
func (f *siege) asPeer(host string, creds *pki.Credentials) *tls.Conn {
	t := f.t
	t.Helper()
	var conn *tls.Conn
	eventually(t, 20*time.Second, func() string { // one that was made a moment ago has precedence
		raw, err := net.DialTimeout("tcp", net.JoinHostPort(f.host(host).Address, peersPort), 10*time.Second)
		if err != nil {
			return err.Error()
		}
		conn = tls.Client(raw, peerConfig(creds))
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		var hello peerpb.Frame
		if err := wires.ReadUpTo(conn, &hello, 1<<20); err != nil || hello.GetAnnounce() == nil {
			conn.Close()
			return fmt.Sprintf("a peer is not welcome at %s: %v", host, err)
		}
		return ""
	})
	t.Cleanup(func() { conn.Close() })
	key := make([]byte, 32)
	rand.Read(key)
	err := wires.Write(conn, &peerpb.Frame{Message: &peerpb.Frame_Announce{Announce: &peerpb.Announce{Keys: &peerpb.Keys{Current: key}, ListenPort: 51820}}})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// lies: worker-3 says of others' tasks that they serve no more.
func (f *siege) lies(w3 *pki.Credentials) {
	t := f.t
	real := f.daemons(f.w3.host)["redoubtd"] // who took its leaf speaks in its place
	if err := syscall.Kill(real, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(real, syscall.SIGCONT)
	conn := f.asPeer("worker-1", w3)
	before := f.statements()
	self, w2, number := w3.Identity().NodeID, f.nodeID("worker-2"), uint64(time.Now().UnixNano())
	say := func(n *overlayNet, node, signed string, tasks ...*inhabitant) {
		s := &peerpb.Statement{Network: n.id, Boot: number, Sequence: 1, Made: time.Now().UnixMilli()}
		number++
		for _, p := range tasks {
			id, ok := ident.Bytes(p.task)
			if !ok {
				t.Fatalf("%s is no id", p.task)
			}
			s.Withdrawn = append(s.Withdrawn, id[:]...)
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		chain, signature, err := w3.Say(lp.Append(lp.Append([]byte("redoubt endpoints v1\x00"), []byte(signed)), b))
		if err == nil {
			err = wires.Write(conn, &peerpb.Frame{Message: &peerpb.Frame_Said{Said: &peerpb.Said{Node: node, Statement: b, Signature: signature, Chain: chain}}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	say(f.other, "", self, f.in)                   // another's task, as its own
	say(f.back, "", self, f.web)                   // on a network that it is not on
	say(f.back, w2, w2, f.db)                      // in the name of one that is
	say(f.other, w2, w2, f.far)                    // of one that is not on the network
	say(f.other, f.nodeID("worker-1"), self, f.in) // in the name of whom it speaks to
	say(f.other, ident.New(), self, f.in, f.web)   // of nobody
	if err := wires.Write(conn, &peerpb.Frame{Message: &peerpb.Frame_Said{Said: &peerpb.Said{Statement: make([]byte, 100)}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() string {
		now := f.statements()
		if n := now["foreign"] + now["forged"] + now["malformed"] - before["foreign"] - before["forged"] - before["malformed"]; n < 6 || now["heard"] <= before["heard"] {
			return fmt.Sprintf("of six lies and what it may say of itself %v were refused, then %v", n, now)
		}
		return ""
	})
	for _, x := range [][2]*inhabitant{{f.db, f.web}, {f.pal, f.db}, {f.in, f.in}} {
		from, to := x[0], x[1]
		r := run(t, nil, "lab", "exec", "--name", f.name, from.host.Name, "--", "nsenter", "--net="+from.host.RunDir+"/netns/"+from.task, "--",
			"curl", "-sS", "--max-time", "5", "http://"+to.net.vip[to.name].String()+"/")
		if r.code != 0 {
			t.Errorf("worker-3 lied, and %s is gone from its virtual address: %v", to.name, r)
		}
	}
}

// statements are worker-1's counts of what nodes say, by what became of it.
func (f *siege) statements() map[string]float64 {
	out := map[string]float64{}
	for _, result := range []string{"heard", "foreign", "forged", "malformed"} {
		out[result] = f.metric("worker-1", fmt.Sprintf("redoubt_mesh_statements_total{result=%q}", result))
	}
	return out
}

// halfOpen: while strangers hold as many connections as they get, a node whose
// netd was killed makes new keys with its peers.
func (f *siege) halfOpen() {
	t := f.t
	garbage := make([]byte, 2000)
	rand.Read(garbage)
	var open int
	within(t, f.stranger.ns, func() error {
		for i := range 400 {
			fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { syscall.Close(fd) })
			to := f.w1.under
			if i%2 == 1 {
				to = f.w2.under
			}
			if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: 7946, Addr: to.As4()}); err != nil && err != syscall.EINPROGRESS {
				return err
			}
			if i%4 > 1 {
				syscall.Write(fd, garbage)
			}
			open++
		}
		return nil
	})
	pid := f.daemons(f.w2.host)["redoubt-netd"]
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() string {
		if f.daemons(f.w2.host)["redoubt-netd"] == pid {
			return "netd is not started again"
		}
		return ""
	})
	at := time.Now()
	there, back := f.speaks(f.web, f.db), f.speaks(f.db, f.web)
	f.ears["db"].waits("amid strangers", 1, func() { there(mark("amid strangers")) })
	f.ears["web"].waits("amid strangers", 1, func() { back(mark("amid strangers")) })
	t.Logf("with %d strangers at the door new keys were made within %v", open, time.Since(at).Round(time.Millisecond))
}
