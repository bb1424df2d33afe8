package overlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// namesSide is what is known of named. Manager.mu guards it.
type namesSide struct {
	told       *names // nil: it is not known what named has
	generation uint64
	sockets    map[string]bool // tasks that named has sockets of
	failure    string
}

// waiting says why a task's names are not told.
func (s *namesSide) waiting(task string) string {
	switch {
	case s.failure != "":
		return "names: " + s.failure
	case s.told == nil || s.told.sandboxes[task] == nil:
		return "names: waiting for redoubt-named"
	case !s.sockets[task]:
		return "names: waiting for netd to hand its sockets to redoubt-named"
	}
	return ""
}

// names is what named should have.
type names struct {
	sandboxes map[string]*namedpb.Sandbox
	networks  map[string]*namedpb.Network
	resolvers *namedpb.Resolvers
}

// makeNames has the tasks all of whose networks are known, and these networks.
func makeNames(v *View, tasks []Task, resolvers []string) *names {
	if v == nil {
		return nil
	}
	n := &names{sandboxes: map[string]*namedpb.Sandbox{}, networks: map[string]*namedpb.Network{},
		resolvers: &namedpb.Resolvers{Upstreams: resolvers[:min(len(resolvers), maxResolvers)], Internal: internal(v)}}
	here := map[string]map[string]Task{} // by network and task
	for _, t := range tasks {
		box := &namedpb.Sandbox{TaskId: t.ID, Hostname: t.Hostname, Search: t.Search, Upstreams: t.Resolvers}
		for _, a := range t.Attachments {
			net := v.Networks[a.Network]
			if net == nil {
				box = nil
				break
			}
			if !net.named() {
				continue
			}
			box.NetworkIds = append(box.NetworkIds, net.ID)
			box.Addresses = append(box.Addresses, a.Addrs.Strings()...)
			box.Forward = box.Forward || !net.Internal
		}
		if box == nil || len(box.NetworkIds) == 0 {
			continue
		}
		n.sandboxes[t.ID] = box
		for _, id := range box.NetworkIds {
			if here[id] == nil {
				here[id] = map[string]Task{}
			}
			here[id][t.ID] = t
		}
	}
	for id, tasks := range here {
		n.networks[id] = v.Networks[id].names(v, tasks)
	}
	return n
}

// names are those of a network; of this node's own tasks, here says all.
func (n *Network) names(v *View, here map[string]Task) *namedpb.Network {
	out := &namedpb.Network{Id: n.ID}
	for _, s := range n.Subnets {
		out.Subnets = append(out.Subnets, s.Prefix.String())
	}
	byService := map[string][]*namedpb.Task{}
	add := func(service, task string, slot uint32, a Addrs) {
		byService[service] = append(byService[service], &namedpb.Task{Id: task, Slot: uint64(slot), Addresses: a.Strings(), Ready: true})
	}
	for task, e := range n.Endpoints {
		if _, ok := v.Peers[e.Node]; ok && e.Serving && e.Node != v.Self.ID {
			add(e.Service, task, e.Slot, e.Addrs)
		}
	}
	for task, t := range here {
		if i := slices.IndexFunc(t.Attachments, func(a Attachment) bool { return a.Network == n.ID }); t.Serving && i >= 0 && t.Attachments[i].Addrs != (Addrs{}) {
			add(t.ServiceID, task, t.Slot, t.Attachments[i].Addrs)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.Services)) {
		s, tasks := n.Services[id], byService[id]
		slices.SortFunc(tasks, func(a, b *namedpb.Task) int { return cmp.Compare(a.Id, b.Id) })
		named := &namedpb.Service{Name: s.Name, Aliases: s.Aliases, Tasks: tasks}
		if !s.Unnamed {
			named.Vips = s.VIPs.Strings()
		}
		out.Services = append(out.Services, named)
	}
	return out
}

// internal are the prefixes of the networks; where there are too many, wider ones
// that have them.
func internal(v *View) []string {
	set := map[netip.Prefix]bool{}
	for _, n := range v.Networks {
		for _, s := range n.Subnets {
			set[s.Prefix] = true
		}
	}
	for bits := 128; len(set) > maxInternal && bits > 0; bits-- {
		for p := range set {
			if p.Bits() >= bits {
				wide, _ := p.Addr().Prefix(bits - 1)
				delete(set, p)
				set[wide] = true
			}
		}
	}
	out := make([]string, 0, len(set))
	for p := range set {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

// request declares n: whole where old is nil, else what differs; nil: nothing.
func (n *names) request(old *names, generation, base uint64) *namedpb.DeclareRequest {
	req := &namedpb.DeclareRequest{Generation: generation}
	if old == nil {
		old = &names{}
	} else {
		req.Base = base
	}
	for _, id := range slices.Sorted(maps.Keys(n.sandboxes)) {
		if !proto.Equal(n.sandboxes[id], old.sandboxes[id]) {
			req.Sandboxes = append(req.Sandboxes, n.sandboxes[id])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.networks)) {
		if !proto.Equal(n.networks[id], old.networks[id]) {
			req.Networks = append(req.Networks, n.networks[id])
		}
	}
	for id := range old.sandboxes {
		if n.sandboxes[id] == nil {
			req.RemovedSandboxes = append(req.RemovedSandboxes, id)
		}
	}
	for id := range old.networks {
		if n.networks[id] == nil {
			req.RemovedNetworks = append(req.RemovedNetworks, id)
		}
	}
	slices.Sort(req.RemovedSandboxes)
	slices.Sort(req.RemovedNetworks)
	if !proto.Equal(n.resolvers, old.resolvers) {
		req.Resolvers = n.resolvers
	}
	if req.Base != 0 && req.Resolvers == nil && len(req.Sandboxes)+len(req.Networks)+len(req.RemovedSandboxes)+len(req.RemovedNetworks) == 0 {
		return nil
	}
	return req
}

func (m *Manager) runNames(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		err := m.declareNames(ctx)
		missing := false
		if err == nil {
			missing, err = m.checkNames(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := checkNames
		switch {
		case err != nil:
			pause = min(max(2*pause, firstPause), longestPause)
			wait = pause
		case missing:
			pause, wait = 0, checkSockets
		default:
			pause = 0
		}
		m.failed(err)
		t := time.NewTimer(wait)
		if err == nil {
			select {
			case <-m.namesKick:
			case <-t.C:
			case <-ctx.Done():
			}
		} else {
			select {
			case <-t.C:
			case <-ctx.Done():
			}
		}
		t.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// failed keeps why named has not what it should.
func (m *Manager) failed(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	m.mu.Lock()
	changed := m.names.failure != text
	m.names.failure = text
	m.mu.Unlock()
	if changed && err != nil {
		m.cfg.Logger.Warn("named did not take the names, trying again", "err", err)
	}
	if changed {
		m.changed()
	}
}

func (m *Manager) declareNames(ctx context.Context) error {
	var resolvers []string
	if m.cfg.Resolvers != nil {
		resolvers = m.cfg.Resolvers()
	}
	m.mu.Lock()
	var n *names
	var req *namedpb.DeclareRequest
	generation := m.gen.Next()
	if m.known {
		n = makeNames(m.view, m.tasks, resolvers)
	}
	if n != nil {
		req = n.request(m.names.told, generation, m.names.generation)
	}
	m.mu.Unlock()
	if req == nil {
		return nil
	}
	resp, err := m.callNamed(ctx, &namedpb.Request{Verb: &namedpb.Request_Declare{Declare: req}})
	if err == nil && resp.GetDeclare() == nil {
		err = errors.New("named answered Declare with something else")
	}
	m.mu.Lock()
	if err != nil {
		m.names.told = nil
	} else {
		m.names.told, m.names.generation = n, generation
	}
	m.mu.Unlock()
	m.changed()
	return err
}

// checkNames notices that named was restarted, and which sandboxes it serves.
// missing: not all that it was told of.
func (m *Manager) checkNames(ctx context.Context) (missing bool, err error) {
	m.mu.Lock()
	told := m.names.told != nil
	m.mu.Unlock()
	if !told {
		return false, nil
	}
	resp, err := m.callNamed(ctx, &namedpb.Request{Verb: &namedpb.Request_State{State: &namedpb.StateRequest{}}})
	if err == nil && resp.GetState() == nil {
		err = errors.New("named answered State with something else")
	}
	if err != nil {
		m.mu.Lock()
		m.names.told = nil
		m.mu.Unlock()
		return false, err
	}
	sockets := map[string]bool{}
	for _, task := range resp.GetState().GetWithSockets() {
		sockets[task] = true
	}
	m.mu.Lock()
	s := &m.names
	changed := !maps.Equal(s.sockets, sockets)
	s.sockets = sockets
	if resp.GetState().GetGeneration() != s.generation {
		s.told = nil
		kick(m.namesKick)
		changed = true
	} else if s.told != nil {
		for task := range s.told.sandboxes {
			missing = missing || !sockets[task]
		}
	}
	m.mu.Unlock()
	if changed {
		m.changed()
	}
	return missing, nil
}

func (m *Manager) callNamed(ctx context.Context, req *namedpb.Request) (*namedpb.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, namesTimeout)
	defer cancel()
	resp := &namedpb.Response{}
	if err := m.cfg.Named.Call(ctx, req, resp); err != nil {
		return nil, fmt.Errorf("redoubt-named is not answering: %w", err)
	}
	if e := resp.GetError(); e != nil {
		return nil, fmt.Errorf("redoubt-named refused: %s", e.GetMessage())
	}
	return resp, nil
}
