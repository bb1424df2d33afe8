package placement

import (
	"encoding/binary"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/generic"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Cluster is what placement knows of the nodes and of what runs there.
type Cluster struct {
	nodes map[string]*nodeInfo
	// tasks has those that are counted somewhere, so that a change of one takes
	// back exactly what was counted.
	tasks map[string]counted
	// away holds what is counted of nodes that are not known (yet): tasks and
	// nodes may be told of in any order.
	away map[string]*nodeInfo
	// services has the live tasks of each service by node, and failures those
	// of a revision that failed, with when. They stand here and not with the
	// node so that looking at every node for a service costs nothing on nodes
	// that have nothing of it.
	services map[string]map[*nodeInfo]tally
	failures map[revisionKey]map[*nodeInfo]map[string]time.Time
	// strategy is that of requests that do not say.
	strategy taskpb.Strategy
}

// tally is how many tasks of a service a node has: those that may have a container,
// and those of them that neither end nor make way for others.
type tally struct{ live, stays int }

// counted is one task as it was counted.
type counted struct {
	nodeID  string
	request *Request
	live    bool
	ends    bool // it was told to
	moves   bool // it makes way for another
	created int64
	given   []*taskpb.GenericResource
}

// nodeInfo sums up a node.
type nodeInfo struct {
	node *schedulerpb.Node // nil in Cluster.away
	// closed is why nothing at all is placed there, nil where something may be.
	closed *reason
	// unmeshed is why nothing is that has a network which spans nodes.
	unmeshed *reason
	order    uint64 // the beginning of the id, to compare by
	live     int    // tasks that may have a container
	goes     int    // those of them that end, or make way for others
	failed   int    // tasks counted in Cluster.failures
	nanoCPUs int64  // reserved
	memory   int64  // reserved
	ports    map[portKey][]string
	generic  map[string]*pool // by kind, what is used
	// empties: what is there leaves, as the node is drained or down.
	empties bool
}

// pool is what is used of one kind of generic resources.
type pool struct {
	used  int64
	names map[string]int
}

type portKey struct {
	published uint32
	protocol  taskpb.Port_Protocol
}

type revisionKey struct {
	service  string
	revision uint64
}

// NewCluster returns a cluster without nodes.
func NewCluster() *Cluster {
	return &Cluster{
		nodes: map[string]*nodeInfo{}, away: map[string]*nodeInfo{}, tasks: map[string]counted{},
		services: map[string]map[*nodeInfo]tally{}, failures: map[revisionKey]map[*nodeInfo]map[string]time.Time{},
	}
}

// SetNode makes a node known or replaces what was known. n is kept and must not
// change.
func (c *Cluster) SetNode(n *schedulerpb.Node) {
	id := n.GetId()
	info := c.nodes[id]
	if info == nil {
		if info = c.away[id]; info == nil {
			info = &nodeInfo{}
		}
		delete(c.away, id)
		c.nodes[id] = info
	}
	info.node = n
	if info.closed = stateReason(n); info.closed == nil {
		info.closed = featureReason(n)
	}
	info.unmeshed = meshReason(n)
	info.empties = n.GetState() == schedulerpb.NodeState_NODE_STATE_DOWN || store.Effective(n) == store.Drain
	var head [8]byte
	copy(head[:], id)
	info.order = binary.BigEndian.Uint64(head[:])
}

// Node returns what SetNode was given last, or nil.
func (c *Cluster) Node(id string) *schedulerpb.Node {
	if info := c.nodes[id]; info != nil {
		return info.node
	}
	return nil
}

// RemoveNode forgets a node.
func (c *Cluster) RemoveNode(id string) {
	info := c.nodes[id]
	if info == nil {
		return
	}
	delete(c.nodes, id)
	info.node = nil
	if !info.empty() {
		c.away[id] = info
	}
}

// SetTask counts a task where it is, in place of what was counted of it before.
// r is its compiled revision.
func (c *Cluster) SetTask(t *schedulerpb.Task, r *Request) {
	c.RemoveTask(t.GetId())
	if t.GetNodeId() == "" {
		return
	}
	switch state := store.State(t); {
	case store.Live(t):
		now := counted{nodeID: t.GetNodeId(), request: r, live: true, ends: t.GetDesired() > store.Running,
			moves: t.GetMakesWayFor() != "", created: t.GetMeta().GetCreatedAt(), given: t.GetGeneric()}
		c.tasks[t.GetId()] = now
		c.count(c.info(t.GetNodeId()), now, 1)
	case state == store.Failed || state == store.Rejected:
		c.tasks[t.GetId()] = counted{nodeID: t.GetNodeId(), request: r}
		c.fail(c.info(t.GetNodeId()), r, t)
	}
}

// RemoveTask forgets a task.
func (c *Cluster) RemoveTask(id string) {
	was, ok := c.tasks[id]
	if !ok {
		return
	}
	delete(c.tasks, id)
	info := c.info(was.nodeID)
	if was.live {
		c.count(info, was, -1)
	} else {
		c.forgive(info, was.request, id)
	}
	if info.node == nil && info.empty() {
		delete(c.away, was.nodeID)
	}
}

func (c *Cluster) info(id string) *nodeInfo {
	if i := c.nodes[id]; i != nil {
		return i
	}
	i := c.away[id]
	if i == nil {
		i = &nodeInfo{}
		c.away[id] = i
	}
	return i
}

func (i *nodeInfo) empty() bool { return i.live == 0 && i.failed == 0 }

// count adds a task, or with -1 takes one away.
func (c *Cluster) count(i *nodeInfo, t counted, sign int) {
	r := t.request
	i.live += sign
	i.nanoCPUs += int64(sign) * r.nanoCPUs
	i.memory += int64(sign) * r.memory
	own := c.services[r.ServiceID]
	if own == nil {
		own = map[*nodeInfo]tally{}
		c.services[r.ServiceID] = own
	}
	now := own[i]
	now.live += sign
	if t.ends || t.moves {
		i.goes += sign
	} else {
		now.stays += sign
	}
	if own[i] = now; now.live == 0 {
		if delete(own, i); len(own) == 0 {
			delete(c.services, r.ServiceID)
		}
	}
	i.use(r, t.given, sign)
	for _, p := range r.ports {
		k := portKey{p.GetPublished(), p.GetProtocol()}
		if sign > 0 {
			if i.ports == nil {
				i.ports = map[portKey][]string{}
			}
			i.ports[k] = append(i.ports[k], p.GetHostIp())
			continue
		}
		if i.ports[k] = without(i.ports[k], p.GetHostIp()); len(i.ports[k]) == 0 {
			delete(i.ports, k)
		}
	}
}

// use counts what a task has of the node's generic resources.
func (i *nodeInfo) use(r *Request, given []*taskpb.GenericResource, sign int) {
	if len(r.generic) > 0 && i.generic == nil {
		i.generic = map[string]*pool{}
	}
	for _, g := range r.generic {
		p := i.generic[g.GetKind()]
		if p == nil {
			p = &pool{names: map[string]int{}}
			i.generic[g.GetKind()] = p
		}
		p.used += int64(sign) * g.GetCount()
		for _, name := range generic.Of(given, g.GetKind()).GetNames() {
			if p.names[name] += sign; p.names[name] == 0 {
				delete(p.names, name)
			}
		}
		if p.used == 0 && len(p.names) == 0 {
			delete(i.generic, g.GetKind())
		}
	}
}

// free is how many of a kind nobody has. It can be less than 0, after a node's
// configuration was changed.
func (i *nodeInfo) free(kind string) int64 {
	n := generic.Total(generic.Of(i.node.GetDescription().GetResources().GetGeneric(), kind))
	if p := i.generic[kind]; p != nil {
		n -= p.used
	}
	return n
}

// Give says what a task of r is given of the generic resources of a node that can run
// it.
func (c *Cluster) Give(r *Request, nodeID string) (out []*taskpb.GenericResource) {
	info := c.nodes[nodeID]
	if info == nil {
		return nil
	}
	for _, g := range r.generic {
		have := generic.Of(info.node.GetDescription().GetResources().GetGeneric(), g.GetKind())
		p := info.generic[g.GetKind()]
		given, ok := generic.Choose(have, func(name string) bool { return p != nil && p.names[name] > 0 }, g.GetCount())
		if !ok {
			return nil // the node refuses what it was not given
		}
		out = append(out, given)
	}
	return out
}

func without(list []string, s string) []string {
	for j, x := range list {
		if x == s {
			list[j] = list[len(list)-1]
			return list[:len(list)-1]
		}
	}
	return list
}

// fail remembers when the store learnt of a failure: the node's own clock does
// not count.
func (c *Cluster) fail(i *nodeInfo, r *Request, t *schedulerpb.Task) {
	k := revisionKey{r.ServiceID, r.Revision}
	if c.failures[k] == nil {
		c.failures[k] = map[*nodeInfo]map[string]time.Time{}
	}
	if c.failures[k][i] == nil {
		c.failures[k][i] = map[string]time.Time{}
	}
	c.failures[k][i][t.GetId()] = time.Unix(0, t.GetMeta().GetUpdatedAt())
	i.failed++
}

func (c *Cluster) forgive(i *nodeInfo, r *Request, taskID string) {
	k := revisionKey{r.ServiceID, r.Revision}
	if delete(c.failures[k][i], taskID); len(c.failures[k][i]) == 0 {
		delete(c.failures[k], i)
	}
	if len(c.failures[k]) == 0 {
		delete(c.failures, k)
	}
	i.failed--
}

func failing(failures map[string]time.Time, now time.Time) bool {
	recent := 0
	for _, at := range failures {
		if now.Sub(at) < failureWindow {
			recent++
		}
	}
	return recent >= failureThreshold
}

// portTaken reports whether p cannot be published on the node any more.
func (i *nodeInfo) portTaken(p *taskpb.Port) bool {
	for _, ip := range i.ports[portKey{p.GetPublished(), p.GetProtocol()}] {
		if spec.PortsCollide(p, &taskpb.Port{Published: p.GetPublished(), Protocol: p.GetProtocol(), HostIp: ip}) {
			return true
		}
	}
	return false
}
