package raftstore_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// link is a server's connection to the others over loopback TCP. A dialler
// says its id, as a certificate would, and the listener asks the store whether
// that peer may speak. It can be cut off.
type link struct {
	clock raftstore.Clock // nil: the machine's
	net.Listener
	id      string
	allowed chan func(string) bool // capacity 1, held while it is used

	// until is the life of what is accepted; 0 for no end.
	until  time.Duration
	tables []raftstore.Registered // nil: things alone
	// timeout is its server's, if not testElectionTimeout.
	timeout time.Duration

	mu    sync.Mutex // guards the rest
	cut   bool
	conns map[net.Conn]struct{}
	seen  []string // ids that were refused
}

func newLink(t testing.TB, id string) *link {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &link{Listener: ln, id: id, allowed: make(chan func(string) bool, 1), conns: map[net.Conn]struct{}{}}
}

// reopened is the link of the same server's next life.
func (l *link) reopened(t testing.TB) *link {
	ln, err := net.Listen("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return &link{Listener: ln, id: l.id, allowed: make(chan func(string) bool, 1), conns: map[net.Conn]struct{}{}}
}

func (l *link) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		r := bufio.NewReader(c)
		id, err := r.ReadString('\n')
		allowed := <-l.allowed
		l.allowed <- allowed
		if id = strings.TrimSpace(id); err != nil || !allowed(id) {
			l.mu.Lock()
			l.seen = append(l.seen, id)
			l.mu.Unlock()
			_ = c.Close()
			continue
		}
		if l.keep(c) {
			b := &buffered{c, r, id}
			if l.until > 0 {
				return &ending{b, time.Now().Add(l.until)}, nil
			}
			return b, nil
		}
	}
}

func (l *link) dial(ctx context.Context, addr string) (net.Conn, error) {
	_, hostport, err := raftstore.SplitAddr(addr)
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostport)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(c, l.id); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if !l.keep(c) {
		return nil, errors.New("cut off")
	}
	return c, nil
}

func (l *link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_ = c.Close()
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *link) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for c := range l.conns {
			_ = c.Close()
		}
		clear(l.conns)
	}
}

// ending is a connection whose certificate ends.
type ending struct {
	*buffered
	at time.Time
}

func (e *ending) NotAfter() time.Time { return e.at }

type buffered struct {
	net.Conn
	r  *bufio.Reader
	id string
}

func (b *buffered) PeerID() string { return b.id }

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// member is one server of a test cluster.
type member struct {
	*raftstore.Store
	link *link
	id   string
}

func (m *member) hostport() string { return m.link.Addr().String() }

// testElectionTimeout is longer than a busy machine keeps a leader from its
// followers. First leaders need not wait for it (bootstrap), and what is about
// timeouts is tested in simulated time.
const testElectionTimeout = 20 * time.Second

func newMember(t testing.TB, id string, initial ...string) *member {
	return openMember(t, t.TempDir(), raftstoretest.NewSealer(), id, initial...)
}

// openMember opens what stands in dir; the address is a new one.
func openMember(t testing.TB, dir string, sealer raftstore.Sealer, id string, initial ...string) *member {
	return openMemberOn(t, newLink(t, id), dir, sealer, initial...)
}

func openMemberOn(t testing.TB, l *link, dir string, sealer raftstore.Sealer, initial ...string) *member {
	id := l.id
	tables := l.tables
	if tables == nil {
		tables = []raftstore.Registered{things}
	}
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: dir, NodeID: id, ClusterID: "cluster",
		Tables: tables, Sealer: sealer, Logger: slog.New(slog.DiscardHandler),
		Transport:    raftstore.Transport{Listener: l, Advertise: raftstore.JoinAddr(id, l.Addr().String()), Dial: l.dial},
		InitialPeers: initial, ElectionTimeout: cmp.Or(l.timeout, testElectionTimeout), TrailingLogs: 4, Clock: l.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	l.allowed <- s.PeerAllowed
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // the others end, too: there is nobody to hand over to
		if err := errors.Join(s.Close(ctx), s.Err()); err != nil {
			t.Error(err)
		}
	})
	return &member{Store: s, link: l, id: id}
}

// bootstrap makes m the leader of a new cluster, at once.
func (m *member) bootstrap(t testing.TB) {
	t.Helper()
	if err := m.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	m.Stand()
	raftstoretest.WaitLeader(t, m.Store)
}

// newCluster returns three voters, the first of which leads.
func newCluster(t testing.TB) []*member {
	t.Helper()
	return newClusterOn(t, newLink(t, "a"), newLink(t, "b"), newLink(t, "c"))
}

func newClusterOn(t testing.TB, links ...*link) []*member {
	t.Helper()
	ctx := waitContext(t)
	a := openMemberOn(t, links[0], t.TempDir(), raftstoretest.NewSealer())
	a.bootstrap(t)
	all := []*member{a}
	peers := []string{links[0].id} // those of the moment, as a manager that joins is told them
	for _, l := range links[1:] {
		m := openMemberOn(t, l, t.TempDir(), raftstoretest.NewSealer(), peers...)
		peers = append(peers, l.id)
		if err := a.AddNonvoter(ctx, m.id, m.hostport()); err != nil {
			t.Fatal(err)
		}
		if err := a.AddVoter(ctx, m.id, m.hostport()); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// leaderOf waits until one of them leads.
func leaderOf(t testing.TB, all ...*member) *member {
	t.Helper()
	ctx, cancel := context.WithCancel(waitContext(t))
	defer cancel()
	found := make(chan *member, len(all))
	var wg sync.WaitGroup
	for _, m := range all {
		wg.Go(func() {
			for {
				changed := m.LeaderChanged()
				if m.IsLeader() {
					found <- m
					return
				}
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	select {
	case m := <-found:
		cancel()
		wg.Wait()
		return m
	case <-ctx.Done():
		t.Fatal("nobody leads")
		return nil
	}
}

// putAt writes o at the leader among all, as a client would that meets a change
// of leader: it asks again, and takes what is there for its own.
func putAt(t testing.TB, o *testpb.Thing, all ...*member) (leader *member) {
	t.Helper()
	ctx := waitContext(t)
	for {
		leader = leaderOf(t, all...)
		err := leader.Update(ctx, func(tx *raftstore.Tx) error {
			if _, ok := things.Get(tx, o.GetId()); ok {
				return nil
			}
			return things.Put(tx, o)
		})
		switch {
		case err == nil:
			return leader
		case !errors.Is(err, raftstore.ErrNotLeader) && !errors.Is(err, raftstore.ErrUncertain):
			t.Fatal(err)
		}
	}
}

// waitFor waits until the thing of that id is there.
func waitFor(t testing.TB, m *member, id string) {
	t.Helper()
	for {
		found := false
		w, err := m.Watch(func(r *raftstore.ReadTx) error {
			_, found = things.Get(r, id)
			return nil
		}, things)
		if err != nil {
			t.Fatal(err)
		}
		for !found {
			events, err := w.Next(waitContext(t))
			if errors.Is(err, raftstore.ErrLagged) {
				break
			}
			if err != nil {
				t.Fatalf("%s does not get %s: %v", m.id, id, err)
			}
			for _, e := range events {
				_, o, _ := things.Event(e)
				found = found || o.GetId() == id
			}
		}
		w.Close()
		if found {
			return
		}
	}
}
