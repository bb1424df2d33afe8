package overlay

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Nodes say of their own tasks whether names and virtual addresses may lead to
// them, to each other (package peer) as to the managers. So a task that fails
// leaves them everywhere at once, with managers or without.
//
// Of each endpoint that managers gave to a node there are two words: the node's
// own, and the managers', which is what the node told them, or that they want it to
// stop. The node's holds until the managers change theirs afterwards. It may not
// raise a task again that they have withdrawn since; and they may raise one that it
// withdrew only some time later, as what they heard may be older. What a node says
// of anything else is kept, and means nothing.
type heard struct {
	kick chan struct{} // capacity 1

	mu      sync.Mutex                            // guards the following; nothing is called with it
	by      map[string]map[string]map[string]word // by node, network and task
	tunnels map[string]bool                       // as SetTunnels was told; nil: nothing (paths.go)
	silent  map[string]bool                       // as SetSilent was
}

func newHeard() heard {
	return heard{kick: make(chan struct{}, 1), by: map[string]map[string]map[string]word{}}
}

// words are what is remembered of what was said. Manager.mu guards them.
type words struct {
	turned  map[ref]time.Time          // when managers changed theirs of an endpoint last
	shared  map[string][]string        // as Share was told
	told    map[string]map[string]bool // as Tell was
	spoken  map[ref]time.Time          // when it was told of a task last
	reached map[string]bool            // nodes to which there was a tunnel (paths.go)
}

func newWords() words {
	return words{map[ref]time.Time{}, map[string][]string{}, map[string]map[string]bool{}, map[ref]time.Time{}, map[string]bool{}}
}

// word is what a node says of a task.
type word struct {
	serving bool
	at      time.Time // since when
}

// Heard takes what a node says of its tasks on a network, in place of what it said
// before; nil: nothing any more. It may be called with any lock but the Manager's
// own calls'.
func (m *Manager) Heard(node, network string, tasks map[string]bool) {
	now := time.Now()
	h := &m.heard
	h.mu.Lock()
	if h.by[node] == nil {
		h.by[node] = map[string]map[string]word{}
	}
	before := h.by[node][network]
	next := make(map[string]word, len(tasks))
	for task, serving := range tasks {
		w, ok := before[task]
		if !ok || w.serving != serving {
			w = word{serving, now}
		}
		next[task] = w
	}
	changed := !maps.Equal(before, next)
	if len(next) > 0 {
		h.by[node][network] = next
	} else if delete(h.by[node], network); len(h.by[node]) == 0 {
		delete(h.by, node)
	}
	h.mu.Unlock()
	if changed {
		kick(m.heard.kick)
	}
}

// runHeard takes what nodes say until ctx ends.
func (m *Manager) runHeard(ctx context.Context) error {
	for {
		select {
		case <-m.heard.kick:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
		m.view = m.merged()
		m.mu.Unlock()
		kick(m.netdKick)
		kick(m.namesKick)
		kick(m.ingressKick)
	}
}

// merged is the managers' view with what nodes say of their own tasks, and without
// what cannot be reached. m.mu is held.
func (m *Manager) merged() *View {
	if m.said == nil {
		return nil
	}
	h := &m.heard
	h.mu.Lock()
	defer h.mu.Unlock()
	out := m.said
	for node, networks := range h.by {
		for id, tasks := range networks {
			n := m.said.Networks[id]
			if n == nil || node == m.said.Self.ID {
				continue
			}
			for task, w := range tasks {
				e, ok := n.Endpoints[task]
				if !ok || e.Node != node {
					continue
				}
				serving := w.holds(e.Serving, m.words.turned[ref{id, task}])
				if serving == e.Serving {
					continue
				}
				if out == m.said {
					out = m.said.changeable()
				}
				if out.Networks[id] == n {
					changed := *n
					changed.Endpoints = maps.Clone(n.Endpoints)
					out.Networks[id] = &changed
				}
				e.Serving = serving
				out.Networks[id].Endpoints[task] = e
			}
		}
	}
	return m.passable(out, h.tunnels, h.silent)
}

// holds decides between a node's word and the managers', who changed theirs then;
// zero: never since they spoke of the task.
func (w word) holds(managers bool, turned time.Time) bool {
	switch {
	case w.serving == managers:
		return managers
	case w.serving:
		return !turned.After(w.at)
	}
	return turned.After(w.at.Add(raiseAfter))
}

// turn notes which endpoints the managers changed their mind about. m.mu is held.
func (m *Manager) turn(old, v *View, now time.Time) {
	for id := range m.words.turned {
		if n := v.Networks[id.network]; n == nil || n.Endpoints[id.task].Node == "" {
			delete(m.words.turned, id)
		}
	}
	if old == nil {
		return
	}
	for id, n := range v.Networks {
		o := old.Networks[id]
		if o == nil || o == n {
			continue
		}
		for task, e := range n.Endpoints {
			if was, ok := o.Endpoints[task]; ok && was.Node == e.Node && was.Serving != e.Serving {
				m.words.turned[ref{id, task}] = now
			}
		}
	}
}

// share tells which nodes are on which network, where that has changed. m.mu is
// held, so that an older word never comes after a newer one.
func (m *Manager) share(old, v *View) {
	if m.cfg.Share == nil {
		return
	}
	if old != nil {
		for id := range old.Networks {
			if v.Networks[id] == nil {
				m.cfg.Share(id, nil)
				delete(m.words.shared, id)
				delete(m.words.told, id)
			}
		}
	}
	for id, n := range v.Networks {
		if old != nil && old.Networks[id] == n && old.Self == v.Self {
			continue
		}
		if nodes := n.nodes(v.Self.ID); !slices.Equal(nodes, m.words.shared[id]) {
			m.words.shared[id] = nodes
			m.cfg.Share(id, slices.Clone(nodes))
		}
	}
}

// nodes are those on a network, this one among them.
func (n *Network) nodes(self string) []string {
	set := map[string]bool{self: true}
	for _, e := range n.Endpoints {
		set[e.Node] = true
	}
	for id := range n.Entries {
		set[id] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// tell says of this node's own tasks whether they serve: of those that do, that
// managers believe to, or that it has spoken of before. m.mu is held.
func (m *Manager) tell(now time.Time) {
	if m.cfg.Tell == nil || m.said == nil || !m.known {
		return
	}
	own := map[string]map[string]bool{}
	for id := range m.said.Networks {
		own[id] = map[string]bool{}
	}
	say := func(network, task string, serving bool) {
		own[network][task] = serving
		m.words.spoken[ref{network, task}] = now
	}
	here := map[ref]bool{}
	for _, t := range m.tasks {
		for _, a := range t.Attachments {
			r := ref{a.Network, t.ID}
			if _, before := m.words.spoken[r]; m.said.Networks[a.Network] != nil && (t.Serving || before) {
				say(a.Network, t.ID, t.Serving)
			}
			here[r] = true
		}
	}
	for id, n := range m.said.Networks {
		for task, e := range n.Endpoints {
			r := ref{id, task}
			if _, before := m.words.spoken[r]; e.Node == m.said.Self.ID && !here[r] && (e.Serving || before) {
				say(id, task, false) // it has no sandbox any more
			}
		}
	}
	// Others may be told later than this node that a task is gone.
	for r, at := range m.words.spoken {
		if _, said := own[r.network][r.task]; said {
			continue
		}
		if own[r.network] == nil || now.Sub(at) > spokenFor {
			delete(m.words.spoken, r)
		} else {
			own[r.network][r.task] = false
		}
	}
	for network, tasks := range own {
		if told := m.words.told[network]; told == nil || !maps.Equal(told, tasks) {
			m.words.told[network] = tasks
			m.cfg.Tell(network, maps.Clone(tasks))
		}
	}
}
