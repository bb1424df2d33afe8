package raftstore_test

import (
	"bufio"
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
	net.Listener
	id      string
	allowed chan func(string) bool // capacity 1, held while it is used

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
			return &buffered{c, r}, nil
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

type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// member is one server of a test cluster.
type member struct {
	*raftstore.Store
	link *link
	id   string
}

func (m *member) hostport() string { return m.link.Addr().String() }

func newMember(t testing.TB, id string, initial ...string) *member {
	l := newLink(t, id)
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: t.TempDir(), NodeID: id, ClusterID: "cluster",
		Tables: []raftstore.Registered{things}, Sealer: raftstoretest.NewSealer(), Logger: slog.New(slog.DiscardHandler),
		Transport:    raftstore.Transport{Listener: l, Advertise: raftstore.JoinAddr(id, l.Addr().String()), Dial: l.dial},
		InitialPeers: initial, ElectionTimeout: 300 * time.Millisecond, TrailingLogs: 4,
	})
	if err != nil {
		t.Fatal(err)
	}
	l.allowed <- s.PeerAllowed
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(s.Close(ctx), s.Err()); err != nil {
			t.Error(err)
		}
	})
	return &member{Store: s, link: l, id: id}
}

// newCluster returns three voters, the first of which leads.
func newCluster(t testing.TB) []*member {
	t.Helper()
	ctx := waitContext(t)
	a := newMember(t, "a")
	if err := a.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, a.Store)
	all := []*member{a}
	for _, id := range []string{"b", "c"} {
		m := newMember(t, id, "a")
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

func TestClusterReplicates(t *testing.T) {
	all := newCluster(t)
	a, b, c := all[0], all[1], all[2]
	put(t, a.Store, &testpb.Thing{Id: "x", Name: "n"})
	waitFor(t, b, "x")
	waitFor(t, c, "x")
	if x, y := get(t, a.Store, "x"), get(t, c.Store, "x"); x.GetMeta().String() != y.GetMeta().String() {
		t.Errorf("meta differs: %v and %v", x.GetMeta(), y.GetMeta())
	}
	if err := b.Update(t.Context(), func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "y"}) }); !errors.Is(err, raftstore.ErrNotLeader) {
		t.Errorf("a follower writes: %v", err)
	}
	if err := b.Barrier(t.Context()); !errors.Is(err, raftstore.ErrNotLeader) {
		t.Errorf("a follower has a barrier: %v", err)
	}
	if err := a.Barrier(waitContext(t)); err != nil {
		t.Errorf("barrier: %v", err)
	}
	if id, hp := b.Leader(); id != "a" || hp != a.hostport() {
		t.Errorf("b takes %s at %s for the leader", id, hp)
	}
	servers := c.Servers()
	if len(servers) != 3 || !servers[0].Leader || servers[1].Leader || !servers[2].Voter || servers[2].Addr != c.hostport() {
		t.Errorf("servers %+v", servers)
	}
	if a.PeerAllowed("stranger") || !a.PeerAllowed("c") {
		t.Error("the wrong peers are allowed")
	}
	for _, bad := range [][2]string{{"", "h:1"}, {"i@d", "h:1"}, {"id", "host"}} {
		if err := a.AddVoter(t.Context(), bad[0], bad[1]); err == nil {
			t.Errorf("server %q at %q is added", bad[0], bad[1])
		}
	}
}

func TestLeaderCutOff(t *testing.T) {
	all := newCluster(t)
	a, b, c := all[0], all[1], all[2]
	for i := range 20 {
		put(t, a.Store, &testpb.Thing{Id: fmt.Sprint("before-", i)})
	}
	leading, lost := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	wg.Go(func() {
		if err := a.WhileLeader(t.Context(), func(ctx context.Context) {
			close(leading)
			<-ctx.Done()
			close(lost)
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("WhileLeader ended with %v", err)
		}
	})
	<-leading
	a.link.setCut(true)
	err := a.Update(waitContext(t), func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "unacknowledged"}) })
	if err == nil {
		t.Fatal("a leader without followers acknowledges a write")
	}
	if !errors.Is(err, raftstore.ErrUncertain) && !errors.Is(err, raftstore.ErrNotLeader) {
		t.Fatalf("the cut-off leader says %v", err)
	}
	if err := a.Barrier(waitContext(t)); !errors.Is(err, raftstore.ErrNotLeader) {
		t.Fatalf("the cut-off leader gives a barrier: %v", err)
	}
	<-lost
	next := leaderOf(t, b, c)
	for i := range 20 {
		get(t, next.Store, fmt.Sprint("before-", i)) // everything acknowledged is there, at once
	}
	put(t, next.Store, &testpb.Thing{Id: "after"})
	a.link.setCut(false)
	waitFor(t, a, "after")
	if err := a.View(func(r *raftstore.ReadTx) error {
		if n := things.Count(r); n != 21 {
			return fmt.Errorf("the former leader has %d objects, want 21", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestLeaderCloses(t *testing.T) {
	all := newCluster(t)
	put(t, all[0].Store, &testpb.Thing{Id: "x"})
	if err := all[0].Close(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	next := leaderOf(t, all[1], all[2])
	get(t, next.Store, "x")
	put(t, next.Store, &testpb.Thing{Id: "y"})
}

func TestTransferAndRemoval(t *testing.T) {
	all := newCluster(t)
	a := all[0]
	if err := a.TransferLeadership(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	next := leaderOf(t, all[1], all[2])
	if err := a.TransferLeadership(waitContext(t)); !errors.Is(err, raftstore.ErrNotLeader) {
		t.Fatalf("a follower hands over: %v", err)
	}
	if err := next.RemoveServer(waitContext(t), "a"); err != nil {
		t.Fatal(err)
	}
	if next.PeerAllowed("a") || len(next.Servers()) != 2 {
		t.Fatalf("a is still in: %+v", next.Servers())
	}
	put(t, next.Store, &testpb.Thing{Id: "x"})
}

// TestNewServerGetsASnapshot adds a server when the log no longer reaches back.
func TestNewServerGetsASnapshot(t *testing.T) {
	ctx := waitContext(t)
	a := newMember(t, "a")
	if err := a.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, a.Store)
	for i := range 50 {
		put(t, a.Store, &testpb.Thing{Id: fmt.Sprint(i), Name: fmt.Sprint("n", i), Payload: make([]byte, 8<<10)})
	}
	if err := a.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	b := newMember(t, "b", "a")
	w, err := b.Watch(nil, things)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddVoter(ctx, b.id, b.hostport()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(ctx); !errors.Is(err, raftstore.ErrLagged) {
		t.Fatalf("the watch of a replaced state says %v", err)
	}
	put(t, a.Store, &testpb.Thing{Id: "last"})
	waitFor(t, b, "last")
	if err := b.View(func(r *raftstore.ReadTx) error {
		if n := things.Count(r); n != 51 {
			return fmt.Errorf("%d objects", n)
		}
		if got := ids(things.By(r, "name", "n17")); len(got) != 1 || got[0] != "17" {
			return fmt.Errorf("the index gives %v", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestStrangersAreNotHeard(t *testing.T) {
	m := newMember(t, "m", "friend")
	for _, id := range []string{"stranger", "friend"} {
		c, err := net.Dial("tcp", m.hostport())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintln(c, id); err != nil {
			t.Fatal(err)
		}
		if id == "stranger" { // it is hung up on; a friend is not
			if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			var timeout net.Error
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatalf("the stranger reads: %v", err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	m.link.mu.Lock()
	defer m.link.mu.Unlock()
	if fmt.Sprint(m.link.seen) != "[stranger]" {
		t.Fatalf("refused: %v", m.link.seen)
	}
}
