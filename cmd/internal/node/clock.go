package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// clocks compares this manager's clock with the other managers', and is the
// clock the store stamps with. The state machine's clock is the leader's and
// never goes back, so one stamp from the future would age every token and
// certificate for good: a manager whose clock is far from the managers' median
// does not lead, and between two comparisons the stamps follow the clock that
// nobody can set. See decision 26.
type clocks struct {
	// others are the managers to ask, and ask is one question: how far the
	// other's clock is ahead, and how sure that is (half the time the answer
	// took).
	others func() []clockPeer
	ask    func(ctx context.Context, p clockPeer) (ahead, unsure time.Duration, err error)
	opened chan struct{} // closed when others may be called

	comparing chan struct{} // holds a token while somebody compares

	mu      sync.Mutex // guards the rest
	samples map[string]clockSample
	quorum  bool      // a majority of the voters answered
	taken   time.Time // when, on both of this machine's clocks
	anchor  time.Time // the same, of the last comparison that found this clock fit
	changed chan struct{}
}

type clockPeer struct {
	id, addr string
	voter    bool
}

type clockSample struct{ ahead, unsure time.Duration }

// Clock is bound to the store.
var _ raftstore.Clock = (*clocks)(nil)

const (
	// clockInterval is how often the managers' clocks are compared, clockLook how
	// often this one is looked at for having been set, and clockPatience how long
	// one answer may take.
	clockInterval = 10 * time.Second
	clockLook     = time.Second
	clockPatience = 5 * time.Second
	// clockFresh is how old a comparison may be on which a manager begins to
	// lead; without one, leadPatience is how long it waits for answers beyond
	// a majority's.
	clockFresh   = 3 * clockInterval
	leadPatience = time.Second
	// maxSkew is how far a leader's clock may be from the median, warnSkew from
	// where on it is shown.
	maxSkew  = 30 * time.Second
	warnSkew = 5 * time.Second
)

func newClocks(m *managerState) *clocks {
	return &clocks{changed: make(chan struct{}), comparing: make(chan struct{}, 1), opened: make(chan struct{}), others: func() (out []clockPeer) {
		self := m.n.who().NodeID
		for _, s := range m.store.Servers() {
			if s.ID != self {
				out = append(out, clockPeer{s.ID, s.Addr, s.Voter})
			}
		}
		return out
	}, ask: m.askClock}
}

// errNoTime is the answer of a version that does not tell its time.
var errNoTime = errors.New("it is of a version that does not tell its time")

// askClock asks another manager for its time.
func (m *managerState) askClock(ctx context.Context, p clockPeer) (ahead, unsure time.Duration, err error) {
	c, err := m.dialLock(ctx, p.id, p.addr)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	began := time.Now()
	resp, err := pkipb.NewLockClient(c).LockStatus(ctx, &pkipb.LockStatusRequest{})
	if err != nil {
		return 0, 0, err
	}
	if resp.GetNow() == 0 {
		return 0, 0, errNoTime
	}
	half := time.Since(began) / 2
	return time.Unix(0, resp.GetNow()).Sub(began.Add(half)), half, nil
}

// run compares until ctx ends: now and then, and at once when this clock was set
// or the machine slept.
func (c *clocks) run(ctx context.Context) error {
	tick := time.NewTicker(clockLook)
	defer tick.Stop()
	for {
		c.compare(ctx, clockPatience)
		for due := false; !due; {
			select {
			case <-tick.C:
				due = c.stale(clockInterval)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// stale reports whether the last comparison is that old, or this clock was set
// since.
func (c *clocks) stale(age time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	return c.taken.IsZero() || now.Sub(c.taken) >= age || jump(c.taken, now).Abs() > warnSkew
}

// jump is how far the wall clock moved between two readings beyond the time
// that passed by the clock that nobody sets.
func jump(from, to time.Time) time.Duration {
	return to.Round(0).Sub(from.Round(0)) - to.Sub(from)
}

// compare asks everybody once, for as long as patience, but goes on until a
// majority answered. One that does not answer counts for nothing.
func (c *clocks) compare(ctx context.Context, patience time.Duration) {
	select {
	case c.comparing <- struct{}{}:
		defer func() { <-c.comparing }()
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, clockPatience)
	defer cancel()
	peers := c.others()
	type answer struct {
		clockPeer
		clockSample
		err error
	}
	answers := make(chan answer, len(peers))
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			ahead, unsure, err := c.ask(ctx, p)
			answers <- answer{p, clockSample{ahead, unsure}, err}
		})
	}
	samples, voters, heard := map[string]clockSample{}, 1, 1
	for _, p := range peers {
		if p.voter {
			voters++
		}
	}
	over := time.NewTimer(patience)
	defer over.Stop()
	patient := true
	for n := 0; n < len(peers) && (patient || heard <= voters/2); {
		select {
		case a := <-answers:
			n++
			if a.err == nil {
				samples[a.id] = a.clockSample
			}
			if a.voter && (a.err == nil || errors.Is(a.err, errNoTime)) {
				heard++
			}
		case <-over.C:
			patient = false
		}
	}
	cancel()
	wg.Wait()
	c.take(samples, heard > voters/2)
}

// take puts a comparison in force.
func (c *clocks) take(samples map[string]clockSample, quorum bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples, c.quorum, c.taken = samples, quorum, time.Now()
	if quorum && c.leadOffset().Abs() <= maxSkew {
		c.anchor = c.taken
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// sorted are the samples and this clock itself, with mu held.
func (c *clocks) sorted() []clockSample {
	all := []clockSample{{}}
	for _, s := range c.samples {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b clockSample) int { return int(a.ahead/time.Millisecond - b.ahead/time.Millisecond) })
	return all
}

// behind is how far this clock is ahead of that one, less what the answer's
// travel may explain.
func (s clockSample) behind() time.Duration {
	switch off := -s.ahead; {
	case off > s.unsure:
		return off - s.unsure
	case off < -s.unsure:
		return off + s.unsure
	}
	return 0
}

// offset is how far this manager's clock is ahead of the median of those that
// answered, itself among them. Of two in the middle the nearer one counts, so
// that of two managers neither accuses the other.
func (c *clocks) offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.sorted()
	low, high := all[(len(all)-1)/2], all[len(all)/2]
	if high.ahead.Abs() < low.ahead.Abs() {
		return high.behind()
	}
	return low.behind()
}

// leadOffset is the same for who is to lead: of two in the middle the earlier
// one counts, as a clock that is behind does no lasting harm. With mu held.
func (c *clocks) leadOffset() time.Duration {
	all := c.sorted()
	return all[(len(all)-1)/2].behind()
}

// skews are the managers whose clocks are worth a warning, as seen from here.
func (c *clocks) skews() map[string]time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]time.Duration{}
	for id, s := range c.samples {
		if s.ahead.Abs()-s.unsure > warnSkew {
			out[id] = s.ahead
		}
	}
	return out
}

func describeOffset(off time.Duration) string {
	way := "ahead of"
	if off < 0 {
		way = "behind"
	}
	return fmt.Sprintf("the clock of this manager is %v %s the other managers': check its time service", off.Abs().Round(100*time.Millisecond), way)
}
