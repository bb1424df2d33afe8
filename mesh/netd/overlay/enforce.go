package overlay

import (
	"context"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay/rules"
)

// An enforcer is the ruleset of a namespace (rules.Table).
type enforcer interface {
	Touched() (bool, error)
	Bounded() bool
	Set(ctx context.Context, n *rules.Network) (changed bool, err error)
	Ensure() (repaired bool, err error)
	Stale() bool
	Forget() error
	Counters() (allowed, dropped map[string]uint64, err error)
}

// A ruleset is what the enforcer is told, kept to be changed in places: a network
// may have many thousands of endpoints, and changes are of few.
type ruleset struct {
	rules.Network
	places map[string]int // of endpoints, by task
}

// enforce puts the rules in force.
func (r *realm) enforce(ctx context.Context, t *touched) error {
	if r.table == nil {
		r.table = r.o.newTable(r.nf)
	}
	switch {
	case t.whole || r.rules == nil:
		r.rules = &ruleset{places: make(map[string]int, len(r.net.endpoints))}
		for _, e := range r.net.endpoints {
			r.rules.put(r, e.task)
		}
		t.services = true
	case t.looks() && len(t.tasks) == 0:
		return nil // and nothing else came of it
	default:
		for task := range t.tasks {
			r.rules.put(r, task)
		}
	}
	r.rules.frame(r.net, t.services)
	// The kernel would tell of each element that is put in or taken out.
	listen, err := r.notices.Mute(kernel.Rulesets)
	if err != nil {
		return err
	}
	changed, err := r.table.Set(ctx, &r.rules.Network)
	if changed {
		r.changed("changed the rules")
	}
	err = kernel.OneLine(err, listen())
	if err == nil && !r.table.Bounded() && r.o.unbounded.CompareAndSwap(false, true) {
		r.o.log.Warn("this kernel counts no connections of containers on networks: none has a bound of its own", "lacks", "nft_connlimit or nft_limit")
	}
	if r.table.Stale() {
		r.news.Or(newsStale)
	}
	if touched, e := r.table.Touched(); e != nil || touched { // while nobody listened
		r.news.Or(newsRules)
	}
	return err
}

// frame sets all but the endpoints.
func (s *ruleset) frame(n *network, services bool) {
	s.Internal, s.DefaultDeny, s.Uplink, s.Rules = n.internal, n.defaultDeny, uplinkName, n.rules
	s.Subnets, s.Gateways = nil, n.gateways()
	for _, sub := range n.subnets {
		if sub.prefix.IsValid() {
			s.Subnets = append(s.Subnets, sub.prefix)
		}
	}
	if !services {
		return
	}
	s.Services = make([]rules.Service, 0, len(n.services))
	for _, x := range n.services {
		s.Services = append(s.Services, rules.Service{ID: x.id, VIPs: valid(x.vips)})
	}
}

// put makes what is said of one task what the network has: nothing of one that has
// no endpoint, nor of one that has no interface.
func (s *ruleset) put(r *realm, task string) {
	i, there := s.places[task]
	e := r.net.endpoints[task]
	if e != nil && e.local() {
		if _, ok := r.ports[task]; !ok {
			e = nil
		}
	}
	if e == nil {
		if there { // the last takes its place
			last := len(s.Endpoints) - 1
			s.Endpoints[i] = s.Endpoints[last]
			s.places[s.Endpoints[i].Task] = i
			s.Endpoints[last] = rules.Endpoint{}
			s.Endpoints = s.Endpoints[:last]
			delete(s.places, task)
		}
		return
	}
	out := rules.Endpoint{Task: e.task, Service: e.service, Addrs: valid(e.addrs), Serving: e.serving}
	if e.local() {
		out.Port, out.MAC = portName(e.task), sandboxMAC(r.id, e)
	} else {
		mac := routerMAC(e.node)
		out.MAC = mac[:]
	}
	if there {
		s.Endpoints[i] = out
		return
	}
	s.places[task] = len(s.Endpoints)
	s.Endpoints = append(s.Endpoints, out)
}
