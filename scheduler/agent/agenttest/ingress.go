package agenttest

import (
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"google.golang.org/protobuf/proto"
)

// answerIngress answers the verbs of published ports, and reports whether it is
// one. What is to fail here is ingress/<task>.
func (n *Netd) answerIngress(verb any, out *netdpb.Response) bool {
	switch v := verb.(type) {
	case *netdpb.Request_Ingress:
		r := v.Ingress
		if r.Generation <= n.ingressGen || r.Base != 0 && r.Base != n.ingressGen {
			out.Result = &netdpb.Response_Error{Error: &netdpb.Error{Message: "older generation, or not based on the one in force"}}
			return true
		}
		n.ingressGen = r.Generation
		before := n.ingress
		n.ingress = map[string]*netdpb.IngressService{}
		if r.Base != 0 {
			maps.Copy(n.ingress, before)
		}
		for _, id := range r.Removed {
			delete(n.ingress, id)
		}
		for _, s := range r.Services {
			n.ingress[s.ServiceId] = mergedService(n.ingress[s.ServiceId], s)
		}
		out.Result = &netdpb.Response_Ingress{Ingress: &netdpb.IngressResponse{Results: n.ingressResults()}}
	case *netdpb.Request_IngressState:
		out.Result = &netdpb.Response_IngressState{IngressState: &netdpb.IngressStateResponse{Generation: n.ingressGen, Results: n.ingressResults()}}
	default:
		return false
	}
	return true
}

func (n *Netd) ingressResults() (out []*netdpb.IngressResult) {
	for _, id := range slices.Sorted(maps.Keys(n.ingress)) {
		s := n.ingress[id]
		for _, p := range s.Ports {
			if text := n.taken[p.Published]; text != "" && s.GetEntry() {
				out = append(out, &netdpb.IngressResult{ServiceId: id, Published: p.Published, Udp: p.Udp, Error: text})
			}
		}
		for _, e := range s.Endpoints {
			if text := n.fail["ingress/"+e.TaskId]; text != "" && e.Node == "" {
				out = append(out, &netdpb.IngressResult{ServiceId: id, TaskId: e.TaskId, Error: text})
			}
		}
	}
	return out
}

// mergedService is old with changes; one that is not said to be changes takes its
// place.
func mergedService(old, change *netdpb.IngressService) *netdpb.IngressService {
	if !change.Changes {
		return proto.CloneOf(change)
	}
	m := proto.CloneOf(old)
	if change.Entry != nil {
		m.Entry = change.Entry
	}
	m.Entries = slices.DeleteFunc(append(m.Entries, change.Entries...), func(a string) bool { return slices.Contains(change.RemovedEntries, a) })
	m.Endpoints = slices.DeleteFunc(m.Endpoints, func(e *netdpb.IngressEndpoint) bool {
		return slices.Contains(change.RemovedEndpoints, e.TaskId) ||
			slices.ContainsFunc(change.Endpoints, func(c *netdpb.IngressEndpoint) bool { return c.TaskId == e.TaskId })
	})
	m.Endpoints = append(m.Endpoints, change.Endpoints...)
	return m
}

// Take makes a published port one that a process of the node has, with this
// text; empty: no more.
func (n *Netd) Take(published uint32, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taken[published] = text
}

// Published is a service as it was declared, or nil.
func (n *Netd) Published(service string) *netdpb.IngressService {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ingress[service]
}

// Reached is a task as it is reached by published ports, or nil.
func (n *Netd) Reached(service, task string) *netdpb.IngressEndpoint {
	for _, e := range n.Published(service).GetEndpoints() {
		if e.TaskId == task {
			return e
		}
	}
	return nil
}
