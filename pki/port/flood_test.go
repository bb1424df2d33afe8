package port

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

// from dials as 127.x.y.z: another source each.
func from(i int) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(i>>8), byte(i)|1)}, Timeout: patience}
}

// TestTenThousandHalfOpen: 10,000 connections from hundreds of sources that say
// nothing, or half a ClientHello byte by byte, cost a bounded number of
// connections and little memory, and keep nobody else from being served.
func TestTenThousandHalfOpen(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{})
	h.echo(t, pki.ALPNGRPC)
	w := ca.NewNode(t, worker)
	if _, err := ping(t, h.addr, w.ClientConfig(pki.ALPNGRPC, "")); err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	const many = 10000
	before := heap()
	conns := make([]net.Conn, many)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	var wg sync.WaitGroup
	for part := range 16 {
		wg.Go(func() {
			for i := part; i < many; i += 16 {
				c, err := from(i/32).Dial("tcp", h.addr)
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				if i%2 == 0 {
					c.Write([]byte{22, 3, 1, 2, 0, 1, 0})
				}
				conns[i] = c
			}
		})
	}
	wg.Wait()
	start := time.Now()
	for range 3 {
		if _, err := ping(t, h.addr, ca.NewNode(t, worker).ClientConfig(pki.ALPNGRPC, "")); err != nil {
			t.Errorf("a node among %d half-open connections: %v", many, err)
		}
		if _, err := ping(t, h.addr, anonymous(pki.ALPNGRPC)); err != nil {
			t.Errorf("a joiner among %d half-open connections: %v", many, err)
		}
	}
	took := time.Since(start) / 6
	open := h.quiet.Len()
	grown := int64(heap()) - int64(before)
	t.Logf("%d half-open connections: %d kept, %d KiB, others are served in %v", many, open, grown>>10, took.Round(time.Millisecond))
	if open > defaults.HalfOpen || took > 2*time.Second || grown > 64<<20 {
		t.Error("that is too much")
	}
}

// TestLyingFollower: a follower that invents the sources of what it carries here
// takes up its own share and no more.
func TestLyingFollower(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{CarriedAnonymous: 4, Anonymous: 12})
	h.echo(t, pki.ALPNGRPC)
	honest, err := ping(t, h.addr, anonymous(pki.ALPNGRPC))
	if err != nil {
		t.Fatal(err)
	}
	follower := ca.NewNode(t, manager)
	for i := range 40 {
		outer, err := pki.DialTLS(t.Context(), h.addr, follower.ClientConfig(pki.ALPNLeader, h.node.Record.GetId()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { outer.Close() })
		outer.SetDeadline(time.Now().Add(patience))
		if _, err := outer.Write(lp.Append(nil, fmt.Appendf(nil, "198.51.%d.%d:7", i, i))); err != nil {
			t.Fatal(err)
		}
		inner := tls.Client(outer, anonymous(pki.ALPNGRPC))
		if err := inner.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := []byte("ping")
		inner.Write(b)
		if _, err := io.ReadFull(inner, b); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	// The follower's 4 and the honest one; whoever was put out goes in its own time.
	eventually(t, func() bool {
		return h.anonymous.Len() == 4+1
	})
	if _, err := honest.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(honest, make([]byte, 4)); err != nil {
		t.Errorf("an honest joiner was pushed out: %v", err)
	}
}

// TestStrangersArePaced: one source that makes connections without a certificate
// as fast as it can gets its rate; others, and nodes of that very source, go on.
func TestStrangersArePaced(t *testing.T) {
	ca := pkitest.New(t)
	lead := newHost(t, ca, Limits{AnonymousBurst: 3, AnonymousRate: 1})
	follower := newHost(t, ca, Limits{HandshakeBurst: 20, HandshakeRate: 2})
	follower.follow(lead)
	lead.echo(t, pki.ALPNGRPC)
	count := func(addr string, n int) (served int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				if _, err := ping(t, addr, anonymous(pki.ALPNGRPC)); err == nil {
					mu.Lock()
					served++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return served
	}
	if n := count(lead.addr, 12); n < 3 || n > 3+4 {
		t.Errorf("%d of 15 strangers were served at once", n)
	}
	if _, err := ping(t, lead.addr, ca.NewNode(t, worker).ClientConfig(pki.ALPNGRPC, "")); err != nil {
		t.Errorf("a node of the strangers' source: %v", err)
	}
	// At a follower each costs a connection to the leader: its own pace comes first.
	count(follower.addr, 60)
	left := lead.handshakes.Owed()["127.0.0.1/32"]
	if carried := int(left / (time.Second / time.Duration(defaults.HandshakeRate))); carried > 2*30+20 {
		t.Errorf("the follower carried about %d handshakes of 60", carried)
	}
}
