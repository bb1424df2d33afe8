// Package raftstoretest gives tests a real store: one server, sealed files in a
// temporary directory, leading when it is handed over. Nothing is simulated but
// the network, which a cluster of one does not use.
package raftstoretest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// New returns a store of the given tables that leads a cluster of one. It is
// closed when the test ends; a failure of the store fails the test.
func New(t testing.TB, tables ...raftstore.Registered) *raftstore.Store {
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
		ElectionTimeout: 20 * time.Millisecond,
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

// Listener accepts nothing until it is closed.
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
type Sealer struct{ key []byte }

// NewSealer returns a sealer with a fresh key.
func NewSealer() *Sealer {
	s := &Sealer{key: make([]byte, 32)}
	rand.Read(s.key) // never fails: crypto/rand aborts the process instead
	return s
}

func (s *Sealer) derive(info string) ([]byte, error) {
	return hkdf.Key(sha256.New, s.key, nil, info, 32)
}

func (s *Sealer) aead(label string) (cipher.AEAD, error) {
	key, err := s.derive("seal " + label)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Seal implements raftstore.Sealer.
func (s *Sealer) Seal(label string, aad, plaintext []byte) ([]byte, error) {
	a, err := s.aead(label)
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, nil, plaintext, aad), nil
}

// Open implements raftstore.Sealer.
func (s *Sealer) Open(label string, aad, sealed []byte) ([]byte, error) {
	a, err := s.aead(label)
	if err != nil {
		return nil, err
	}
	out, err := a.Open(nil, nil, sealed, aad)
	if err != nil {
		return nil, fmt.Errorf("raftstoretest: %w", err)
	}
	return out, nil
}

// Name implements raftstore.Sealer.
func (s *Sealer) Name(key []byte) []byte {
	k, err := s.derive("names")
	if err != nil {
		panic(err) // HKDF-SHA256 gives 32 bytes always
	}
	m := hmac.New(sha256.New, k)
	m.Write(key)
	return m.Sum(nil)
}
