package agenttest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"google.golang.org/protobuf/proto"
)

// answerOverlay answers the verbs of networks.
func (n *Netd) answerOverlay(verb any, out *netdpb.Response) {
	refuse := func(text string) { out.Result = &netdpb.Response_Error{Error: &netdpb.Error{Message: text}} }
	switch v := verb.(type) {
	case *netdpb.Request_Overlay:
		r := v.Overlay
		if r.Generation <= n.overlayGen || r.Base != 0 && r.Base != n.overlayGen {
			refuse("older generation, or not based on the one in force")
			return
		}
		n.overlayGen = r.Generation
		if r.Base == 0 || r.SandboxesChanged {
			n.sandboxes = map[string]string{}
			for _, s := range r.Sandboxes {
				n.sandboxes[s.TaskId] = s.Netns
			}
		}
		before := n.overlays
		n.overlays = map[string]*netdpb.OverlayNetwork{}
		if r.Base != 0 {
			maps.Copy(n.overlays, before)
		}
		for _, id := range r.Removed {
			delete(n.overlays, id)
		}
		defer func() {
			for id := range before {
				if n.overlays[id] == nil {
					n.lost = append(n.lost, id)
				}
			}
		}()
		answer := &netdpb.OverlayResponse{}
		for _, o := range r.Networks {
			n.overlays[o.Id] = merged(n.overlays[o.Id], o)
			for _, e := range o.Endpoints {
				if e.Node == "" {
					answer.Endpoints = append(answer.Endpoints, &netdpb.OverlayResult{NetworkId: o.Id, TaskId: e.TaskId, Error: n.fail[e.TaskId]})
				}
			}
		}
		out.Result = &netdpb.Response_Overlay{Overlay: answer}
	case *netdpb.Request_OverlayState:
		st := &netdpb.OverlayStateResponse{Generation: n.overlayGen}
		for id, o := range n.overlays {
			s := &netdpb.OverlayNetworkState{Id: id}
			for _, e := range o.Endpoints {
				if text := n.fail[e.TaskId]; text != "" && e.Node == "" {
					s.Endpoints = append(s.Endpoints, &netdpb.OverlayResult{NetworkId: id, TaskId: e.TaskId, Error: text})
				}
			}
			st.Networks = append(st.Networks, s)
		}
		out.Result = &netdpb.Response_OverlayState{OverlayState: st}
	default:
		refuse("the request names no verb")
	}
}

// merged is old with changes; a network that is not said to be changes takes its
// place.
func merged(old, change *netdpb.OverlayNetwork) *netdpb.OverlayNetwork {
	if !change.Changes {
		return proto.CloneOf(change)
	}
	m := proto.CloneOf(old)
	endpoints := map[string]*netdpb.OverlayEndpoint{}
	for _, e := range m.Endpoints {
		endpoints[e.TaskId] = e
	}
	for _, id := range change.RemovedEndpoints {
		delete(endpoints, id)
	}
	for _, e := range change.Endpoints {
		endpoints[e.TaskId] = e
	}
	services := map[string]*netdpb.OverlayService{}
	for _, s := range m.Services {
		services[s.ServiceId] = s
	}
	for _, id := range change.RemovedServices {
		delete(services, id)
	}
	for _, s := range change.Services {
		services[s.ServiceId] = s
	}
	m.Endpoints, m.Services = nil, nil
	for _, id := range slices.Sorted(maps.Keys(endpoints)) {
		m.Endpoints = append(m.Endpoints, endpoints[id])
	}
	for _, id := range slices.Sorted(maps.Keys(services)) {
		m.Services = append(m.Services, services[id])
	}
	if change.RulesChanged {
		m.Rules = change.Rules
	}
	return m
}

// Overlay is a network as it was declared, or nil.
func (n *Netd) Overlay(id string) *netdpb.OverlayNetwork {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.overlays[id]
}

// Place is a task's place on a network, or nil.
func (n *Netd) Place(network, task string) *netdpb.OverlayEndpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.overlays[network].GetEndpoints() {
		if e.TaskId == task {
			return e
		}
	}
	return nil
}

// Lost are the networks that a declaration left out, in order.
func (n *Netd) Lost() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lost
}

// Placed reports whether a task is on any network.
func (n *Netd) Placed(task string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range n.overlays {
		for _, e := range o.Endpoints {
			if e.TaskId == task {
				return true
			}
		}
	}
	if n.sandboxes[task] != "" {
		return true
	}
	for _, s := range n.ingress {
		for _, e := range s.Endpoints {
			if e.TaskId == task {
				return true
			}
		}
	}
	return false
}

// Named stands in for named: it keeps what was declared and refuses what named
// refuses. All sandboxes that are declared have sockets, unless Deaf is set. It
// is a mesh.Caller.
type Named struct {
	mu         sync.Mutex
	generation uint64
	sandboxes  map[string]*namedpb.Sandbox
	networks   map[string]*namedpb.Network
	down, deaf bool
}

// NewNamed returns one that knows nothing.
func NewNamed() *Named { n := &Named{}; n.Restart(); return n }

// Restart is a crash of named: it knows nothing.
func (n *Named) Restart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.generation, n.sandboxes, n.networks = 0, map[string]*namedpb.Sandbox{}, map[string]*namedpb.Network{}
}

// SetDown makes every call fail, or work again.
func (n *Named) SetDown(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
}

// SetDeaf takes all sockets from named, or gives them back.
func (n *Named) SetDeaf(deaf bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf = deaf
}

// Sandbox is a sandbox as it was declared, or nil.
func (n *Named) Sandbox(task string) *namedpb.Sandbox {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sandboxes[task]
}

// Service is a service of a network as it was declared, or nil.
func (n *Named) Service(network, name string) *namedpb.Service {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.networks[network].GetServices() {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Call answers like named.
func (n *Named) Call(ctx context.Context, req, resp proto.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		return errors.New("connection refused")
	}
	out := resp.(*namedpb.Response)
	switch v := req.(*namedpb.Request).Verb.(type) {
	case *namedpb.Request_Declare:
		r := proto.CloneOf(v.Declare)
		if r.Generation <= n.generation || r.Base != 0 && r.Base != n.generation {
			out.Result = &namedpb.Response_Error{Error: &namedpb.Error{Message: "declare everything", NeedWhole: true}}
			return nil
		}
		if r.Base == 0 {
			n.sandboxes, n.networks = map[string]*namedpb.Sandbox{}, map[string]*namedpb.Network{}
		}
		n.generation = r.Generation
		for _, id := range r.RemovedSandboxes {
			delete(n.sandboxes, id)
		}
		for _, id := range r.RemovedNetworks {
			delete(n.networks, id)
		}
		for _, x := range r.Networks {
			n.networks[x.Id] = x
		}
		for _, x := range r.Sandboxes {
			n.sandboxes[x.TaskId] = x
		}
		out.Result = &namedpb.Response_Declare{Declare: &namedpb.DeclareResponse{}}
	case *namedpb.Request_State:
		st := &namedpb.StateResponse{Generation: n.generation}
		if !n.deaf {
			st.WithSockets = slices.Sorted(maps.Keys(n.sandboxes))
		}
		out.Result = &namedpb.Response_State{State: st}
	}
	return nil
}
