package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// leadership publishes whether this server leads with a complete state: raft
// made it leader, everything committed before is applied, and its clock is one
// to stamp with.
type leadership struct {
	mu      sync.Mutex // guards the rest
	ctx     context.Context
	cancel  context.CancelFunc
	changed chan struct{} // closed and replaced at every change
	known   string        // the leader that raft knows; empty: none
	lost    time.Time     // when the one before was known no more; zero: there was none
}

func newLeadership() *leadership { return &leadership{changed: make(chan struct{})} }

func (l *leadership) gain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.broadcastLocked()
}

func (l *leadership) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancel != nil {
		l.cancel()
		l.ctx, l.cancel = nil, nil
	}
	l.broadcastLocked()
}

// observe notes who leads, as raft has it.
func (l *leadership) observe(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == l.known {
		return
	}
	if l.known != "" {
		l.lost = time.Now()
	}
	l.known = id
}

func (l *leadership) broadcastLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// current returns a context that ends with this leadership, or nil, and a
// channel that is closed at the next change.
func (l *leadership) current() (context.Context, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctx, l.changed
}

// ready returns when this server leads. It waits only while raft says leader
// and the state is not complete yet.
func (l *leadership) ready(ctx context.Context, s *Store) error {
	for {
		lead, changed := l.current()
		if lead != nil {
			return nil
		}
		if why := s.halt.reason(); why != nil {
			return why
		}
		select {
		case <-s.stopping:
			return ErrClosed
		default:
		}
		if s.raft.State() != raft.Leader {
			return ErrNotLeader
		}
		select {
		case <-changed:
		case <-s.stopping:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// followLeadership turns raft's notifications into leaderships. The channel may
// drop a pair of changes but never the last one, so every notification ends
// what was before it.
func (s *Store) followLeadership() {
	observed := make(chan raft.Observation, 1)
	observer := raft.NewObserver(observed, false, func(o *raft.Observation) bool {
		seen, ok := o.Data.(raft.LeaderObservation)
		if ok { // here, as what does not fit into the channel is dropped
			s.lead.observe(string(seen.LeaderID))
		}
		return ok
	})
	s.raft.RegisterObserver(observer)
	_, id := s.raft.LeaderWithID()
	s.lead.observe(string(id))
	defer s.raft.DeregisterObserver(observer)
	defer s.lead.lose()
	var established <-chan error
	var retry <-chan time.Time
	give := func() {} // ends the attempt under way
	defer func() { give() }()
	establish := func() {
		ctx, cancel := context.WithCancel(context.Background())
		answer := make(chan error, 1)
		established, retry, give = answer, nil, cancel
		s.wg.Go(func() { answer <- s.establish(ctx) })
	}
	for {
		select {
		case leads := <-s.raft.LeaderCh():
			s.lead.lose()
			give()
			established, retry = nil, nil
			if leads {
				establish()
			}
		case err := <-established:
			established = nil
			give()
			switch {
			case err == nil:
				s.lead.gain()
			case s.raft.State() != raft.Leader:
			case errors.Is(err, errClock):
				retry = time.After(confirmRetry)
			default: // a transfer was under way, for one
				retry = time.After(establishRetry)
			}
		case <-retry:
			establish()
		case <-observed:
			s.lead.notify()
		case <-s.moved:
			s.dropStrangers()
		case <-s.stopping:
			return
		}
	}
}

func (l *leadership) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broadcastLocked()
}

// IsLeader reports whether this server leads and has applied everything that
// was committed before it did.
func (s *Store) IsLeader() bool {
	lead, _ := s.lead.current()
	return lead != nil
}

// Leader names the leader as far as this server knows; empty for none.
func (s *Store) Leader() (id, hostport string) {
	addr, sid := s.raft.LeaderWithID()
	if sid == "" {
		return "", ""
	}
	if _, hp, err := SplitAddr(string(addr)); err == nil {
		hostport = hp
	}
	return string(sid), hostport
}

// LeaderLost is when the leader before the present one was last known here, itself
// included. Zero: none was since the store was opened.
func (s *Store) LeaderLost() time.Time {
	s.lead.mu.Lock()
	defer s.lead.mu.Unlock()
	return s.lead.lost
}

// Term is the store's term as far as this server knows: every election that gets
// as far as votes begins another.
func (s *Store) Term() uint64 { return s.terms.current() }

// LeaderChanged returns a channel that is closed when what IsLeader or Leader
// say may have changed. Take it before looking at them.
func (s *Store) LeaderChanged() <-chan struct{} {
	_, changed := s.lead.current()
	return changed
}

// WhileLeader calls fn each time this server becomes leader, with a context that
// ends when it is leader no more, and waits for it to return before it calls it
// again. The state fn finds contains everything that was committed under former
// leaders. WhileLeader returns when ctx ends, or the store stops.
func (s *Store) WhileLeader(ctx context.Context, fn func(ctx context.Context)) error {
	for {
		lead, changed := s.lead.current()
		if lead != nil {
			run, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(lead, cancel)
			fn(run)
			stop()
			cancel()
			select { // once per leadership
			case <-lead.Done():
			case <-ctx.Done():
			}
		} else {
			select {
			case <-changed:
			case <-s.stopping:
				return s.stopped()
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (s *Store) stopped() error {
	if why := s.halt.reason(); why != nil {
		return why
	}
	return ErrClosed
}
