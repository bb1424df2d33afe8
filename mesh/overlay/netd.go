package overlay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// netdSide is what is known of netd. Manager.mu guards it.
type netdSide struct {
	told       *plan // nil: it is not known what netd has
	generation uint64
	results    map[ref]string    // of this node's own tasks; empty: as declared
	degraded   map[string]string // networks, and why
	failure    string            // why the last declaration failed; empty: it did not
	// What netd may have: tasks of this node, and networks; nil: nobody knows.
	tasks, networks map[string]bool
}

// waiting says why a task is not on a network as declared.
func (s *netdSide) waiting(r ref) string {
	if s.failure != "" {
		return s.failure
	}
	result, ok := s.results[r]
	if !ok || s.told == nil {
		return "waiting for netd"
	}
	if result != "" {
		return result
	}
	return s.degraded[r.network]
}

// may remembers what netd is about to be told.
func (s *netdSide) may(p *plan) {
	if s.tasks == nil {
		return // nobody knows what else
	}
	for task := range p.sandboxes {
		s.tasks[task] = true
	}
	for id, n := range p.networks {
		s.networks[id] = true
		for task, e := range n.endpoints {
			if e.node == "" {
				s.tasks[task] = true
			}
		}
	}
}

// has is told once netd took p.
func (s *netdSide) has(p *plan, generation uint64) {
	s.told, s.generation, s.failure = p, generation, ""
	s.tasks, s.networks = map[string]bool{}, map[string]bool{}
	s.may(p)
	for r := range s.results {
		if n := p.networks[r.network]; n == nil || n.endpoints[r.task].netns == "" {
			delete(s.results, r)
		}
	}
}

// failing are the places that are not as declared.
func (s *netdSide) failing() map[ref]bool {
	out := map[ref]bool{}
	for r, why := range s.results {
		if why != "" {
			out[r] = true
		}
	}
	return out
}

// runNetd tells netd what differs at each kick, tries again what failed, and looks
// now and again whether netd still has it.
func (m *Manager) runNetd(ctx context.Context, kicks <-chan struct{}, declare func(ctx context.Context, again bool) (ok bool, err error), look func(context.Context)) error {
	var pause time.Duration // until the next try of what failed; 0: nothing did
	check := time.NewTimer(checkNetd)
	defer check.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	<-retry.C
	again, failed, pending := false, false, false
	for {
		if !failed {
			ok, err := declare(ctx, again)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			again, failed = false, err != nil
			if ok && err == nil {
				pause = 0
			} else if !pending {
				pause = min(max(2*pause, firstPause), longestPause)
				retry.Reset(pause)
				pending = true
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-kicks: // heard at the retry, where the last declaration failed
		case <-retry.C:
			again, failed, pending = true, false, false
		case <-check.C:
			began := time.Now()
			look(ctx)
			check.Reset(max(checkNetd, checkShare*time.Since(began)))
		}
	}
}

// declareNetd tells netd what differs; with again, also the places that failed.
// ok is that everything is as declared.
func (m *Manager) declareNetd(ctx context.Context, again bool) (ok bool, err error) {
	m.mu.Lock()
	if !m.known || m.made == nil || m.netd.tasks == nil && !m.prepared() {
		m.mu.Unlock()
		return true, nil
	}
	p := makePlan(m.view, m.tasks, m.made)
	s := &m.netd
	var req *netdpb.OverlayRequest
	generation := m.gen.Next()
	switch {
	case p == nil:
	case s.told == nil:
		req = p.whole(generation)
	default:
		var failing map[ref]bool
		if again {
			failing = s.failing()
		}
		req = p.difference(s.told, failing, generation, s.generation)
	}
	if req == nil {
		ok = len(s.failing()) == 0
		m.mu.Unlock()
		return ok, nil
	}
	s.may(p)
	m.mu.Unlock()

	resp, err := m.overlay(ctx, req)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	m.mu.Lock()
	if err != nil {
		m.cfg.Logger.Warn("netd did not take the networks, trying again", "err", err)
		s.told, s.failure = nil, err.Error()
	} else {
		if req.Base == 0 || s.results == nil {
			s.results = map[ref]string{}
		}
		s.degraded = map[string]string{}
		for _, r := range resp.GetNetworks() {
			s.degraded[r.GetNetworkId()] = r.GetError()
		}
		for _, r := range resp.GetEndpoints() {
			s.results[ref{r.GetNetworkId(), r.GetTaskId()}] = r.GetError()
		}
		s.has(p, generation)
		for r, why := range s.results {
			if why != "" {
				m.cfg.Logger.Warn("a task could not be put on a network", "task", r.task, "network", r.network, "err", why)
			}
		}
	}
	ok = err == nil && len(s.failing()) == 0
	m.mu.Unlock()
	m.changed()
	return ok, err
}

// prepared reports whether rund has spoken of every network that there is. The
// first declaration of a process waits for it, as netd removes what is not in it:
// a network that is in use must not go because its turn has not come. m.mu is
// held.
func (m *Manager) prepared() bool {
	if m.view == nil {
		return false
	}
	for id, n := range m.view.Networks {
		if n.makes() && !m.made[id] && m.unmade[id] == "" {
			return false
		}
	}
	return true
}

func (m *Manager) overlay(ctx context.Context, req *netdpb.OverlayRequest) (*netdpb.OverlayResponse, error) {
	var resp *netdpb.Response
	for _, part := range req.Parts(maxNetdMessage) {
		var err error
		if resp, err = m.callNetd(ctx, &netdpb.Request{Verb: &netdpb.Request_Overlay{Overlay: part}}); err != nil {
			return nil, err
		}
	}
	if resp.GetOverlay() == nil {
		return nil, errors.New("netd answered Overlay with something else")
	}
	return resp.GetOverlay(), nil
}

// State asks netd what is in force.
func (m *Manager) State(ctx context.Context) (*netdpb.OverlayStateResponse, error) {
	return m.state(ctx, &netdpb.OverlayStateRequest{})
}

func (m *Manager) state(ctx context.Context, req *netdpb.OverlayStateRequest) (*netdpb.OverlayStateResponse, error) {
	resp, err := m.callNetd(ctx, &netdpb.Request{Verb: &netdpb.Request_OverlayState{OverlayState: req}})
	if err != nil {
		return nil, err
	}
	if resp.GetOverlayState() == nil {
		return nil, errors.New("netd answered OverlayState with something else")
	}
	return resp.GetOverlayState(), nil
}

func (m *Manager) callNetd(ctx context.Context, req *netdpb.Request) (*netdpb.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp := &netdpb.Response{}
	if err := m.cfg.Netd.Call(ctx, req, resp); err != nil {
		return nil, fmt.Errorf("netd is not answering: %w", err)
	}
	if e := resp.GetError(); e != nil {
		return nil, fmt.Errorf("netd refused: %s", e.GetMessage())
	}
	return resp, nil
}

// checkNetd notices that netd was restarted, and what became of networks.
func (m *Manager) checkNetd(ctx context.Context) {
	m.mu.Lock()
	generation, told := m.netd.generation, m.netd.told != nil
	m.mu.Unlock()
	if !told {
		return // it is being told anyway
	}
	st, err := m.state(ctx, &netdpb.OverlayStateRequest{WithoutCounters: true})
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	s := &m.netd
	if s.told == nil || s.generation != generation {
		m.mu.Unlock()
		return // of what was in force before
	}
	was := s.degraded
	switch {
	case err != nil || st.GetGeneration() != generation:
		s.told = nil
		kick(m.netdKick)
	default:
		s.degraded = map[string]string{}
		for r := range s.results { // netd tries again by itself
			s.results[r] = ""
		}
		for _, n := range st.GetNetworks() {
			for _, r := range n.GetEndpoints() {
				s.results[ref{r.GetNetworkId(), r.GetTaskId()}] = r.GetError()
			}
			if n.GetError() != "" {
				s.degraded[n.GetId()] = n.GetError()
				if was[n.GetId()] != n.GetError() {
					m.cfg.Logger.Warn("a network is degraded", "network", n.GetId(), "err", n.GetError())
				}
			}
		}
		if st.GetRepairs() > m.repaired {
			m.cfg.Logger.Warn("netd found networks changed by somebody else and restored them", "times", st.GetRepairs()-m.repaired)
		}
		m.repaired = st.GetRepairs()
	}
	m.mu.Unlock()
	m.changed()
}
