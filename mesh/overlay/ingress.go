package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// ingressSide is what is known of netd's part in the routing mesh. Manager.mu
// guards it.
type ingressSide struct {
	told       *ingressPlan // nil: it is not known what netd has
	generation uint64
	failure    string // why the last declaration failed; empty: it did not
	degraded   string // why nothing of it is as declared; empty: it is
	// What is not as declared: of tasks, and of ports by service.
	tasks map[string]string
	ports map[string][]string
	notes []string // what else somebody should know
	// Tasks of this node that netd may have; nil: nobody knows. uses is whether it
	// may use the namespace.
	has  map[string]bool
	uses bool
}

// waiting says why a task is not reached by its published ports as declared.
func (s *ingressSide) waiting(task string) string {
	switch {
	case s.failure != "":
		return s.failure
	case s.told == nil || !s.told.places(task):
		return "waiting for netd"
	case s.tasks[task] != "":
		return s.tasks[task]
	}
	return s.degraded
}

// places reports whether the task is one of this node in p.
func (p *ingressPlan) places(task string) bool {
	for _, s := range p.services {
		if e, ok := s.endpoints[task]; ok && e.node == "" {
			return true
		}
	}
	return false
}

// may remembers what netd is about to be told.
func (s *ingressSide) may(p *ingressPlan) {
	s.uses = s.uses || len(p.services) > 0
	if s.has == nil {
		return // nobody knows what else
	}
	for _, x := range p.services {
		for task, e := range x.endpoints {
			if e.node == "" {
				s.has[task] = true
			}
		}
	}
}

// took is told once netd has p.
func (s *ingressSide) took(p *ingressPlan, generation uint64) {
	s.told, s.generation, s.failure, s.degraded = p, generation, "", ""
	s.has, s.uses = map[string]bool{}, false
	s.may(p)
}

// found takes what netd says is not as declared, all of it.
func (s *ingressSide) found(degraded string, results []*netdpb.IngressResult, notes []string) {
	s.notes, s.degraded, s.tasks, s.ports = notes, degraded, map[string]string{}, map[string][]string{}
	for _, r := range results {
		switch {
		case r.GetTaskId() != "":
			s.tasks[r.GetTaskId()] = r.GetError()
		case r.GetPublished() != 0:
			// One of IPv4 and one of IPv6 are often the same to people.
			if known := s.ports[r.GetServiceId()]; !slices.Contains(known, r.GetError()) {
				s.ports[r.GetServiceId()] = append(known, r.GetError())
			}
		case s.degraded == "":
			s.degraded = r.GetError()
		}
	}
}

// failing are the tasks that are not as declared.
func (s *ingressSide) failing() map[string]bool {
	out := map[string]bool{}
	for task, why := range s.tasks {
		if why != "" {
			out[task] = true
		}
	}
	return out
}

// declareIngress tells netd what differs; with again, also the tasks that failed.
// ok is that every task is as declared.
func (m *Manager) declareIngress(ctx context.Context, again bool) (ok bool, err error) {
	m.mu.Lock()
	s := &m.ingress
	if !m.known || m.made == nil || s.has == nil && !m.ingressPrepared() {
		m.mu.Unlock()
		return true, nil
	}
	p := makeIngress(m.view, m.tasks, m.made[Ingress])
	var req *netdpb.IngressRequest
	generation := m.gen.Next()
	switch {
	case p == nil:
	case s.told == nil:
		req = p.whole(generation)
	default:
		var failing map[string]bool
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

	resp, err := m.callNetd(ctx, &netdpb.Request{Verb: &netdpb.Request_Ingress{Ingress: req}})
	if err == nil && resp.GetIngress() == nil {
		err = errors.New("netd answered Ingress with something else")
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	m.mu.Lock()
	if err != nil {
		if s.failure != err.Error() {
			m.cfg.Logger.Warn("netd did not take the published ports, trying again", "err", err)
		}
		s.told, s.failure = nil, err.Error()
	} else {
		s.took(p, generation)
		m.ingressFound("", resp.GetIngress().GetResults(), resp.GetIngress().GetNotes())
	}
	ok = err == nil && len(s.failing()) == 0
	m.mu.Unlock()
	m.changed()
	return ok, err
}

// ingressFound passes on what netd found, and says once what is new in it. m.mu
// is held.
func (m *Manager) ingressFound(degraded string, results []*netdpb.IngressResult, notes []string) {
	s := &m.ingress
	was := *s
	s.found(degraded, results, notes)
	if s.degraded != "" && s.degraded != was.degraded {
		m.cfg.Logger.Warn("published ports are degraded", "err", s.degraded)
	}
	for task, why := range s.tasks {
		if why != was.tasks[task] {
			m.cfg.Logger.Warn("a task is not reached by its published ports", "task", task, "err", why)
		}
	}
	for service, whys := range s.ports {
		if !slices.Equal(whys, was.ports[service]) {
			m.cfg.Logger.Warn("ports are not published on this node", "service", service, "err", whys)
		}
	}
}

// ingressPrepared reports whether rund has spoken of the namespace, should one be
// needed: see prepared. m.mu is held.
func (m *Manager) ingressPrepared() bool {
	return m.view != nil && (!m.view.ingress() || m.made[Ingress] || m.unmade[Ingress] != "")
}

// ingress reports whether any network carries published ports.
func (v *View) ingress() bool {
	for _, n := range v.Networks {
		if n.isIngress() {
			return true
		}
	}
	return false
}

// checkIngress notices that netd was restarted, and what became of ports.
func (m *Manager) checkIngress(ctx context.Context) {
	m.mu.Lock()
	generation, told := m.ingress.generation, m.ingress.told != nil
	m.mu.Unlock()
	if !told {
		return // it is being told anyway
	}
	st, err := m.IngressState(ctx)
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	s := &m.ingress
	if s.told == nil || s.generation != generation {
		m.mu.Unlock()
		return // of what was in force before
	}
	if err != nil || st.GetGeneration() != generation {
		s.told = nil
		kick(m.ingressKick)
	} else {
		m.ingressFound(st.GetError(), st.GetResults(), st.GetNotes())
		if st.GetRepairs() > m.ingressRepaired {
			m.cfg.Logger.Warn("netd found published ports changed by somebody else and restored them", "times", st.GetRepairs()-m.ingressRepaired)
		}
		m.ingressRepaired = st.GetRepairs()
	}
	m.mu.Unlock()
	m.changed()
}

// IngressState asks netd what of the routing mesh is in force.
func (m *Manager) IngressState(ctx context.Context) (*netdpb.IngressStateResponse, error) {
	resp, err := m.callNetd(ctx, &netdpb.Request{Verb: &netdpb.Request_IngressState{IngressState: &netdpb.IngressStateRequest{}}})
	if err != nil {
		return nil, err
	}
	if resp.GetIngressState() == nil {
		return nil, errors.New("netd answered IngressState with something else")
	}
	return resp.GetIngressState(), nil
}

// Unpublished says which ports this node should answer on and does not, and why,
// and where it does so in another way than it should.
func (m *Manager) Unpublished() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(m.ingress.notes)
	for _, whys := range m.ingress.ports {
		out = append(out, whys...)
	}
	if m.view != nil {
		for _, n := range m.view.Networks {
			if n.isIngress() && n.Entries[m.view.Self.ID] {
				out = append(out, n.unable()...)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Pools are the addresses that are the cluster's alone; nil: nobody said yet.
func (m *Manager) Pools() []netip.Prefix {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.said == nil {
		return nil
	}
	return m.said.Pools
}

// Reach is what containers reach of nodes; false: nobody said yet.
func (m *Manager) Reach() (mesh.Reach, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.said == nil {
		return mesh.Reach{}, false
	}
	return m.said.Reach, true
}

// String is how people write the port.
func (p Port) String() string {
	text := strconv.Itoa(int(p.Published))
	if p.Host.IsValid() {
		text = net.JoinHostPort(p.Host.String(), text)
	}
	if p.UDP {
		return fmt.Sprintf("%s/udp", text)
	}
	return fmt.Sprintf("%s/tcp", text)
}
