// Package netview says what each node is to know of networks: of those that it
// has a task on, who else is on them and where, which services and rules there
// are, and which nodes are its peers. Of other networks a node learns nothing.
//
// Index is what a leader keeps of the whole cluster, in memory, made from a
// snapshot and the changes that follow it. Each network has a journal of what
// changed on it. A Cursor is one node's place in that: Next gives the messages
// that lead from what the node was told to what is. So a change costs its own
// size for each node that has a task on the network, and nothing for the others;
// a node that reads slowly costs no memory, as what it misses is what is looked up
// later. One that fell behind by more than a journal gets everything anew.
//
// Held is the other end: what a node has after the messages it was sent.
//
// A node is part of this while it is a member that is not denied and has an
// address in the mesh. In the transaction that removes it, it is gone as a peer,
// and so is every task of it, whatever the tasks' records still say.
//
// The package does no I/O; sessions and their flow control are the dispatcher's.
package netview

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Tables are those whose changes an Index follows.
func Tables() []raftstore.Registered {
	return []raftstore.Registered{store.Tasks, store.Nodes, store.Services, meshstore.Networks, meshstore.Policies, meshstore.Nodes, pkistore.Nodes}
}

// Index is safe for concurrent use.
type Index struct {
	keep     int          // of a journal, besides two for each endpoint
	mu       sync.RWMutex // guards the following
	at       uint64       // counts calls of Observe
	networks map[string]*network
	nodes    map[string]*node
	services map[string]*schedulerpb.Service
	tasks    map[string]*schedulerpb.Task // live ones with addresses
	spread   map[string]map[string]int    // services to networks, and how many endpoints each has there

	touched map[string]*network // of one Observe
	woken   map[string]bool
}

// network is one network as it is now, and how it came to be so.
type network struct {
	id        string
	record    *meshpb.Network // nil: not there
	endpoints map[string]*schedulerpb.EndpointView
	members   map[string]int  // nodes, and how many endpoints each has
	users     map[string]bool // services that are to be on it
	policies  map[string]*meshpb.Policy

	journal []change // oldest first
	base    uint64   // the journal has what came after it
}

// change says that something is not as it was.
type change struct {
	at   uint64
	kind kind
	id   string
}

type kind uint8

const (
	ofHead kind = iota
	ofEndpoint
	ofService
	ofPolicy
	ofPeer
)

// node is a node, with its tasks on networks.
type node struct {
	id       string
	sched    *schedulerpb.Node
	mesh     *meshpb.MeshNode
	identity *pkipb.Node
	tasks    map[string]*schedulerpb.Task
	networks map[string]int        // of its endpoints, and how many those are
	view     *schedulerpb.PeerView // nil: it is no part of the mesh
}

// Load makes an Index of a snapshot.
func Load(r raftstore.Reader) *Index {
	ix := &Index{
		keep:     maxJournal,
		networks: map[string]*network{}, nodes: map[string]*node{}, services: map[string]*schedulerpb.Service{},
		tasks: map[string]*schedulerpb.Task{}, spread: map[string]map[string]int{}, touched: map[string]*network{}, woken: map[string]bool{},
	}
	for n := range meshstore.Networks.All(r) {
		ix.setNetwork(n.GetId(), n)
	}
	for p := range meshstore.Policies.All(r) {
		ix.setPolicy(nil, p)
	}
	for s := range store.Services.All(r) {
		ix.setService(nil, s)
	}
	for n := range store.Nodes.All(r) {
		ix.node(n.GetId()).sched = n
	}
	for n := range meshstore.Nodes.All(r) {
		ix.node(n.GetId()).mesh = n
	}
	for n := range pkistore.Nodes.All(r) {
		ix.node(n.GetId()).identity = n
	}
	for _, n := range ix.nodes {
		ix.settle(n)
	}
	for _, digit := range strings.Split("0123456789abcdef", "") { // keys are hexadecimal
		for t := range store.Tasks.ByPrefix(r, "address", digit) {
			ix.setTask(t.GetId(), t)
		}
	}
	for _, n := range ix.networks {
		n.journal = nil // nobody was told anything
	}
	clear(ix.touched)
	clear(ix.woken)
	return ix
}

// Observe takes changes and returns the nodes that have something to be told.
func (ix *Index) Observe(events []raftstore.Event) (nodes []string) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.at++
	for _, e := range events {
		ix.observe(e)
	}
	for id, n := range ix.touched {
		for node := range n.members {
			ix.woken[node] = true
		}
		n.trim(ix.keep)
		if n.record == nil && len(n.endpoints)+len(n.users)+len(n.policies) == 0 {
			delete(ix.networks, id)
		}
	}
	clear(ix.touched)
	for id := range ix.woken {
		nodes = append(nodes, id)
	}
	clear(ix.woken)
	return nodes
}

func (ix *Index) observe(e raftstore.Event) {
	if old, now, ok := store.Tasks.Event(e); ok {
		ix.setTask(cmp.Or(now.GetId(), old.GetId()), now)
	} else if old, now, ok := store.Services.Event(e); ok {
		ix.setService(old, now)
	} else if old, now, ok := meshstore.Networks.Event(e); ok {
		ix.setNetwork(cmp.Or(now.GetId(), old.GetId()), now)
	} else if old, now, ok := meshstore.Policies.Event(e); ok {
		ix.setPolicy(old, now)
	} else if old, now, ok := store.Nodes.Event(e); ok {
		n := ix.node(cmp.Or(now.GetId(), old.GetId()))
		n.sched = now
		ix.settle(n)
	} else if old, now, ok := meshstore.Nodes.Event(e); ok {
		n := ix.node(cmp.Or(now.GetId(), old.GetId()))
		n.mesh = now
		ix.settle(n)
	} else if old, now, ok := pkistore.Nodes.Event(e); ok {
		n := ix.node(cmp.Or(now.GetId(), old.GetId()))
		n.identity = now
		ix.settle(n)
	}
}

func (ix *Index) network(id string) *network {
	n := ix.networks[id]
	if n == nil {
		n = &network{id: id, endpoints: map[string]*schedulerpb.EndpointView{}, members: map[string]int{}, users: map[string]bool{},
			policies: map[string]*meshpb.Policy{}, base: ix.at}
		ix.networks[id] = n
	}
	ix.touched[id] = n
	return n
}

func (ix *Index) node(id string) *node {
	n := ix.nodes[id]
	if n == nil {
		n = &node{id: id, tasks: map[string]*schedulerpb.Task{}, networks: map[string]int{}}
		ix.nodes[id] = n
	}
	return n
}

func (ix *Index) note(n *network, k kind, id string) {
	n.journal = append(n.journal, change{ix.at, k, id})
}

// trim forgets the older half of a journal that became longer than what is there.
func (n *network) trim(keep int) {
	if len(n.journal) <= keep+2*len(n.endpoints) {
		return
	}
	half := len(n.journal) / 2
	n.base = n.journal[half-1].at
	n.journal = slices.Clone(n.journal[half:])
}

func (ix *Index) setNetwork(id string, now *meshpb.Network) {
	n := ix.network(id)
	n.record = now
	ix.note(n, ofHead, "")
}

func (ix *Index) setPolicy(old, now *meshpb.Policy) {
	if old != nil {
		n := ix.network(old.GetSpec().GetNetwork())
		delete(n.policies, old.GetId())
		ix.note(n, ofPolicy, "")
	}
	if now != nil {
		n := ix.network(now.GetSpec().GetNetwork())
		n.policies[now.GetId()] = now
		ix.note(n, ofPolicy, "")
	}
}

func (ix *Index) setService(old, now *schedulerpb.Service) {
	id := cmp.Or(now.GetId(), old.GetId())
	for _, u := range old.GetSpec().GetTask().GetNetworks() {
		n := ix.network(u.GetNetwork())
		delete(n.users, id)
		ix.note(n, ofService, id)
	}
	for _, u := range now.GetSpec().GetTask().GetNetworks() {
		n := ix.network(u.GetNetwork())
		n.users[id] = true
		ix.note(n, ofService, id)
	}
	if now == nil {
		delete(ix.services, id)
	} else {
		ix.services[id] = now
	}
	for network := range ix.spread[id] { // also of networks that it left
		ix.note(ix.network(network), ofService, id)
	}
}

// setTask takes a task as it is now; nil: it is gone.
func (ix *Index) setTask(id string, now *schedulerpb.Task) {
	if now != nil && (!store.Live(now) || len(now.GetAttachments()) == 0 || now.GetNodeId() == "") {
		now = nil
	}
	old := ix.tasks[id]
	switch {
	case old == now:
		return
	case old != nil && now != nil && samePlace(old, now):
		n := ix.node(now.GetNodeId())
		n.tasks[id], ix.tasks[id] = now, now
		if n.view != nil && Serving(old) != Serving(now) {
			for _, a := range now.GetAttachments() {
				net := ix.network(a.GetNetworkId())
				net.endpoints[id] = endpoint(now, a)
				ix.note(net, ofEndpoint, id)
			}
		}
		return
	}
	if old != nil {
		n := ix.node(old.GetNodeId())
		if n.view != nil {
			ix.hide(n, old)
		}
		delete(n.tasks, id)
		delete(ix.tasks, id)
		ix.drop(n)
	}
	if now != nil {
		n := ix.node(now.GetNodeId())
		n.tasks[id], ix.tasks[id] = now, now
		if n.view != nil {
			ix.show(n, now)
		}
	}
}

// samePlace: what a task is on does not change as long as it has a node.
func samePlace(a, b *schedulerpb.Task) bool {
	return a.GetNodeId() == b.GetNodeId() &&
		slices.EqualFunc(a.GetAttachments(), b.GetAttachments(), func(x, y *taskpb.Attachment) bool { return proto.Equal(x, y) })
}

// Serving reports whether names and virtual addresses lead to a task: it runs,
// passes its healthcheck, and is not asked to stop.
func Serving(t *schedulerpb.Task) bool {
	return store.State(t) == store.Running && t.GetDesired() <= store.Running && !t.GetStatus().GetUnhealthy()
}

// show puts a task on its networks.
func (ix *Index) show(on *node, t *schedulerpb.Task) {
	for _, a := range t.GetAttachments() {
		id, service := a.GetNetworkId(), t.GetServiceId()
		n := ix.network(id)
		n.endpoints[t.GetId()] = endpoint(t, a)
		ix.note(n, ofEndpoint, t.GetId())
		if n.members[on.id]++; n.members[on.id] == 1 {
			ix.note(n, ofPeer, on.id)
		}
		on.networks[id]++
		if ix.spread[service] == nil {
			ix.spread[service] = map[string]int{}
		}
		if ix.spread[service][id]++; ix.spread[service][id] == 1 {
			ix.note(n, ofService, service)
		}
	}
}

// hide takes a task off its networks.
func (ix *Index) hide(on *node, t *schedulerpb.Task) {
	ix.woken[on.id] = true // it may have been its last there
	for _, a := range t.GetAttachments() {
		id, service := a.GetNetworkId(), t.GetServiceId()
		n := ix.network(id)
		delete(n.endpoints, t.GetId())
		ix.note(n, ofEndpoint, t.GetId())
		if less(n.members, on.id) {
			ix.note(n, ofPeer, on.id)
		}
		less(on.networks, id)
		if less(ix.spread[service], id) {
			ix.note(n, ofService, service)
		}
		if len(ix.spread[service]) == 0 {
			delete(ix.spread, service)
		}
	}
}

// less counts down, and reports whether nothing is left.
func less(m map[string]int, id string) bool {
	if m[id]--; m[id] > 0 {
		return false
	}
	delete(m, id)
	return true
}

// settle sees what a changed record of a node means.
func (ix *Index) settle(n *node) {
	was, is := n.view, n.peerView()
	n.view = is
	switch {
	case was == nil && is == nil:
	case was == nil:
		for _, t := range n.tasks {
			ix.show(n, t)
		}
		ix.woken[n.id] = true
	case is == nil:
		for _, t := range n.tasks {
			ix.hide(n, t)
		}
		ix.woken[n.id] = true
	case !proto.Equal(was, is):
		for id := range n.networks {
			ix.note(ix.network(id), ofPeer, n.id)
		}
		ix.woken[n.id] = true
	}
	ix.drop(n)
}

// drop forgets a node of which nothing is left.
func (ix *Index) drop(n *node) {
	if n.sched == nil && n.mesh == nil && n.identity == nil && len(n.tasks) == 0 {
		delete(ix.nodes, n.id)
	}
}
