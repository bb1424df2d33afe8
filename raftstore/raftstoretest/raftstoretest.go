// Package raftstoretest gives tests a real store: one server, sealed files in a
// temporary directory, leading when it is handed over. Nothing is simulated but
// the network, which a cluster of one does not use.
package raftstoretest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
)

// New returns a store of the given tables that leads a cluster of one. It is
// closed when the test ends; a failure of the store fails the test.
func New(t testing.TB, tables ...raftstore.Registered) *raftstore.Store {
	t.Helper()
	return NewAt(t, nil, tables...)
}

// NewAt is New with a clock of the test's; nil: the machine's.
func NewAt(t testing.TB, clock raftstore.Clock, tables ...raftstore.Registered) *raftstore.Store {
	t.Helper()
	id := ident.New()
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: t.TempDir(), NodeID: id, ClusterID: ident.New(),
		Tables: tables, Sealer: NewSealer(), Logger: slog.New(slog.DiscardHandler),
		Transport: raftstore.Transport{
			Listener: NewListener(), Advertise: raftstore.JoinAddr(id, "none:1"),
			Dial: func(context.Context, string) (net.Conn, error) {
				return nil, errors.New("raftstoretest: a cluster of one has no peers")
			},
		},
		ElectionTimeout: 20 * time.Millisecond, Clock: clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(context.Background()), s.Err()); err != nil {
			t.Errorf("raftstoretest: %v", err)
		}
	})
	if err := s.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	WaitLeader(t, s)
	return s
}

// awaitTimeout is generous: it only ends tests that would hang.
const awaitTimeout = time.Minute

// Await waits until cond holds, looking at every change of the tables. It fails the
// test with what cond said last.
func Await(t testing.TB, s *raftstore.Store, cond func(r raftstore.Reader) error, tables ...raftstore.Registered) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), awaitTimeout)
	defer cancel()
	var why error
	look := func(r *raftstore.ReadTx) error { why = cond(r); return nil }
	for {
		w, err := s.Watch(look, tables...)
		if err != nil {
			t.Fatal(err)
		}
		for why != nil && err == nil {
			if _, err = w.Next(ctx); err == nil {
				err = s.View(look)
			}
		}
		w.Close()
		if why == nil {
			return
		}
		if err != raftstore.ErrLagged {
			t.Fatalf("%v: %v", err, why)
		}
	}
}

// WaitLeader waits until s leads.
func WaitLeader(t testing.TB, s *raftstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		changed := s.LeaderChanged()
		if s.IsLeader() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("raftstoretest: the store did not become leader in time")
		}
	}
}

// listener accepts nothing until it is closed.
type listener struct {
	once   sync.Once
	closed chan struct{}
}

// NewListener returns a listener without connections.
func NewListener() net.Listener { return &listener{closed: make(chan struct{})} }

func (l *listener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// Sealer is a real AES-256-GCM sealer under a random key that lives as long as
// the value.
type Sealer = testseal.Sealer

// NewSealer returns a sealer with a fresh key.
func NewSealer() *Sealer { return testseal.New() }
