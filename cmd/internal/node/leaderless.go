package node

import (
	"context"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/port"
)

// noQuorumAfter is how long there must be no leader for this manager to say so:
// an election is over by then.
const noQuorumAfter = 2 * time.Second

const lostQuorum = "no leader is heard: a majority of managers must be up and unlocked; if it never will be, see `redoubt recover`"

// leaderlessFor says for how long there is no leader at this moment.
func (m *managerState) leaderlessFor() time.Duration {
	since := m.vacant.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// settled is how long a leader must be heard before this manager takes it that
// it has missed nothing.
const settled = 5 * time.Second

// watchLeaderless keeps since when there is no leader.
func (m *managerState) watchLeaderless(ctx context.Context) error {
	for {
		changed := m.store.LeaderChanged()
		id, _ := m.store.Leader()
		wait := ctx
		cancel := func() {}
		if id == "" {
			m.vacant.CompareAndSwap(0, time.Now().UnixNano())
		} else {
			m.vacant.Store(0)
		}
		switch {
		case id == "":
			m.leaderless.CompareAndSwap(0, time.Now().UnixNano())
		case m.leaderless.Load() != 0:
			wait, cancel = context.WithTimeout(ctx, settled)
		}
		select {
		case <-changed:
		case <-wait.Done():
			if ctx.Err() == nil {
				m.leaderless.Store(0)
			}
		}
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// followLeader has callers come again whenever the leader changed.
func (m *managerState) followLeader(ctx context.Context, p *port.Port) error {
	var last port.Leader
	for {
		changed := m.store.LeaderChanged()
		if now := m.leader(); now != last {
			last = now
			p.LeaderChanged(now)
			id, addr := m.store.Leader()
			for _, l := range m.links {
				l.follow(port.Leader{NodeID: id, Address: addr})
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *managerState) awaitLeader(ctx context.Context) error {
	for {
		changed := m.store.LeaderChanged()
		if id, _ := m.store.Leader(); id != "" && (m.store.IsLeader() || id != m.n.who().NodeID) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
