package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// simElectionTimeout is of simulated time.
const simElectionTimeout = 500 * time.Millisecond

// simCluster is a cluster of real stores in one synctest bubble: simulated are
// the network, the time, and how long the disk takes; raft, the sealing and the
// database's files (in memory, where the machine has /dev/shm) are the real.
type simCluster struct {
	t    testing.TB
	rand *rand.Rand // of the test's own goroutine
	net  *simNet
	root string // of all directories
	log  raftstore.LogStore
	all  []*simMember   // changed, and ranged over, by the test's own goroutine alone
	made int            // members added under way
	end  sync.WaitGroup // stores being closed, and who watches over those that run
	was  simStates

	mu  sync.Mutex   // guards pub
	pub []*simMember // all, for the clients
}

// members is for other goroutines than the test's own.
func (c *simCluster) members() []*simMember {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pub
}

func (c *simCluster) setMembers(all []*simMember) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all, c.pub = all, slices.Clone(all)
}

// simMember is a manager through all its lives.
type simMember struct {
	id     string
	sealer raftstore.Sealer
	disk   *simDisk
	clock  simClock
	lives  int
	dir    string
	// leaving is set when its removal was asked for.
	leaving bool

	mu    sync.Mutex                // guards the rest
	store *raftstore.Store          // nil while the manager is down
	ended map[*raftstore.Store]bool // the lives that a crash has ended
	gone  *atomic.Bool              // a crash has ended the last life that was begun
}

// simClock is a manager's clock, so much ahead of the others'. It is fit to lead
// by within simFit, as a quorum of the real ones decides it, and goes on from
// what was confirmed, whatever is done to the machine's meanwhile.
type simClock struct{ ahead, confirmed atomic.Int64 }

const simFit = 30 * time.Second

func (k *simClock) Now() time.Time { return time.Now().Add(time.Duration(k.confirmed.Load())) }

func (k *simClock) Confirm(context.Context) (string, error) {
	ahead := k.ahead.Load()
	if time.Duration(ahead).Abs() > simFit {
		return "", errors.New("the clock is off")
	}
	k.confirmed.Store(ahead)
	return "", nil
}

func (m *simMember) current() *raftstore.Store {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store
}

// crashed reports whether a crash has ended that life.
func (m *simMember) crashed(s *raftstore.Store) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended[s]
}

func newSimCluster(t testing.TB, seed uint64, n int) *simCluster {
	parent := ""
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		parent = "/dev/shm"
	}
	root, err := os.MkdirTemp(parent, "redoubt-sim-")
	if err != nil {
		t.Fatal(err)
	}
	c := &simCluster{t: t, rand: rand.New(rand.NewPCG(seed, 1)), net: newSimNet(seed), root: root,
		log: []raftstore.LogStore{raftstore.LogWAL, raftstore.LogBolt}[seed%2]}
	for i := range n {
		c.add(fmt.Sprintf("m%d", i+1), uint64(i))
	}
	c.start(c.all[0])
	if err := c.all[0].store.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, c.all[0].store)
	for _, m := range c.all[1:] {
		c.start(m)
		c.change(func(ctx context.Context, leader *raftstore.Store) error { return leader.AddVoter(ctx, m.id, m.id+":1") })
	}
	return c
}

func (c *simCluster) add(id string, seed uint64) *simMember {
	m := &simMember{id: id, sealer: raftstoretest.NewSealer(), disk: newSimDisk(seed), ended: map[*raftstore.Store]bool{}}
	m.dir = fmt.Sprintf("%s/%s-0", c.root, id)
	c.setMembers(append(c.all, m))
	return m
}

// start opens m on what its last life left.
func (c *simCluster) start(m *simMember) {
	c.t.Helper()
	for !c.open(m) { // its disk fails just now: it is tried again
	}
}

func (c *simCluster) open(m *simMember) bool {
	c.t.Helper()
	l, transport := c.net.home(m.id)
	gone := &atomic.Bool{}
	s, err := raftstore.Open(c.t.Context(), m.disk.wrap(raftstore.Config{
		Dir: m.dir, NodeID: m.id, ClusterID: "sim", Tables: []raftstore.Registered{things}, Sealer: m.sealer,
		Transport: transport, InitialPeers: c.ids(), Clock: &m.clock, Logger: slog.New(slog.DiscardHandler),
		ElectionTimeout: simElectionTimeout, CommitTimeout: 25 * time.Millisecond, IOTimeout: 2 * time.Second,
		SnapshotThreshold: 24, TrailingLogs: 8, SnapshotInterval: 300 * time.Millisecond, LogStore: c.log,
	}.WithSegments(smallSegment).WithReached(func(r *raftstore.ReadTx) {
		if !gone.Load() { // what it does after its end is nobody's state
			c.was.compare(c.t, m.id, r)
		}
	})))
	if errors.Is(err, errSimDisk) {
		return false
	}
	if err != nil {
		c.t.Fatalf("%s, life %d: %v", m.id, m.lives, err)
	}
	l.allow(s.PeerAllowed)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store, m.gone = s, gone
	c.end.Go(func() { c.watch(m, s) })
	return true
}

// watch closes a store that stopped by itself, as its owner would: by the
// failure of its disk, and of nothing else.
func (c *simCluster) watch(m *simMember, s *raftstore.Store) {
	<-s.Done()
	why := s.Err()
	if why == nil {
		return // closed
	}
	if !stoppedByDisk(why) {
		c.t.Errorf("%s stopped by itself: %v", m.id, why)
	}
	c.shut(m, s)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.store == s {
		m.store = nil
	}
}

func stoppedByDisk(why error) bool {
	return errors.Is(why, errSimDisk) || errors.Is(why, raftstore.ErrStalled) || errors.Is(why, fs.ErrNotExist) // what simDisk.lose took away
}

// shut closes a store without handing over, and wants that to end.
func (c *simCluster) shut(m *simMember, s *raftstore.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); err != nil {
		c.t.Errorf("%s: %v", m.id, err)
	}
	if why := s.Err(); why != nil && !stoppedByDisk(why) {
		c.t.Errorf("%s: %v", m.id, why)
	}
}

// slowNet lets messages take up to d. Where they take no time at all, an
// exchange that is repeated until something times out keeps time from passing.
func (c *simCluster) slowNet(d time.Duration) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.net.delay = d
}

func (c *simCluster) ids() []string {
	var ids []string
	for _, m := range c.all {
		ids = append(ids, m.id)
	}
	return ids
}

// crash ends a life of m at this instant: every goroutine of the bubble waits
// for time or for another, so no write is half way into the file, but many are
// about to be made, or made and not reported. The next life gets the files as
// they are now. What the old one still does reaches nobody: it is closed, which
// ends what it has under way, in its own files; it can dial nobody, and what it
// still answers its callers must ignore (crashed).
func (c *simCluster) crash(m *simMember) {
	c.t.Helper()
	old := c.cut(m)
	c.end.Go(func() { c.shut(m, old) })
}

// cut is a crash that leaves the closing of the old life to the caller.
func (c *simCluster) cut(m *simMember) (old *raftstore.Store) {
	c.t.Helper()
	synctest.Wait() // whoever was answered has taken the answer
	old = m.current()
	m.mu.Lock()
	m.store, m.ended[old] = nil, true
	m.gone.Store(true)
	m.mu.Unlock()
	next := fmt.Sprintf("%s/%s-%d", c.root, m.id, m.lives+1)
	if err := os.CopyFS(next, os.DirFS(m.dir)); err != nil {
		c.t.Fatal(err)
	}
	c.net.mu.Lock()
	if l := c.net.homes[m.id]; l != nil {
		delete(c.net.homes, m.id)
	}
	c.net.mu.Unlock()
	if c.rand.IntN(2) == 0 {
		c.net.die(m.id)
	} else {
		c.net.reset(m.id)
	}
	m.lives++
	m.dir = next
	m.disk.endLife()
	return old
}

// leaderNow returns a member that leads, or nil.
func (c *simCluster) leaderNow() *simMember {
	for _, m := range c.members() {
		if s := m.current(); s != nil && s.IsLeader() {
			return m
		}
	}
	return nil
}

// leader waits for a leader that a majority confirms.
func (c *simCluster) leader() *simMember {
	c.t.Helper()
	for range 6000 {
		if m := c.leaderNow(); m != nil {
			if s := m.current(); s != nil {
				ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
				err := s.Barrier(ctx)
				cancel()
				if err == nil {
					return m
				}
			}
		}
		time.Sleep(10 * time.Millisecond) // simulated time
	}
	c.t.Fatal("nobody leads for a minute, although nothing is in the way")
	return nil
}

// change runs fn at the leader until it succeeds.
func (c *simCluster) change(fn func(context.Context, *raftstore.Store) error) {
	c.t.Helper()
	var err error
	for range 20 {
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		err = fn(ctx, c.leader().current())
		cancel()
		if err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond) // simulated time: a transfer may be under way
	}
	c.t.Fatal(err)
}

// close ends all lives.
func (c *simCluster) close() {
	c.t.Helper()
	c.net.heal()
	for _, m := range c.all {
		m.disk.endLife()
		if s := m.current(); s != nil {
			c.shut(m, s)
		}
	}
	c.end.Wait()
	if err := os.RemoveAll(c.root); err != nil {
		c.t.Error(err)
	}
}

// agree waits until every manager that runs has the same state, and says so
// where they hold different objects at the same index.
func (c *simCluster) agree() {
	c.t.Helper()
	leader := c.leader()
	want, index := c.objects(leader)
	for _, m := range c.all {
		if m.current() == nil {
			continue
		}
		for range 6000 {
			if m.current().AppliedIndex() >= index {
				break
			}
			time.Sleep(10 * time.Millisecond) // simulated time
		}
		got, at := c.objects(m)
		if at != index || !sameThings(got, want) {
			c.t.Errorf("%s at entry %d and %s at %d hold different objects:\n%v\n%v", leader.id, index, m.id, at, want, got)
		}
	}
}

func (c *simCluster) objects(m *simMember) (all []*testpb.Thing, index uint64) {
	if err := m.current().View(func(r *raftstore.ReadTx) error {
		index = r.Index()
		all = slices.Collect(things.All(r))
		return nil
	}); err != nil {
		c.t.Errorf("%s: %v", m.id, err)
	}
	return all, index
}
