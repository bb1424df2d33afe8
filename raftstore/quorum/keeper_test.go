package quorum_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/quorum"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

var things = raftstore.NewTable[*testpb.Thing]("things")

// cluster is managers as their records say they are, over loopback TCP.
type cluster struct {
	t      *testing.T
	stores map[string]*raftstore.Store
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	managers []quorum.Manager // guarded by mu
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, stores: map[string]*raftstore.Store{}}
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	c.start(ctx, "a")
	if err := c.stores["a"].Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, c.stores["a"])
	for _, id := range []string{"b", "c", "d"} {
		c.start(ctx, id)
	}
	t.Cleanup(func() {
		cancel()
		c.wg.Wait()
		for _, s := range c.stores {
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func (c *cluster) start(ctx context.Context, id string) {
	transport, hostport := raftstoretest.Loopback(c.t, id)
	s, err := raftstore.Open(ctx, raftstore.Config{
		Dir: c.t.TempDir(), NodeID: id, ClusterID: "cluster", Tables: []raftstore.Registered{things}, Sealer: raftstoretest.NewSealer(), Logger: slog.New(slog.DiscardHandler),
		Transport: transport, ElectionTimeout: 300 * time.Millisecond,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.stores[id] = s
	c.change(func(all []quorum.Manager) []quorum.Manager {
		return append(all, quorum.Manager{ID: id, Addr: hostport, Up: true})
	})
	c.wg.Go(func() {
		_ = s.WhileLeader(ctx, func(ctx context.Context) {
			quorum.Run(ctx, quorum.Config{Store: s, Managers: c.list, Logger: slog.New(slog.DiscardHandler), DemoteAfter: 100 * time.Millisecond})
		})
	})
}

func (c *cluster) list() ([]quorum.Manager, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]quorum.Manager(nil), c.managers...), nil
}

func (c *cluster) change(fn func([]quorum.Manager) []quorum.Manager) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.managers = fn(c.managers)
}

// wait waits until the leader's configuration has these voters, in order, and
// nobody else.
func (c *cluster) wait(voters, others string) *raftstore.Store {
	c.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var v, o string
		for _, s := range c.stores {
			if !s.IsLeader() {
				continue
			}
			v, o = "", ""
			for _, srv := range s.Servers() {
				if srv.Voter {
					v += srv.ID
				} else {
					o += srv.ID
				}
			}
			if v == voters && o == others {
				return s
			}
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			c.t.Fatalf("voters %q and others %q, want %q and %q", v, o, voters, others)
		}
	}
}

func without(id string) func([]quorum.Manager) []quorum.Manager {
	return func(all []quorum.Manager) (out []quorum.Manager) {
		for _, m := range all {
			if m.ID != id {
				out = append(out, m)
			}
		}
		return out
	}
}

func TestQuorumLife(t *testing.T) {
	c := newCluster(t)
	c.wait("abcd", "")

	// One of four falls silent: it costs the others nothing any more, and what
	// it had comes back with it.
	lost := c.stores["d"]
	if err := lost.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	delete(c.stores, "d")
	c.wait("abc", "d")

	// Who is no manager any more goes, and its going needs nobody's consent.
	c.change(without("d"))
	c.wait("abc", "")
	c.change(without("b"))
	c.wait("ac", "")

	// A leader that is none hands over first.
	leader := c.wait("ac", "")
	id := leader.NodeID()
	c.change(without(id))
	rest := map[string]string{"a": "c", "c": "a"}[id]
	if got := c.wait(rest, "").NodeID(); got != rest {
		t.Errorf("%s leads, want %s", got, rest)
	}
	if err := leader.Err(); err != nil && !errors.Is(err, raftstore.ErrClosed) {
		t.Error(err)
	}
}

// A manager that nobody has heard of gets no vote, however much it holds.
func TestNoVoteBeforeItServes(t *testing.T) {
	c := newCluster(t)
	c.wait("abcd", "")
	c.change(func(all []quorum.Manager) []quorum.Manager { return without("d")(all) })
	c.wait("abc", "")
	c.change(func(all []quorum.Manager) []quorum.Manager {
		return append(all, quorum.Manager{ID: "d", Addr: c.addr("d")})
	})
	s := c.wait("abc", "d")
	// It follows all the same.
	for s.Progress()["d"].Index < s.Membership().LastIndex() {
		if t.Context().Err() != nil {
			t.Fatal("it does not follow")
		}
		s.Barrier(t.Context())
	}
	c.wait("abc", "d")
	c.change(func(all []quorum.Manager) []quorum.Manager { all[len(all)-1].Up = true; return all })
	c.wait("abcd", "")
}

func (c *cluster) addr(id string) string {
	_, hostport, _ := raftstore.SplitAddr(c.stores[id].Advertise())
	return hostport
}
