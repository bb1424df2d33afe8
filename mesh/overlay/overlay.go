// Package overlay is the node's side of overlay networks in redoubtd. It takes
// what managers say of networks (View) and which of this node's tasks have a
// sandbox (Task), and sees that everybody on the node has it so: rund, which
// makes a namespace for each network, netd, which builds the network in it,
// named, which tells the tasks' names, and the peers' tunnels.
//
// # Use
//
//	m := overlay.New(overlay.Config{…})
//	go m.Run(ctx)                     // and wait for it
//	m.SetView(view)                   // as managers say it
//	ids, keep := m.Namespaces()       // to be told to rund
//	m.SetNamespaces(ids, errs)        // what rund made
//	m.SetTasks(tasks)                 // whose sandboxes exist
//	m.States()                        // may they start?
//
// Inputs are whole states and return at once. Each of netd and named has one
// goroutine that computes what it should have from all that is known, compares
// that with what it was told last, and says the difference, or the whole where
// it is not known what the other side has. So it does not matter in which order
// things come, or who was started again meanwhile.
//
// # Order
//
// A task may start when each of its places on networks is as declared, by
// netd's own word, and named serves its sandbox with its names. Until then
// States says what it waits for. There is no way around that: nothing runs
// without its network, and nothing runs on it in clear.
//
// A network's namespace is made before netd is told of the network, and is
// asked to be removed after netd let go of it. A task that is not serving leaves
// the names and virtual addresses at once; its caller waits before it is ended.
//
// # Restarts
//
// Nothing is kept on disk. Before the first View, the first tasks and rund's
// first word nothing is declared: what the kernel has stays as it is, and a node
// without managers goes on. What a process knew netd keeps in memory for the next
// one, which goes on with it until a manager speaks (kept.go). netd and named are
// asked now and again which generation they have, and are told everything when it
// is not the last one.
package overlay

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/mesh"
)

// Config binds a Manager to its node. Netd and Named are required.
type Config struct {
	Netd, Named mesh.Caller
	// Peers, if not nil, is told the node itself and its peers when they change. It
	// returns at once and does not call the Manager.
	Peers func(self Node, peers []Node)
	// Share and Tell, if not nil, are told which nodes are on a network, this one
	// among them (nil: it is on that network no more), and whether this node's own tasks
	// there serve. They return at once and do not call the Manager (heard.go).
	Share func(network string, nodes []string)
	Tell  func(network string, tasks map[string]bool)
	// Owner names this membership: the cluster and the node in it. Empty: nothing is
	// kept for the next process, nor taken from a former one. Until is when the
	// node's certificate ends; what was kept is not believed after it.
	Owner string
	Until func() time.Time
	// Heard says when a manager was heard last, for the next process, and Recalled,
	// called before it goes on with what is kept, when one was that a former process
	// heard.
	Heard    func() time.Time
	Recalled func(heard time.Time)
	// Resolvers, if not nil, are the node's own, for names that are not of the
	// cluster.
	Resolvers func() []string
	// Changed, if not nil, is called when States or Namespaces may be others.
	Changed func()
	Logger  *slog.Logger
}

// Manager keeps the networks of a node. It is safe for concurrent use.
type Manager struct {
	cfg                 Config
	netdKick, namesKick chan struct{} // capacity 1
	ingressKick         chan struct{} // the same
	heard               heard
	gen                 mesh.Generation

	mu       sync.Mutex // guards the following
	said     *View      // by managers; nil: nothing yet
	view     *View      // that, with what nodes say of their own tasks
	words    words
	tasks    []Task
	known    bool              // tasks were said
	recalled map[string]Task   // those that a former process knew; nil: SetTasks was called (kept.go)
	serial   uint64            // grows with each change of what was said
	made     map[string]bool   // networks that have a namespace; nil: rund said nothing yet
	unmade   map[string]string // and those that cannot have one
	self     Node              // as Peers was told
	peers    []Node
	netd     netdSide
	names    namesSide
	ingress  ingressSide
	repaired uint64

	ingressRepaired uint64
}

// State is how far a task is on its networks.
type State struct {
	// Waiting says for what; empty: it may start.
	Waiting string
	// Held: netd may have it, or be told of it any moment.
	Held bool
	// Described: managers said which networks there are; Known: all of its own are
	// among them; Internal: and none of these needs the node's bridge, each is
	// internal or made by a driver of rund's.
	Described, Known, Internal bool
	// Unpublished says which published ports of its service this node should answer
	// on and does not, and why. It hinders nothing: others answer.
	Unpublished string
}

// ref is a task's place on a network.
type ref struct{ network, task string }

// New checks the configuration.
func New(c Config) (*Manager, error) {
	if c.Netd == nil || c.Named == nil {
		return nil, errors.New("overlay: no netd or no named to speak to")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: c, netdKick: make(chan struct{}, 1), namesKick: make(chan struct{}, 1), ingressKick: make(chan struct{}, 1),
		heard: newHeard(), words: newWords()}, nil
}

// Run declares until ctx ends, and returns its error.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.runNetd(ctx, m.netdKick, m.declareNetd, m.checkNetd) })
	g.Go(func() error { return m.runNetd(ctx, m.ingressKick, m.declareIngress, m.checkIngress) })
	g.Go(func() error { return m.runNames(ctx) })
	g.Go(func() error { return m.runHeard(ctx) })
	g.Go(func() error { return m.runNote(ctx) })
	return g.Wait()
}

// SetView takes what managers say. Nothing may change it afterwards.
func (m *Manager) SetView(v *View) {
	m.mu.Lock()
	m.say(v)
	m.mu.Unlock()
	m.wake()
}

// say is SetView under m.mu.
func (m *Manager) say(v *View) {
	now := time.Now()
	m.serial++
	m.turn(m.said, v, now)
	m.share(m.said, v)
	m.said = v
	m.view = m.merged()
	m.tell(now)
	peers := make([]Node, 0, len(v.Peers))
	for _, id := range slices.Sorted(maps.Keys(v.Peers)) {
		peers = append(peers, v.Peers[id])
	}
	tell := m.cfg.Peers != nil && v.Self.Mesh.IsValid() && (m.self != v.Self || !slices.Equal(m.peers, peers))
	if tell {
		m.self, m.peers = v.Self, peers
		// Under the lock, so that an older set never comes after a newer one.
		m.cfg.Peers(v.Self, slices.Clone(peers))
	}
}

// SetTasks takes all tasks of this node that are on networks and have a sandbox.
func (m *Manager) SetTasks(tasks []Task) {
	m.mu.Lock()
	m.recalled = nil
	same := m.setTasks(tasks)
	m.mu.Unlock()
	if !same {
		m.wake()
	}
}

// setTasks is SetTasks under m.mu, and reports whether they were the same before.
func (m *Manager) setTasks(tasks []Task) (same bool) {
	same = m.known && slices.EqualFunc(m.tasks, tasks, Task.equal)
	m.tasks, m.known = tasks, true
	if !same {
		m.serial++
		m.view = m.merged() // what cannot be reached depends on them
	}
	m.tell(time.Now())
	return same
}

func (t Task) equal(o Task) bool {
	return t.ID == o.ID && t.ServiceID == o.ServiceID && t.ServiceName == o.ServiceName && t.Slot == o.Slot && t.Netns == o.Netns &&
		t.Hostname == o.Hostname && t.Serving == o.Serving && t.Bridged == o.Bridged && slices.Equal(t.Attachments, o.Attachments)
}

// SetNamespaces takes what rund answered to the declaration of ids.
func (m *Manager) SetNamespaces(ids []string, errs map[string]string) {
	made := make(map[string]bool, len(ids))
	for _, id := range ids {
		if errs[id] == "" {
			made[id] = true
		}
	}
	m.mu.Lock()
	same := m.made != nil && maps.Equal(m.made, made) && maps.Equal(m.unmade, errs)
	m.made, m.unmade = made, maps.Clone(errs)
	m.serial++
	m.mu.Unlock()
	if !same {
		m.wake()
	}
}

// Namespaces are the networks that need one, by id: those that managers
// described, and those that netd may still have. With keep, others may be needed
// as well.
func (m *Manager) Namespaces() (ids []string, keep bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	want := map[string]bool{}
	if m.view != nil {
		for id, n := range m.view.Networks {
			if n.makes() {
				want[id] = true
			}
		}
	}
	for id := range m.netd.networks {
		want[id] = true
	}
	if m.view != nil && m.view.ingress() || m.ingress.uses {
		want[Ingress] = true
	}
	return slices.Sorted(maps.Keys(want)), m.netd.networks == nil || m.ingress.has == nil
}

// States tells of each task that was set, and of those that netd may still have.
// Before it is settled, netd may have more, of a former redoubtd.
func (m *Manager) States() (states map[string]State, settled bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]State{}
	for _, has := range []map[string]bool{m.netd.tasks, m.ingress.has} {
		for task := range has {
			out[task] = State{Held: true, Waiting: "it is gone"}
		}
	}
	settled = m.netd.tasks != nil && m.ingress.has != nil
	for _, t := range m.tasks {
		s := State{Held: true, Described: m.view != nil, Known: m.view != nil, Internal: true}
		overlays, named := 0, false // networks, and whether they have names
		for _, a := range t.Attachments {
			n := m.network(a.Network)
			s.Known = s.Known && n != nil
			if n != nil && n.isIngress() {
				s.Unpublished = strings.Join(m.ingress.ports[n.ServiceID], "; ")
				continue
			}
			overlays++
			s.Internal = s.Internal && n != nil && (n.Internal || n.Driven())
			named = named || n == nil || n.named()
		}
		s.Internal = s.Internal && overlays > 0
		if s.Waiting = m.waiting(t); s.Waiting == "" && named {
			s.Waiting = m.names.waiting(t.ID)
		}
		out[t.ID] = s
	}
	return out, settled
}

func (m *Manager) network(id string) *Network {
	if m.view == nil {
		return nil
	}
	return m.view.Networks[id]
}

// waiting says what of the networks themselves a task waits for. m.mu is held.
func (m *Manager) waiting(t Task) string {
	if m.view == nil {
		return "waiting for the managers to describe its networks"
	}
	for _, a := range t.Attachments {
		n := m.view.Networks[a.Network]
		if n == nil {
			return "waiting for the managers to describe network " + a.Network
		}
		var why string
		switch {
		case n.isIngress():
			if why = m.notReached(t, a); why != "" {
				return "published ports: " + why
			}
			continue
		case n.Driven():
			if !a.Made {
				why = "waiting for rund to attach it"
			}
		case !n.makes():
			why = "this node cannot make networks of driver " + n.Driver
		case a.Addrs == (Addrs{}):
			why = "the managers gave it no address"
		case m.unmade[n.ID] != "":
			why = m.unmade[n.ID]
		case !m.made[n.ID]:
			why = "waiting for rund to make its namespace"
		case !m.view.Self.Mesh.IsValid():
			why = "waiting for this node's address in the mesh"
		default:
			why = m.netd.waiting(ref{n.ID, t.ID})
		}
		if why != "" {
			return "network " + n.Name + ": " + why
		}
	}
	return ""
}

// notReached says why a task's published ports do not lead to it. m.mu is held.
func (m *Manager) notReached(t Task, a Attachment) string {
	switch {
	case !a.Addrs[0].IsValid():
		return "the managers gave it no address"
	case !t.Bridged:
		return "waiting for its interface on the node's bridge"
	case m.unmade[Ingress] != "":
		return m.unmade[Ingress]
	case !m.made[Ingress]:
		return "waiting for rund to make their namespace"
	case !m.view.Self.Mesh.IsValid():
		return "waiting for this node's address in the mesh"
	}
	return m.ingress.waiting(t.ID)
}

// wake has everybody look again.
func (m *Manager) wake() {
	kick(m.netdKick)
	kick(m.namesKick)
	kick(m.ingressKick)
	m.changed()
}

func (m *Manager) changed() {
	if m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
