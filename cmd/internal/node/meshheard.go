package node

// What nodes say to each other of their endpoints, between the networks of this
// node and its peers. It is kept for when the peers' port is opened again.

// share takes which nodes are on a network; nil: this one is not.
func (m *meshSide) share(network string, nodes []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shared[network] = nodes; nodes == nil {
		delete(m.shared, network)
		delete(m.own, network)
	}
	if m.peers != nil {
		m.peers.Share(network, nodes)
	}
}

// tellOf takes whether this node's own tasks on a network serve.
func (m *meshSide) tellOf(network string, tasks map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.own[network] = tasks
	if m.peers != nil {
		m.peers.Tell(network, tasks)
	}
}

// tellAll tells new peers. m.mu is held.
func (m *meshSide) tellAll() {
	for network, nodes := range m.shared {
		m.peers.Share(network, nodes)
	}
	for network, tasks := range m.own {
		m.peers.Tell(network, tasks)
	}
}
