// Package netview says what each node is to know of networks: of those that it
// has a task on, who else is on them and where, which services and rules there
// are, and which nodes are its peers. Of other networks a node learns nothing.
//
// A service's ingress network is also known to the nodes that answer on its
// published ports. They form a star with those that have its tasks: an entry node
// is told of the tasks and their nodes, a node with tasks of the entry nodes, and
// neither of others of its own kind (entries.go).
//
// Of the cluster as a whole every node is told which addresses are its alone
// (pools.go), and what containers reach of nodes (reach.go).
//
// Index is what a leader keeps of the whole cluster, in memory, made from a
// snapshot and the changes that follow it. Each network has a journal of what
// changed on it. A Cursor is one node's place in that: Next gives the messages
// that lead from what the node was told to what is. So a change costs its own
// size for each node that has a task on the network, and nothing for the others;
// what it is for one node is kept for those that ask the same, as entry nodes do;
// a node that reads slowly costs no memory, as what it misses is what is looked up
// later. One that fell behind by more than a journal gets everything anew.
//
// The other end, which takes the messages, is package agent's.
//
// A node is part of this while it is a member that is not denied and has an
// address in the mesh. In the transaction that removes it, it is gone as a peer,
// and so is every task of it, whatever the tasks' records still say.
//
// The package does no I/O; sessions and their flow control are the dispatcher's.
package netview

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Tables are those whose changes an Index follows.
func Tables() []raftstore.Registered {
	return []raftstore.Registered{store.Tasks, store.Nodes, store.Services, meshstore.Networks, meshstore.Policies, meshstore.Nodes, meshstore.Settings,
		pkistore.Nodes, pkistore.Cluster}
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
	carriers map[string]string            // services to their ingress networks
	groups   map[string]*group            // by their constraints
	pools    pools
	reach    reach

	recent []*network          // what changed, oldest first, one entry for each Observe and network
	ats    []uint64            // when, of each of recent
	since0 uint64              // recent has what came after it
	gone   map[string]*network // that are in recent, and nowhere else

	touched map[string]*network // of one Observe
	woken   map[string]bool
}

// network is one network as it is now, and how it came to be so.
type network struct {
	id        string
	record    *meshpb.Network // nil: not there
	confined  bool            // each node has its own: nobody is told of another's
	wide      bool            // something of it changed for every member; of one Observe
	endpoints map[string]*schedulerpb.EndpointView
	members   map[string]int  // nodes, and how many endpoints each has
	users     map[string]bool // services that are to be on it
	policies  map[string]*meshpb.Policy

	journal []change // oldest first
	base    uint64   // the journal has what came after it
	changed uint64   // when it last was

	// Of ingress networks.
	group     *group // who answers; nil: nobody
	regrouped uint64 // when that became others

	whole atomic.Pointer[memo] // what a node is told at first
	last  atomic.Pointer[memo] // what nodes were told last
}

// change says that something is not as it was.
type change struct {
	at   uint64
	kind kind
	id   string
	on   string // of an endpoint: its node
}

type kind uint8

const (
	ofHead kind = iota
	ofEndpoint
	ofService
	ofPolicy
	ofPeer
	ofEntry
)

// node is a node, with its tasks on networks.
type node struct {
	id       string
	sched    *schedulerpb.Node
	mesh     *meshpb.MeshNode
	identity *pkipb.Node
	tasks    map[string]*schedulerpb.Task
	networks map[string]int        // of its endpoints, and how many those are
	groups   map[string]*group     // that it answers in
	view     *schedulerpb.PeerView // nil: it is no part of the mesh
	shape    uint64                // when it last came to a network or left one
}

// Load makes an Index of a snapshot.
func Load(r raftstore.Reader) *Index {
	ix := &Index{
		keep:     maxJournal,
		networks: map[string]*network{}, nodes: map[string]*node{}, services: map[string]*schedulerpb.Service{},
		tasks: map[string]*schedulerpb.Task{}, spread: map[string]map[string]int{}, carriers: map[string]string{}, groups: map[string]*group{}, gone: map[string]*network{},
		touched: map[string]*network{}, woken: map[string]bool{},
		pools: loadPools(r), reach: reach{at: map[string][]netip.Addr{}, ports: map[string]int{}, stale: true},
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
	for id, n := range ix.networks {
		if n.confined {
			for t := range store.Tasks.By(r, "local", id) {
				ix.setTask(t.GetId(), t)
			}
		}
	}
	for _, n := range ix.networks {
		n.journal, n.wide = nil, false // nobody was told anything
	}
	ix.settlePools()
	ix.settleReach()
	for _, g := range ix.groups {
		g.journal = nil
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
		if n.wide {
			for node := range n.members {
				ix.woken[node] = true
			}
			if n.group != nil {
				for node := range n.group.nodes {
					ix.woken[node] = true
				}
			}
		}
		n.wide, n.changed = false, ix.at
		n.trim(ix.keep)
		ix.recent, ix.ats = append(ix.recent, n), append(ix.ats, ix.at)
		if n.record == nil && len(n.endpoints)+len(n.users)+len(n.policies) == 0 {
			delete(ix.networks, id)
			ix.gone[id] = n
		}
	}
	clear(ix.touched)
	ix.settlePools()
	ix.settleReach()
	if half := len(ix.recent) / 2; half > maxRecent {
		ix.since0 = ix.ats[half-1]
		for id, n := range ix.gone {
			if n.changed <= ix.since0 {
				delete(ix.gone, id)
			}
		}
		ix.recent, ix.ats = slices.Clone(ix.recent[half:]), slices.Clone(ix.ats[half:])
	}
	for id := range ix.woken {
		nodes = append(nodes, id)
	}
	clear(ix.woken)
	return nodes
}

func (ix *Index) observe(e raftstore.Event) {
	if ix.pools.observe(e) {
		return
	}
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
	n := ix.find(id)
	if delete(ix.gone, id); n == nil {
		n = &network{id: id, endpoints: map[string]*schedulerpb.EndpointView{}, members: map[string]int{}, users: map[string]bool{},
			policies: map[string]*meshpb.Policy{}, base: ix.at}
	}
	ix.networks[id], ix.touched[id] = n, n
	return n
}

func (ix *Index) node(id string) *node {
	n := ix.nodes[id]
	if n == nil {
		n = &node{id: id, tasks: map[string]*schedulerpb.Task{}, networks: map[string]int{}, groups: map[string]*group{}}
		ix.nodes[id] = n
	}
	return n
}

func (ix *Index) note(n *network, k kind, id string) {
	n.wide = true
	n.journal = append(n.journal, change{at: ix.at, kind: k, id: id})
}

// noteEndpoint says that a task on a node came, went or changed.
func (ix *Index) noteEndpoint(n *network, on *node, task string) {
	n.wide = n.wide || !n.confined
	ix.woken[on.id] = true
	n.journal = append(n.journal, change{at: ix.at, kind: ofEndpoint, id: task, on: on.id})
}

// notePeer says that a node's part in a network changed.
func (ix *Index) notePeer(n *network, on *node) {
	if !n.confined {
		ix.note(n, ofPeer, on.id)
	}
}

// trim forgets the older half of a journal that became longer than what is there.
func (n *network) trim(keep int) {
	most := keep + 2*len(n.endpoints)
	if n.group != nil {
		most += 2 * len(n.group.nodes)
	}
	n.journal, n.base = trim(n.journal, n.base, most)
}

func trim(journal []change, base uint64, most int) ([]change, uint64) {
	if len(journal) <= most {
		return journal, base
	}
	half := len(journal) / 2
	return slices.Clone(journal[half:]), journal[half-1].at
}

func (ix *Index) setNetwork(id string, now *meshpb.Network) {
	n := ix.network(id)
	if (n.record == nil) != (now == nil) {
		for member := range n.members {
			ix.node(member).shape = ix.at
		}
	}
	old := n.record
	n.record = now
	ix.pools.network(id, now)
	n.confined = n.confined || now.GetKind() == meshpb.Kind_KIND_LOCAL // ids are not used again
	ix.note(n, ofHead, "")
	ix.carry(n, old, now)
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
	ix.reach.service(ix.services[id], now)
	if now == nil {
		delete(ix.services, id)
	} else {
		ix.services[id] = now
	}
	for network := range ix.spread[id] { // also of networks that it left
		ix.note(ix.network(network), ofService, id)
	}
	if c := ix.carriers[id]; c != "" {
		ix.publish(ix.network(c), old, now)
	}
}
