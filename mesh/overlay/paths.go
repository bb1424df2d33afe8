package overlay

import "maps"

// A task on another node is of use once there is a tunnel to that node. Keys are
// made while its container is, so that mostly there is one when the task serves;
// but where the way to its node is cut, or the node is busy, a virtual address
// would lead callers into nothing. So as long as a service has other tasks, those
// behind no tunnel do not serve here. Where it has none, they do: a packet that
// is sent again may find a tunnel, and a refusal would be final.
//
// That is for the first tunnel alone, as keys change and netd is started anew in
// between. A node that was reached and answers no more, neither in the tunnel nor beside
// it, is silent (package peer), and is treated in the same way until it answers. It is
// this node's own view: the others have theirs.

// SetTunnels takes the nodes to which there is a tunnel with keys; before the first
// word all are taken to have one. It may be called with any lock but the
// Manager's own calls'.
func (m *Manager) SetTunnels(nodes map[string]bool) {
	m.heard.mu.Lock()
	m.heard.tunnels = maps.Clone(nodes)
	m.heard.mu.Unlock()
	kick(m.heard.kick)
}

// SetSilent takes the nodes that answer no more. It may be called with any lock but the
// Manager's own calls'.
func (m *Manager) SetSilent(nodes map[string]bool) {
	m.heard.mu.Lock()
	m.heard.silent = maps.Clone(nodes)
	m.heard.mu.Unlock()
	kick(m.heard.kick)
}

// passable is v with what cannot be reached yet not serving. m.mu is held; what
// was reached stays so while the node is a peer.
func (m *Manager) passable(v *View, tunnels, silent map[string]bool) *View {
	if v == nil || tunnels == nil {
		return v
	}
	reached, answers := map[string]bool{}, map[string]bool{}
	for id := range v.Peers {
		if tunnels[id] || m.words.reached[id] {
			reached[id] = true
			if !silent[id] {
				answers[id] = true
			}
		}
	}
	m.words.reached = reached
	if len(answers) == len(v.Peers) {
		return v
	}
	own := map[string]bool{}
	for _, t := range m.tasks {
		own[t.ID] = t.Serving
	}
	there := func(task string, e Endpoint) bool {
		if e.Node == v.Self.ID { // whatever managers know of it
			return !m.known || own[task]
		}
		return answers[e.Node]
	}
	out := v
	for id, n := range v.Networks {
		if changed := n.passable(v.Self.ID, there); changed != n {
			if out == v {
				out = v.changeable()
			}
			out.Networks[id] = changed
		}
	}
	return out
}

// passable is n without the tasks that are not there, where there are others.
func (n *Network) passable(self string, there func(task string, e Endpoint) bool) *Network {
	others := map[string]bool{} // services that have a task that serves and can be reached
	for task, e := range n.Endpoints {
		if e.Serving && there(task, e) {
			others[e.Service] = true
		}
	}
	out := n
	for task, e := range n.Endpoints {
		if !e.Serving || e.Node == self || there(task, e) || !others[e.Service] {
			continue
		}
		if out == n {
			changed := *n
			changed.Endpoints = maps.Clone(n.Endpoints)
			out = &changed
		}
		e.Serving = false
		out.Endpoints[task] = e
	}
	return out
}
