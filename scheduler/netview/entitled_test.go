package netview_test

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/netview/netviewtest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// answers says which nodes answer on a service's ports, from the store alone.
func answers(r *raftstore.ReadTx, service string) map[string]bool {
	out := map[string]bool{}
	svc, ok := store.Services.Get(r, service)
	if !ok {
		return out
	}
	for n := range store.Nodes.All(r) {
		m, _ := pkistore.Nodes.Get(r, n.GetId())
		ok := m != nil && !m.GetDenied()
		for _, c := range svc.GetSpec().GetIngressConstraints() {
			switch c {
			case "node.labels.edge==true":
				ok = ok && n.GetLabels()["edge"] == "true"
			case "node.availability!=drain":
				ok = ok && store.Effective(n) != store.Drain
			case "node.role==worker":
				ok = ok && !n.GetManager()
			default:
				panic(c)
			}
		}
		if ok {
			out[n.GetId()] = true
		}
	}
	return out
}

// entitled holds a node's knowledge against what it may know.
func entitled(rt *rapid.T, r *raftstore.ReadTx, node string, h *netviewtest.Held) {
	mine := map[string]bool{}
	_, member := store.Nodes.Get(r, node)
	for t := range store.Tasks.By(r, "node", node) {
		for _, a := range t.GetAttachments() {
			mine[a.GetNetworkId()] = mine[a.GetNetworkId()] || store.Live(t) && member
		}
	}
	peers := map[string]bool{}
	for n := range meshstore.Networks.All(r) {
		held, entry := h.Networks[n.GetId()], false
		if n.GetKind() == meshpb.Kind_KIND_INGRESS {
			entries := answers(r, n.GetServiceId())
			if entry = entries[node]; held != nil {
				entitledToIngress(rt, r, node, held, mine[n.GetId()], entries, peers)
			}
		} else if held != nil {
			for _, e := range held.Endpoints {
				peers[e.NodeId] = true
				if n.GetKind() == meshpb.Kind_KIND_LOCAL && e.NodeId != node {
					rt.Fatalf("node %s is told of %v on network %s, of which each node has its own", node, e, n.GetId())
				}
			}
		}
		if (held != nil) != (mine[n.GetId()] || entry) {
			rt.Fatalf("node %s knows of network %s: %v; has tasks there: %v; answers: %v", node, n.GetId(), held != nil, mine[n.GetId()], entry)
		}
	}
	for id, n := range h.Networks {
		if _, ok := meshstore.Networks.Get(r, id); !ok {
			rt.Fatalf("network %s is gone", id)
		}
		for _, e := range n.Endpoints {
			if _, ok := store.Nodes.Get(r, e.NodeId); !ok {
				rt.Fatalf("endpoint %v is of a node that was removed", e)
			}
		}
	}
	delete(peers, node)
	if want, got := slices.Sorted(maps.Keys(peers)), slices.Sorted(maps.Keys(h.Peers)); !slices.Equal(want, got) {
		rt.Fatalf("node %s: peers %v, wanted %v", node, got, want)
	}
	pools := map[string]bool{}
	if all, err := meshstore.Pools(r, "c"); member {
		if err != nil {
			rt.Fatal(err)
		}
		for _, p := range []string{all.Networks, all.Networks6, all.Nodes, all.Ingress, all.Ingress6} {
			pools[p] = true
		}
		for n := range meshstore.Networks.All(r) {
			for _, s := range n.GetSubnets() {
				if strings.HasPrefix(s.GetSubnet(), "10.77.") {
					pools[s.GetSubnet()] = true
				}
			}
		}
	}
	if !maps.Equal(pools, h.Pools) {
		rt.Fatalf("node %s: pools %v, wanted %v", node, h.Pools, pools)
	}
	nodes, published := map[string]bool{}, map[string]bool{}
	if member {
		for n := range store.Nodes.All(r) {
			if identity, _ := pkistore.Nodes.Get(r, n.GetId()); identity.GetAddress() != "" {
				nodes["192.0.2.7"] = true // that of all managers here
			}
			if n.GetAddress() != "" {
				nodes[n.GetAddress()] = true
			}
		}
		for s := range store.Services.All(r) {
			for _, p := range s.GetSpec().GetTask().GetPorts() {
				published[store.PortKey(p)] = true
			}
		}
	}
	if !maps.Equal(nodes, h.Nodes) || !maps.Equal(published, h.Published) {
		rt.Fatalf("node %s: containers reach %v of %v, wanted %v of %v", node, h.Published, h.Nodes, published, nodes)
	}
	if member != (h.Self != nil) {
		rt.Fatalf("self is %v", h.Self)
	}
}

// entitledToIngress: the two ends of the star know each other, and no others of
// their kind.
func entitledToIngress(rt *rapid.T, r *raftstore.ReadTx, node string, held *netviewtest.Network, member bool, entries, peers map[string]bool) {
	id := held.Head.GetId()
	want := map[string]*schedulerpb.Task{}
	for t := range store.OfService(r, held.Head.GetServiceId()) {
		_, there := store.Nodes.Get(r, t.GetNodeId())
		for _, a := range t.GetAttachments() {
			if a.GetNetworkId() == id && store.Live(t) && there && (entries[node] || t.GetNodeId() == node) {
				want[t.GetId()] = t
			}
		}
	}
	if len(want) != len(held.Endpoints) {
		rt.Fatalf("node %s, entry %v: endpoints %v, wanted %v", node, entries[node], held.Endpoints, want)
	}
	for task, e := range held.Endpoints {
		t := want[task]
		if t == nil || e.NodeId != t.GetNodeId() || e.Serving != netview.Serving(t) || len(e.Addresses) != 2 {
			rt.Fatalf("endpoint %v of %v", e, t)
		}
		if entries[node] {
			peers[e.NodeId] = true
		}
	}
	told := map[string]bool{}
	if entries[node] {
		told[node] = true
	}
	if member {
		told = entries
		maps.Copy(peers, entries)
	}
	if !maps.Equal(held.Entries, told) {
		rt.Fatalf("node %s, with tasks %v: entries %v, wanted %v", node, member, held.Entries, told)
	}
	svc, _ := store.Services.Get(r, held.Head.GetServiceId())
	if ports := svc.GetSpec().GetTask().GetPorts(); len(ports) != len(held.Head.Ports) {
		rt.Fatalf("ports %v, wanted %v", held.Head.Ports, ports)
	}
	for i, p := range svc.GetSpec().GetTask().GetPorts() {
		if q := held.Head.Ports[i]; !proto.Equal(q, &schedulerpb.IngressPortView{Published: p.GetPublished(), Target: p.GetTarget(), Protocol: p.GetProtocol()}) {
			rt.Fatalf("port %v, wanted %v", q, p)
		}
	}
}
