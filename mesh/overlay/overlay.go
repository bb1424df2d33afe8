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
// without managers goes on. netd and named are asked now and again which
// generation they have, and are told everything when it is not the last one.
package overlay

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/mesh"
)

// Config binds a Manager to its node. Netd and Named are required.
type Config struct {
	Netd, Named mesh.Caller
	// Peers, if not nil, is told the node itself and its peers when they change. It
	// returns at once and does not call the Manager.
	Peers func(self Node, peers []Node)
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
	gen                 mesh.Generation

	mu       sync.Mutex // guards the following
	view     *View      // nil: managers said nothing yet
	tasks    []Task
	known    bool              // tasks were said
	made     map[string]bool   // networks that have a namespace; nil: rund said nothing yet
	unmade   map[string]string // and those that cannot have one
	self     Node              // as Peers was told
	peers    []Node
	netd     netdSide
	names    namesSide
	repaired uint64
}

// State is how far a task is on its networks.
type State struct {
	// Waiting says for what; empty: it may start.
	Waiting string
	// Held: netd may have it.
	Held bool
	// Described: managers said which networks there are; Known: all of its own are
	// among them; Internal: and each of these is.
	Described, Known, Internal bool
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
	return &Manager{cfg: c, netdKick: make(chan struct{}, 1), namesKick: make(chan struct{}, 1)}, nil
}

// Run declares until ctx ends, and returns its error.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.runNetd(ctx) })
	g.Go(func() error { return m.runNames(ctx) })
	return g.Wait()
}

// SetView takes what managers say. Nothing may change it afterwards.
func (m *Manager) SetView(v *View) {
	m.mu.Lock()
	m.view = v
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
	m.mu.Unlock()
	m.wake()
}

// SetTasks takes all tasks of this node that are on networks and have a sandbox.
func (m *Manager) SetTasks(tasks []Task) {
	m.mu.Lock()
	same := m.known && slices.EqualFunc(m.tasks, tasks, Task.equal)
	m.tasks, m.known = tasks, true
	m.mu.Unlock()
	if !same {
		m.wake()
	}
}

func (t Task) equal(o Task) bool {
	return t.ID == o.ID && t.ServiceID == o.ServiceID && t.ServiceName == o.ServiceName && t.Slot == o.Slot && t.Netns == o.Netns &&
		t.Hostname == o.Hostname && t.Serving == o.Serving && slices.Equal(t.Attachments, o.Attachments)
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
	return slices.Sorted(maps.Keys(want)), m.netd.networks == nil
}

// States tells of each task that was set, and of those that netd may still have.
// Before it is settled, netd may have more, of a former redoubtd.
func (m *Manager) States() (states map[string]State, settled bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]State{}
	for task := range m.netd.tasks {
		out[task] = State{Held: true, Waiting: "it is gone"}
	}
	for _, t := range m.tasks {
		s := State{Held: m.netd.tasks == nil || m.netd.tasks[t.ID], Described: m.view != nil, Known: m.view != nil, Internal: true}
		for _, a := range t.Attachments {
			n := m.network(a.Network)
			s.Known = s.Known && n != nil
			s.Internal = s.Internal && n != nil && n.Internal
		}
		if s.Waiting = m.waiting(t); s.Waiting == "" {
			s.Waiting = m.names.waiting(t.ID)
		}
		out[t.ID] = s
	}
	return out, m.netd.tasks != nil
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

// wake has everybody look again.
func (m *Manager) wake() {
	kick(m.netdKick)
	kick(m.namesKick)
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
