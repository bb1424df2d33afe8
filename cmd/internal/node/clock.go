package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// clocks compares this manager's clock with the other managers'. The state
// machine's clock is the leader's and never goes back, so one leader that lives
// in the future would age every token and certificate: a manager whose clock is
// far from the managers' median does not lead.
type clocks struct {
	// others are the managers to ask, and ask is one question: how far the
	// other's clock is ahead, and how sure that is (half the time the answer
	// took).
	others func() []clockPeer
	ask    func(ctx context.Context, p clockPeer) (ahead, unsure time.Duration, err error)

	mu      sync.Mutex // guards the rest
	samples map[string]clockSample
	changed chan struct{} // closed when samples change
}

type clockPeer struct{ id, addr string }

type clockSample struct{ ahead, unsure time.Duration }

const (
	// clockInterval is how often the managers' clocks are compared, and
	// clockPatience how long one answer may take.
	clockInterval = 10 * time.Second
	clockPatience = 5 * time.Second
	// maxSkew is how far a leader's clock may be from the median, warnSkew from
	// where on it is shown.
	maxSkew  = 30 * time.Second
	warnSkew = 5 * time.Second
)

func newClocks(m *managerState) *clocks {
	return &clocks{changed: make(chan struct{}), others: func() (out []clockPeer) {
		self := m.n.who().NodeID
		for _, s := range m.store.Servers() {
			if s.ID != self {
				out = append(out, clockPeer{s.ID, s.Addr})
			}
		}
		return out
	}, ask: m.askClock}
}

// askClock asks another manager for its time.
func (m *managerState) askClock(ctx context.Context, p clockPeer) (ahead, unsure time.Duration, err error) {
	conn, err := pki.DialTLS(ctx, p.addr, m.creds.ClientConfig(pki.ALPNLock, p.id))
	if err != nil {
		return 0, 0, err
	}
	c, err := pki.GRPCOver(conn)
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
		return 0, 0, errors.New("it is of a version that does not tell its time")
	}
	half := time.Since(began) / 2
	return time.Unix(0, resp.GetNow()).Sub(began.Add(half)), half, nil
}

// run compares until ctx ends.
func (c *clocks) run(ctx context.Context) error {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		c.compare(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// compare asks everybody once. One that does not answer counts for nothing.
func (c *clocks) compare(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, clockPatience)
	defer cancel()
	samples := map[string]clockSample{}
	var mu sync.Mutex // guards samples
	var wg sync.WaitGroup
	for _, p := range c.others() {
		wg.Go(func() {
			ahead, unsure, err := c.ask(ctx, p)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			samples[p.id] = clockSample{ahead, unsure}
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples = samples
	close(c.changed)
	c.changed = make(chan struct{})
}

// offset is how far this manager's clock is ahead of the median of those that
// answered, itself among them. Of two in the middle the nearer one counts, so
// that of two managers neither accuses the other; and what the answers' travel
// may explain is taken off.
func (c *clocks) offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []clockSample{{}}
	for _, s := range c.samples {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b clockSample) int { return int(a.ahead/time.Millisecond - b.ahead/time.Millisecond) })
	low, high := all[(len(all)-1)/2], all[len(all)/2]
	median := low
	if high.ahead.Abs() < low.ahead.Abs() {
		median = high
	}
	off := -median.ahead
	switch {
	case off > median.unsure:
		return off - median.unsure
	case off < -median.unsure:
		return off + median.unsure
	}
	return 0
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

// mayLead returns why this manager may not lead now.
func (c *clocks) mayLead() error {
	if off := c.offset(); off.Abs() > maxSkew {
		return fmt.Errorf("%s: it may not lead", describeOffset(off))
	}
	return nil
}

// untilWrong returns an error when this manager may not lead any more.
func (c *clocks) untilWrong(ctx context.Context) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if err := c.mayLead(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func describeOffset(off time.Duration) string {
	way := "ahead of"
	if off < 0 {
		way = "behind"
	}
	return fmt.Sprintf("the clock of this manager is %v %s the other managers': check its time service", off.Abs().Round(100*time.Millisecond), way)
}
