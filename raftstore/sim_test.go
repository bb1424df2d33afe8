package raftstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest/linear"
)

// The simulation: 3 to 5 managers in one process under faults, with clients
// whose histories must be linearizable, and equal states at the end.
//
// A seed decides the number of managers, every fault with its time, what each
// client asks for and the delays of messages and disks. Raft draws its election
// timeouts from a generator of its own, and the order in which goroutines that
// are ready run is the runtime's: a seed repeats the same faults, not the same
// interleaving. A seed that has failed is to be run several times.
//
//	REDOUBT_SIM_SEEDS=5000 go test -run TestSimulation ./raftstore      (make sim SEEDS=5000)
//	REDOUBT_SIM_SEED=17 go test -run TestSimulation -v ./raftstore      (one of them)
const (
	simSeeds   = 8 // of an ordinary run of the tests
	simClients = 4
	simKeys    = 3
	simFaults  = 12
	// meddledSeeds of them meet a message of every kind that is late or lost.
	meddledSeeds = 200
)

var simKinds = []linear.Kind{linear.Read, linear.Write, linear.CAS, linear.Delete}

func TestSimulation(t *testing.T) {
	if s := os.Getenv("REDOUBT_SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("REDOUBT_SIM_SEED: %v", err)
		}
		simulate(t, seed)
		return
	}
	first, n := uint64(1), simSeeds
	if s := os.Getenv("REDOUBT_SIM_SEEDS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			t.Fatalf("REDOUBT_SIM_SEEDS=%q: a number of seeds is wanted", s)
		}
		first = rand.Uint64N(1 << 40) // others each time
	}
	var sum simCount
	var mu sync.Mutex
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+uint64(n); seed++ {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				got := simulate(t, seed)
				mu.Lock()
				defer mu.Unlock()
				sum.add(got)
				if t.Failed() {
					t.Logf("repeat it: REDOUBT_SIM_SEED=%d go test -count=1 -run TestSimulation -v ./raftstore", seed)
				}
			})
		}
	})
	t.Logf("simulation: seeds=%d from=%d %v failed=%v", n, first, sum, t.Failed())
	if !t.Failed() && (sum.done == 0 || sum.unknown == 0 || sum.faults == 0 || sum.disk == 0 || sum.members == 0 || n >= meddledSeeds && !sum.meddled.all()) {
		t.Errorf("a simulation in which nothing happens proves nothing: %v", sum)
	}
}

// simCount is what happened in a simulation.
type simCount struct {
	done, unknown, unheard, refused, faults, crashes, disk, members int
	meddled                                                         simMeddled
}

func (c *simCount) add(o simCount) {
	c.done += o.done
	c.unknown += o.unknown
	c.unheard += o.unheard
	c.refused += o.refused
	c.faults += o.faults
	c.crashes += o.crashes
	c.disk += o.disk
	c.members += o.members
	c.meddled.add(o.meddled)
}

func (c simCount) String() string {
	return fmt.Sprintf("operations=%d unknown=%d unheard=%d refused=%d faults=%d crashes=%d disk-errors=%d membership-changes=%d %v",
		c.done, c.unknown, c.unheard, c.refused, c.faults, c.crashes, c.disk, c.members, c.meddled)
}

func simulate(t *testing.T, seed uint64) (sum simCount) {
	var h linear.History
	inBubble(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 0))
		c := newSimCluster(t, seed, 3+2*r.IntN(2))
		defer c.close()
		c.slowNet(time.Duration(1+r.IntN(20)) * time.Millisecond)

		stop := make(chan struct{})
		counts := make([]simCount, simClients)
		var clients sync.WaitGroup
		for i := range simClients {
			k := &simClient{c: c, h: &h, id: i, rand: rand.New(rand.NewPCG(seed, 100+uint64(i))), seen: map[string]*testpb.Thing{}}
			clients.Go(func() {
				k.run(stop)
				counts[i] = k.count
			})
		}
		for range simFaults {
			time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond) // simulated time
			sum.faults++
			c.fault(r, &sum)
		}
		sum.disk += c.mend()
		sum.meddled.add(c.net.meddler.done)
		c.settle()
		time.Sleep(2 * time.Second) // simulated time
		close(stop)
		clients.Wait()
		for _, n := range counts {
			sum.add(n)
		}
		c.agree()
	})
	h.Check(t)
	return sum
}

// inBubble runs fn in simulated time.
func inBubble(t *testing.T, fn func(t *testing.T)) {
	var bubble string
	defer func() { tolerateUnanswered(recover(), bubble) }()
	synctest.Test(t, func(t *testing.T) {
		bubble = ownBubble()
		fn(t)
	})
}

// tolerateUnanswered ends the panic of a bubble in which nothing is left but
// questions that raft was asked and ended without answering (Store.await says
// why there may be some) and messages of peers that it was handling: it does
// not wait for these. A process that closes its store ends.
func tolerateUnanswered(p any, bubble string) {
	if p == nil {
		return
	}
	buf := make([]byte, 16<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		head, _, _ := strings.Cut(g, "\n")
		if strings.Contains(head, bubble) && !strings.Contains(g, "raftstore.(*Store).await.func1") &&
			!strings.Contains(g, "raft.(*NetworkTransport).handleConn") {
			panic(fmt.Sprint(p, "\n", g))
		}
	}
	if !strings.Contains(fmt.Sprint(p), "blocked goroutines remain") {
		panic(p)
	}
}

// ownBubble is how stack traces name the caller's bubble.
func ownBubble() string {
	buf := make([]byte, 200)
	head, _, _ := strings.Cut(string(buf[:runtime.Stack(buf, false)]), "\n")
	_, name, _ := strings.Cut(head, "synctest")
	return "synctest" + name
}

// mend ends all faults and starts who is down. It returns how many failures of
// disks there were.
func (c *simCluster) mend() (failures int) {
	c.net.heal()
	c.net.obey()
	for _, m := range c.all {
		m.clock.ahead.Store(0)
		failures += m.disk.mend()
	}
	synctest.Wait() // who has met a failure knows of it
	for _, m := range c.all {
		for s := m.current(); s != nil && s.Err() != nil; s = m.current() {
			time.Sleep(10 * time.Millisecond) // simulated time: it is being closed
		}
		if m.current() == nil {
			c.start(m)
		}
	}
	return failures
}

// fault makes one fault, or undoes one, and counts it.
func (c *simCluster) fault(r *rand.Rand, sum *simCount) {
	c.t.Helper()
	m := c.all[r.IntN(len(c.all))]
	if lead := c.leaderNow(); lead != nil && r.IntN(2) == 0 {
		m = lead // half of them where it hurts
	}
	up := m.current() != nil
	what := r.IntN(30)
	if testing.Verbose() {
		c.t.Logf("fault %d at %s", what, m.id)
	}
	switch what {
	case 0, 1, 2: // crash, and power back after a while
		if up {
			c.crash(m)
			sum.crashes++
			return
		}
		c.start(m)
	case 3: // all of them lose their power at once
		for _, m := range c.all {
			if m.current() != nil {
				c.crash(m)
				sum.crashes++
			}
		}
		for _, m := range c.all {
			c.start(m)
		}
	case 4, 5: // cut off, both ways
		c.net.split([]string{m.id}, c.ids())
	case 6: // a minority against the rest
		ids := c.ids()
		r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		k := len(ids) / 2
		c.net.split(ids[:k], ids[k:])
	case 7: // it is heard and does not hear, or the reverse
		for _, o := range c.ids() {
			if r.IntN(2) == 0 {
				c.net.block(o, m.id, true)
			} else {
				c.net.block(m.id, o, true)
			}
		}
	case 8:
		c.net.heal()
		c.net.reset([]string{"", m.id}[r.IntN(2)])
	case 9:
		c.net.heal()
		for _, m := range c.all {
			sum.disk += m.disk.mend()
		}
	case 10:
		m.disk.setSlow(time.Duration(r.IntN(300)) * time.Millisecond)
	case 11, 12: // it hangs: its disk takes seconds, and nobody hears of it
		c.net.split([]string{m.id}, c.ids())
		m.disk.setSlow(time.Duration(2+r.IntN(6)) * time.Second)
	case 13:
		if up {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			_ = m.current().TransferLeadership(ctx) // where it does not lead, or cannot, that is no fault of it
			cancel()
		}
	case 14, 15, 16: // its disk fails, now or when it starts: the store stops, or goes on without that snapshot
		op := simDiskFaults[r.IntN(len(simDiskFaults))]
		if r.IntN(2) == 0 {
			op = opAppend // the others are rare
		}
		m.disk.failAt(op, 1+r.IntN(4), r.IntN(2) == 0)
	case 17: // every clock is off by some, and one by too much to lead
		for _, o := range c.all {
			o.clock.ahead.Store(int64(time.Duration(r.IntN(40_000)-20_000) * time.Millisecond))
		}
		m.clock.ahead.Store(int64(time.Duration(r.IntN(600)-300) * time.Second))
	case 18, 19, 20, 21, 22, 23: // answers are lost, or messages come when another leads
		c.net.meddle(r, simAppend, simSnapshot, simMessage(r.IntN(simMessages)), simMessage(r.IntN(simMessages)))
	case 24, 25: // it falls behind by more than the log has, and gets a snapshot
		c.net.split([]string{m.id}, c.ids())
		time.Sleep(time.Duration(1000+r.IntN(2000)) * time.Millisecond) // simulated time, in which others write
		if r.IntN(4) > 0 {
			c.net.meddle(r, simSnapshot)
		}
		c.net.heal()
	default:
		sum.members += c.changeMembers(r, m)
	}
}
