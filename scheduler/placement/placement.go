// Package placement decides which node a task goes to, and explains itself
// where there is none.
//
// It owns the filters (ready, availability, features, constraints, platform, the mesh,
// most tasks of a service on a node, resources, host ports) and the order among the nodes
// that pass them: first those where the service's tasks do not keep failing; then, level
// by level, those of the zone that has the fewest tasks of the service; then those with
// the fewest tasks of the service, then with the fewest tasks at all, then by id, so that
// the same state always gives the same answer. Who packs has the fullest first in the
// place of the fewest tasks.
//
// It also says whom a task of a higher priority takes the place of (Preempt), and which
// task is not where it would be placed today (Surplus). Both only say so.
//
// It refuses to read or write the store and knows no time but the one it is
// given. A Cluster holds what the filters look at, one entry a node, and is kept
// up to date by the caller with each node and task that changed: the cost of
// keeping it grows with what changed, and that of Place with the nodes once and
// then with the tasks placed, however many tasks there are.
//
// Use: Compile a task's spec once per revision; SetNode and SetTask for every
// change; Place a number of equal tasks; SetTask each of them with its node.
// A Cluster belongs to one goroutine.
package placement

import (
	"time"

	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// Request is a compiled task template: what the filters ask of a node.
type Request struct {
	ServiceID string
	Revision  uint64
	// Networks is for who gives the tasks their addresses.
	Networks []*taskpb.NetworkUse
	// Ingress: they are on the network that carries the service's published ports.
	Ingress bool
	// Priority: tasks of a lower one may be stopped for it.
	Priority uint32
	// DependsOn is for who says when a task may have a node at all.
	DependsOn []*taskpb.Dependency

	nanoCPUs, memory int64
	ports            []*taskpb.Port
	platforms        []string
	constraints      []spec.Constraint
	features         []string
	maxPerNode       int
	preferences      []spec.Preference
	strategy         taskpb.Strategy
	generic          []*taskpb.GenericResource
	reserves         bool
	mesh             bool     // its networks span nodes
	names            []string // of its volumes
	volumes          []*taskpb.Volume
}

// Compile reads a task template. It fails on a constraint that does not parse,
// which validation does not let in. feature tells which one a node has to report
// for a network; nil: the mesh's, for each.
func Compile(serviceID string, revision uint64, t *taskpb.TaskSpec, feature func(network string) string) (*Request, error) {
	r := &Request{
		ServiceID: serviceID,
		Revision:  revision,
		Networks:  t.GetNetworks(),
		DependsOn: t.GetDependsOn(),
		nanoCPUs:  t.GetReservations().GetNanoCpus(),
		memory:    t.GetReservations().GetMemoryBytes(),
		ports:     spec.HostPorts(t),
		Ingress:   spec.HasIngress(t),
		platforms: t.GetPlatforms(),

		maxPerNode: int(t.GetMaxPerNode()),
		Priority:   t.GetPriority(),
		strategy:   t.GetStrategy(),
		generic:    t.GetReservations().GetGeneric(),
		reserves:   spec.Reserves(t),
	}
	for _, text := range t.GetPreferences() {
		p, err := spec.ParsePreference(text)
		if err != nil {
			return nil, err
		}
		r.preferences = append(r.preferences, p)
	}
	r.features = confine.Features(t.GetContainer())
	for _, u := range volumes.Uses(t.GetContainer()) {
		r.names = append(r.names, u.GetName())
	}
	for _, n := range t.GetNetworks() {
		needs := meshspec.MeshFeature
		if feature != nil {
			needs = feature(n.GetNetwork())
		}
		switch {
		case needs == meshspec.MeshFeature:
			r.mesh = true
		case needs != "":
			r.features = append(r.features, needs)
		}
	}
	r.mesh = r.mesh || r.Ingress
	for _, text := range t.GetConstraints() {
		c, err := spec.ParseConstraint(text)
		if err != nil {
			return nil, err
		}
		r.constraints = append(r.constraints, c)
	}
	return r, nil
}

// SetStrategy says how nodes are chosen for requests that do not say themselves.
func (c *Cluster) SetStrategy(s taskpb.Strategy) { c.strategy = s }

// Place chooses nodes for n equal tasks, one entry each, in order. Where fewer
// than n fit, the refusal says why for the rest. It reserves nothing: SetTask
// does, once the caller has made up its mind.
func (c *Cluster) Place(r *Request, n int, now time.Time) ([]string, *Refusal) {
	if n <= 0 {
		return nil, nil
	}
	if len(r.volumes) > 0 {
		return c.placeWithData(r, n, now)
	}
	root, refusal := c.tree(r, now, nil)
	chosen := make([]string, 0, n)
	for len(chosen) < n && !root.empty() {
		chosen = append(chosen, root.take(r, refusal))
	}
	if len(chosen) == n {
		return chosen, nil
	}
	return chosen, refusal
}

// Check says why the task cannot go to that node; nil: it can.
func (c *Cluster) Check(r *Request, nodeID string) *Refusal {
	info, ok := c.nodes[nodeID]
	why := same(0, "gone")
	if ok {
		why = info.refuses(r, c.services[r.ServiceID][info].live, 0)
	}
	if why == nil {
		return nil
	}
	refusal := &Refusal{}
	refusal.add(*why)
	return refusal
}

// Matches reports whether a node that is there satisfies the request's
// constraints and platforms, whatever its state and load: whether a task may
// stay there. One whose networks span nodes may not where these are cut for good,
// as in FIPS mode: it would be called running and be out of reach.
func (r *Request) Matches(n *schedulerpb.Node) bool {
	return constraintReason(r, n) == nil && platformReason(r, n) == nil && !(r.mesh && inFIPS(n))
}

// Able reports whether a node has the features that new tasks need. Those that are
// there stay without.
func (r *Request) Able(n *schedulerpb.Node) bool { return needReason(r, n) == nil }
