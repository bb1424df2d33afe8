package overlay

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// View is what the managers said of networks. It is not changed once it was
// given to a Manager: who follows the managers makes the next one from copies.
type View struct {
	// Self is this node; without an address inside the tunnels nothing can be
	// declared.
	Self Node
	// Peers are the nodes it shares a network with, by id.
	Peers    map[string]Node
	Networks map[string]*Network
	// Pools are addresses that are the cluster's alone, in order: no client of a
	// published port has one. It is not changed.
	Pools []netip.Prefix
	// Reach is what containers reach of nodes.
	Reach mesh.Reach
}

// changeable is a copy in which one network may take another's place.
func (v *View) changeable() *View {
	c := *v
	c.Networks = maps.Clone(v.Networks)
	return &c
}

// Node is one as its peers need it.
type Node struct {
	ID string
	// Mesh is its address inside the tunnels, with the prefix length of the mesh.
	Mesh netip.Prefix
	// Underlay is host:port where it answers peers; empty: none known.
	Underlay string
}

// Network is one that this node has a task on, or is an entry of.
type Network struct {
	ID, Name, Driver      string
	Kind                  meshpb.Kind
	VNI                   uint32
	Subnets               []Subnet
	Internal, DefaultDeny bool
	// Options are its driver's.
	Options map[string]string
	// ServiceID: ingress, the service whose published ports it carries.
	ServiceID string
	// Endpoints are the tasks on it, on this node and on others, by task.
	Endpoints map[string]Endpoint
	// Services are those on it, by id.
	Services map[string]Service
	Rules    []Rule
	// Ports of an ingress network, and the nodes that answer on them, by id.
	Ports   []Port
	Entries map[string]bool
}

// Port is one that is published by a service.
type Port struct {
	Published, Target uint16
	UDP               bool
	// Host is the one address of nodes that answers; invalid: every one.
	Host netip.Addr
	// PreferLocal: an entry node with tasks of the service leads to these alone.
	PreferLocal bool
	// Proxy: connections begin with a PROXY protocol header.
	Proxy bool
}

// Subnet is one of a network's two at most.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
}

// Endpoint is a task on a network, as managers know it.
type Endpoint struct {
	Service, Node string
	Slot          uint32
	Addrs         Addrs
	Serving       bool
}

// Service is one on a network.
type Service struct {
	Name    string
	VIPs    Addrs
	Aliases []string
	// Unnamed: no name leads to VIPs, if there are any; they lead to its tasks.
	Unnamed bool
}

// Rule lets one service open flows to another; both are names.
type Rule struct {
	ID, From, To string
	// Protocol is IP's number; 0: any.
	Protocol    uint8
	First, Last uint16
}

// Addrs are the addresses of one thing on a network, IPv4 first. What is not
// there is the zero Addr.
type Addrs [2]netip.Addr

// ParseAddrs reads at most one address of each family, IPv4 first.
func ParseAddrs(texts []string) (a Addrs, err error) {
	if len(texts) > len(a) {
		return a, fmt.Errorf("%d addresses: there is one of each family at most", len(texts))
	}
	for i, text := range texts {
		addr, err := netip.ParseAddr(text)
		switch {
		case err != nil || addr.String() != text || addr.Zone() != "" || addr.Is4In6():
			return a, fmt.Errorf("%.60q is no address in its usual form", text)
		case !addr.IsGlobalUnicast():
			return a, fmt.Errorf("%s is no address of a container", addr)
		case i > 0 && (!a[0].Is4() || addr.Is4()):
			return a, fmt.Errorf("addresses %s and %s: there is one of each family at most, IPv4 first", a[0], addr)
		}
		a[i] = addr
	}
	return a, nil
}

// Strings are the addresses as text.
func (a Addrs) Strings() (out []string) {
	for _, addr := range a {
		if addr.IsValid() {
			out = append(out, addr.String())
		}
	}
	return out
}

// Within reports whether each address is an ordinary one of the network's
// subnets.
func (n *Network) Within(a Addrs) bool {
	for _, addr := range a {
		if !addr.IsValid() {
			continue
		}
		in := false
		for _, s := range n.Subnets {
			in = in || s.Prefix.Contains(addr) && s.Gateway != addr
		}
		if !in {
			return false
		}
	}
	return true
}

// Task is a task of this node that is on networks and has a sandbox.
type Task struct {
	ID, ServiceID, ServiceName string
	Slot                       uint32
	// Netns is the file of its sandbox below <run-dir>/netns.
	Netns    string
	Hostname string
	// Resolvers are asked for names that are not of the cluster in the place of the
	// node's, which are where there are none; Search is what it tries after a name.
	Resolvers, Search []string
	// Attachments are its places on networks, in the order of its interfaces:
	// ov0, ov1, ….
	Attachments []Attachment
	// Serving: names, virtual addresses and published ports lead to it.
	Serving bool
	// Bridged: it has its way out by the node's bridge, or is to have none. Its
	// interface for published ports comes after that, as what a program answers
	// datagrams from depends on it.
	Bridged bool
}

// Attachment is a task's place on a network.
type Attachment struct {
	Network string
	Addrs   Addrs
	// Made, on a network that a driver of rund's makes: it has put the task there.
	Made bool
}

// Resolver is where a sandbox on networks asks for names.
const Resolver = "127.0.0.11"

// Netns is the file of a network's namespace below <run-dir>/netns.
func Netns(network string) string { return "net-" + network }
