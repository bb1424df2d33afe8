package raftstore_test

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest/linear"
)

// Leaders that lose what they had sent to others and not written themselves. A
// crash in the simulation gives the next life the files as they are; what the
// tail of the log holds in memory is gone.

// slowest makes a disk take all of the time that it may.
type slowest struct{}

func (slowest) Uint64() uint64 { return math.MaxUint64 }

// hang makes each half of a write take that long.
func (d *simDisk) hang(long time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rand, d.slow = rand.New(slowest{}), long
}

func (m *simMember) sees(t *testing.T, id string) (ok bool) {
	t.Helper()
	if err := m.current().View(func(r *raftstore.ReadTx) error {
		_, ok = things.Get(r, id)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ok
}

// begin writes id at m; the channel gets the outcome.
func (m *simMember) begin(id string) <-chan error {
	out, s := make(chan error, 1), m.current()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		out <- s.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: id}) })
	}()
	return out
}

func TestNothingCountsBeforeTheLeaderHasWrittenIt(t *testing.T) {
	for _, seed := range []uint64{2, 3} { // one for each kind of log
		inBubble(t, func(t *testing.T) {
			c := newSimCluster(t, seed, 3)
			defer c.close()
			c.change(func(ctx context.Context, s *raftstore.Store) error {
				return s.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "a"}) })
			})
			c.agree()
			lead := c.leader()
			// One follower hears of nothing: with the leader's own word for what it
			// has not written, the other one would make a majority.
			var heard, deaf *simMember
			for _, m := range c.all {
				switch {
				case m == lead:
				case deaf == nil:
					deaf = m
				default:
					heard = m
				}
			}
			c.net.split([]string{deaf.id}, []string{lead.id, heard.id})
			c.net.reset(deaf.id) // nothing is under way to it
			before := lead.current().LastIndex()
			lead.disk.hang(10 * time.Second) // each half of a write; Close waits longer than both
			outcome := lead.begin("b")
			time.Sleep(time.Second) // simulated time

			if got := heard.current().LastIndex(); got <= before {
				t.Errorf("the follower has %d entries: it waits for the leader's disk", got)
			}
			if n := raftstore.TailEntries(lead.current()); n == 0 {
				t.Error("the leader has written all: this proves nothing")
			}
			if err := lead.current().Barrier(t.Context()); err != nil {
				t.Errorf("reads wait for the leader's disk: %v", err)
			}
			if lead.sees(t, "b") || heard.sees(t, "b") {
				t.Error("what one disk of three holds is applied")
			}
			if got := lead.current().LastIndex(); got != before {
				t.Errorf("the leader says that it holds %d, and has written %d", got, before)
			}
			if got := lead.current().Witnessed()[heard.id].Index; got > before {
				t.Errorf("entry %d of %s is said to be there for good, and %d are", got, heard.id, before)
			}
			select {
			case err := <-outcome:
				t.Errorf("the write ended: %v", err)
				return
			default:
			}

			// The leader and the follower lose their power; the leader comes back
			// without the entry, and is a majority with the one that never had it.
			c.crash(lead)
			<-outcome // of a life that is over: nobody hears of it
			c.crash(heard)
			lead.disk.setSlow(0)
			synctest.Wait() // who crashed is gone
			c.net.heal()
			c.start(lead)
			if got := lead.current().Opened().Index; got != before {
				t.Errorf("the leader's disk has %d entries, want %d: the tail was not lost", got, before)
			}
			if c.leader().sees(t, "b") {
				t.Error("an entry that nobody has is there")
			}
			c.start(heard)
			c.change(func(ctx context.Context, s *raftstore.Store) error {
				return s.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "c"}) })
			})
			c.agree()
		})
	}
}

// A life that a crash has ended writes its tail, in its own files, and answers
// then. A client that took the answer would have been promised what the next life
// does not have.
func TestNobodyHearsACrashedLeader(t *testing.T) {
	for _, seed := range []uint64{2, 3} { // one for each kind of log
		inBubble(t, func(t *testing.T) {
			c := newSimCluster(t, seed, 3)
			defer c.close()
			c.agree()
			lead := c.leader()
			before := lead.current().LastIndex()
			lead.disk.hang(400 * time.Millisecond) // each half of a write
			var h linear.History
			k := &simClient{c: c, h: &h, seen: map[string]*testpb.Thing{}}
			var asked sync.WaitGroup
			asked.Go(func() {
				k.ask(context.Background(), lead, lead.current(), linear.Input{Kind: linear.Write, Key: "k", Value: "v"}, false, false)
			})
			time.Sleep(200 * time.Millisecond) // simulated time: the others have it
			old := c.cut(lead)
			asked.Wait()
			if k.count.unheard != 1 || k.count.unknown != 1 || k.count.done != 0 {
				t.Errorf("an answer that came after the crash: %v", k.count)
			}
			lead.disk.setSlow(0)
			c.shut(lead, old)
			c.start(lead)
			if got := lead.current().Opened().Index; got != before {
				t.Errorf("the leader's disk has %d entries, want %d: the tail was not lost", got, before)
			}
		})
	}
}

// A lone manager is its own majority.
func TestLoneManagerAcknowledgesWhatItHasWritten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newSimCluster(t, 2, 1)
		defer c.close()
		m := c.leader()
		m.disk.hang(time.Second)
		outcome := m.begin("b")
		time.Sleep(500 * time.Millisecond) // simulated time
		if m.sees(t, "b") {
			t.Error("what is not written is applied")
		}
		select {
		case err := <-outcome:
			t.Errorf("the write ended before the disk: %v", err)
			return
		default:
		}
		if err := <-outcome; err != nil || !m.sees(t, "b") {
			t.Errorf("the write: %v", err)
		}
		m.disk.setSlow(0)
	})
}

// tailSeeds of an ordinary run of the tests; `make sim` decides for both.
const tailSeeds = 4

func TestSimulationLosesTails(t *testing.T) {
	first, n := uint64(1), tailSeeds
	if s := os.Getenv("REDOUBT_SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("REDOUBT_SIM_SEED: %v", err)
		}
		simulateTails(t, seed)
		return
	}
	if s := os.Getenv("REDOUBT_SIM_SEEDS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			t.Fatalf("REDOUBT_SIM_SEEDS=%q: a number of seeds is wanted", s)
		}
		first = rand.Uint64N(1 << 40) // others each time
	}
	var mu sync.Mutex
	var sum simCount
	lost := 0
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+uint64(n); seed++ {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				count, tails := simulateTails(t, seed)
				mu.Lock()
				defer mu.Unlock()
				sum.add(count)
				lost += tails
			})
		}
	})
	t.Logf("simulation of lost tails: seeds=%d from=%d %v tails-lost=%d failed=%v", n, first, sum, lost, t.Failed())
	if !t.Failed() && (sum.done == 0 || lost == 0) {
		t.Errorf("a simulation in which no tail is lost proves nothing: %v", sum)
	}
}

// halves divides the others in who is a majority with lead, and the rest, who
// are one too.
func (c *simCluster) halves(r *rand.Rand, lead *simMember) (one, other []*simMember) {
	var all []*simMember
	for _, m := range c.all {
		if m != lead {
			all = append(all, m)
		}
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:len(all)/2], all[len(all)/2:]
}

func names(all []*simMember) (ids []string) {
	for _, m := range all {
		ids = append(ids, m.id)
	}
	return ids
}

// slowFirst starts m, with which the others are a majority again, and makes what
// the next leader writes first take seconds: it has not reached who is still down
// for many times then, and waits for long before it tries again.
func (c *simCluster) slowFirst(r *rand.Rand, m *simMember, others []*simMember) {
	up := append([]*simMember{m}, others...)
	for _, m := range up {
		m.disk.setSlow(4 * time.Second)
		m.disk.setOnly(opAppend)
	}
	c.start(m)
	for range 3000 {
		if id, _ := m.current().Leader(); id != "" {
			break
		}
		time.Sleep(time.Millisecond) // simulated time
	}
	time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond) // simulated time
	for _, m := range up {
		m.disk.setOnly("")
		m.disk.setSlow(0)
		m.disk.endLife() // and what is under way ends
	}
}

// simulateTails crashes leaders, and those who have followed them, at moments
// when they have sent more than they have written, with disks that are slow and
// a network that is not.
func simulateTails(t *testing.T, seed uint64) (sum simCount, lost int) {
	var h linear.History
	inBubble(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 10))
		c := newSimCluster(t, seed, 3+2*r.IntN(2))
		defer c.close()
		c.slowNet(time.Duration(1+r.IntN(5)) * time.Millisecond)
		slow := func() {
			for _, m := range c.all {
				m.disk.setSlow(time.Duration(1+r.IntN(80)) * time.Millisecond)
			}
		}
		slow()
		stop := make(chan struct{})
		counts := make([]simCount, simClients)
		var clients sync.WaitGroup
		for i := range simClients {
			k := &simClient{c: c, h: &h, id: i, rand: rand.New(rand.NewPCG(seed, 200+uint64(i))), seen: map[string]*testpb.Thing{}}
			clients.Go(func() {
				k.run(stop)
				counts[i] = k.count
			})
		}
		for range simFaults {
			time.Sleep(time.Duration(200+r.IntN(2000)) * time.Millisecond) // simulated time
			lead := c.leaderNow()
			if lead == nil {
				continue
			}
			sum.faults++
			if r.IntN(5) == 0 { // it hands over with a tail
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = lead.current().TransferLeadership(ctx) // where it cannot, that is no fault of it
				cancel()
				slow()
				continue
			}
			// It goes on with as few as it takes, of whom all crash with it, and
			// comes back with those alone that have heard of nothing.
			followed, deaf := c.halves(r, lead)
			if r.IntN(4) > 0 {
				c.net.split(names(deaf), append(names(followed), lead.id))
				time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond) // simulated time
			}
			for range 300 { // until it has a tail, or has had none for long
				if synctest.Wait(); raftstore.TailEntries(lead.current()) > 0 {
					lost++
					break
				}
				time.Sleep(time.Millisecond) // simulated time
			}
			time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond) // simulated time, in which others write
			c.crash(lead)
			for _, m := range followed {
				c.crash(m)
			}
			sum.crashes += 1 + len(followed)
			synctest.Wait() // they are gone
			c.net.heal()
			slow()
			if r.IntN(4) > 0 {
				c.start(lead)
				time.Sleep(time.Duration(500+r.IntN(2500)) * time.Millisecond) // simulated time
			} else {
				c.slowFirst(r, lead, deaf)
				slow()
				time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond) // simulated time
			}
			for _, m := range followed {
				c.start(m)
			}
		}
		c.mend()
		time.Sleep(2 * time.Second) // simulated time
		close(stop)
		clients.Wait()
		for _, n := range counts {
			sum.add(n)
		}
		c.agree()
	})
	h.Check(t)
	return sum, lost
}
