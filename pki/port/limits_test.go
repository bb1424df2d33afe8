package port

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

func TestLimits(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{
		HalfOpenPerSource: 3, AnonymousPerSource: 2, PerNode: 2,
		Handshake: 2 * time.Second, AnonymousLife: time.Hour, AnonymousBytes: 4096,
	})
	h.echo(t, pki.ALPNGRPC)
	// Handshakes that never come: they make room for one that does.
	var idle []net.Conn
	for i := range 4 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
		eventually(t, func() bool { return h.halfOpen() == min(i+1, 3) })
	}
	isClosed(t, idle[0])
	if c, err := ping(t, h.addr, anonymous("h2")); err != nil {
		t.Errorf("a handshake among idle connections of its source: %v", err)
	} else {
		c.Close()
	}
	for _, c := range idle {
		isClosed(t, c) // the deadline of handshakes
	}
	eventually(t, func() bool { return h.halfOpen() == 0 && h.strangers() == 0 })

	var anon []*tls.Conn
	for range 3 {
		c, err := ping(t, h.addr, anonymous("h2"))
		if err != nil {
			t.Fatal(err)
		}
		anon = append(anon, c)
	}
	isClosed(t, anon[0]) // the third took its place
	if h.strangers() != 2 {
		t.Errorf("%d anonymous connections", h.strangers())
	}
	// A stranger may send so much and no more.
	anon[2].Write(make([]byte, 8192))
	isClosed(t, anon[2])
	eventually(t, func() bool { return h.strangers() == 1 })

	w := ca.NewNode(t, worker)
	for i := range 3 {
		_, err := ping(t, h.addr, w.ClientConfig(pki.ALPNGRPC, ""))
		if (err == nil) != (i < 2) {
			t.Errorf("connection %d of a node: %v", i+1, err)
		}
	}
}

func TestAnonymousLife(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{AnonymousLife: 100 * time.Millisecond})
	h.echo(t, pki.ALPNGRPC)
	conn, err := pki.DialTLS(t.Context(), h.addr, anonymous("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	isClosed(t, conn)
	eventually(t, func() bool { return h.strangers() == 0 && h.inUse(classConnection) == 0 })
}

func (h *host) inUse(c class) int {
	h.counts.mu.Lock()
	defer h.counts.mu.Unlock()
	return h.counts.used[countKey{c, ""}]
}

func (h *host) strangers() int {
	return h.anonymous.Len()
}

func (h *host) halfOpen() int {
	return h.quiet.Len() + h.half.Len()
}
