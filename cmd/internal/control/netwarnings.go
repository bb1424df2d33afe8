package control

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// What is stored as it was asked for, and probably not what was meant.

// warn adds what is found. It is stored by then: who cannot be warned any more is
// not told that it failed.
func (s *Server) warn(ctx context.Context, to *[]string, find func(raftstore.Reader) []string) {
	_ = s.view(ctx, func(r *raftstore.ReadTx) error {
		*to = append(*to, find(r)...)
		return nil
	})
}

// networkWarnings tells of subnets that have addresses of nodes: what else is at
// such an address, as a database beside the cluster, is out of the containers' reach.
func networkWarnings(r raftstore.Reader, id string) (out []string) {
	n, _ := meshstore.Networks.Get(r, id)
	for _, s := range n.GetSubnets() {
		p, err := netip.ParsePrefix(s.GetSubnet())
		if err != nil {
			continue
		}
		var inside []string
		for node := range schedstore.Nodes.All(r) {
			if a := underlay(r, node); a.IsValid() && p.Contains(a) {
				inside = append(inside, nodeName(r, node.GetId())+" "+a.String())
			}
		}
		if len(inside) == 0 {
			continue
		}
		slices.Sort(inside)
		more := ""
		if len(inside) > maxNamed {
			more = fmt.Sprintf(" and %d more", len(inside)-maxNamed)
		}
		out = append(out, fmt.Sprintf("subnet %s has the addresses of nodes in it (%s%s): containers on network %s reach nothing outside of it there; choose another unless that is meant",
			p, strings.Join(inside[:min(len(inside), maxNamed)], ", "), more, n.GetSpec().GetName()))
	}
	return out
}

// underlay is where a node is as managers know it: a manager says so itself, and of
// a worker its session shows it.
func underlay(r raftstore.Reader, n *schedulerpb.Node) netip.Addr {
	a, _ := netip.ParseAddr(schedstore.HostOf(r, n))
	return a.Unmap()
}

// policyWarnings tells of rules that allow nothing, for now.
func policyWarnings(r raftstore.Reader, id string) (out []string) {
	p, _ := meshstore.Policies.Get(r, id)
	n, ok := meshstore.Networks.Get(r, p.GetSpec().GetNetwork())
	if !ok {
		return nil
	}
	if !n.GetSpec().GetDefaultDeny() {
		out = append(out, fmt.Sprintf("network %s was not made with --default-deny: all services on it reach each other, whatever the policy says", n.GetSpec().GetName()))
	}
	on := map[string]bool{}
	for s := range schedstore.Services.By(r, "network", n.GetId()) {
		on[s.GetSpec().GetName()] = true
	}
	var missing []string
	for _, rule := range p.GetSpec().GetRules() {
		for _, name := range []string{rule.GetFromService(), rule.GetToService()} {
			if !on[name] && !slices.Contains(missing, name) {
				missing = append(missing, name)
			}
		}
	}
	if len(missing) > 0 {
		out = append(out, fmt.Sprintf("no service %s is on network %s: what names it allows nothing before one is", strings.Join(missing[:min(len(missing), maxNamed)], ", "), n.GetSpec().GetName()))
	}
	return out
}

// aliasWarnings tells of aliases that are the names of other services, which keep
// them.
func aliasWarnings(r raftstore.Reader, sp *schedulerpb.ServiceSpec) (out []string) {
	for _, u := range sp.GetTask().GetNetworks() {
		n, err := meshstore.ResolveNetwork(r, u.GetNetwork())
		if err != nil {
			continue
		}
		for s := range schedstore.Services.By(r, "network", n.GetId()) {
			switch name := s.GetSpec().GetName(); {
			case name == sp.GetName():
			case slices.Contains(u.GetAliases(), name):
				out = append(out, fmt.Sprintf("alias %s on network %s is the name of another service there, which keeps it", name, n.GetSpec().GetName()))
			case slices.Contains(addressAliases(s, n), sp.GetName()):
				out = append(out, fmt.Sprintf("name %s is also an alias of service %s on network %s: the name leads to this service alone", sp.GetName(), name, n.GetSpec().GetName()))
			}
			if len(out) == maxNamed {
				return out
			}
		}
	}
	return out
}

// nameWarnings tells what names mean otherwise than one might think.
func nameWarnings(r raftstore.Reader, sp *schedulerpb.ServiceSpec) []string {
	return slices.Concat(aliasWarnings(r, sp), hostWarnings(r, sp), dnsWarnings(r, sp))
}

// hostWarnings tells of lines of /etc/hosts that stand before names of the cluster: the
// container finds them first.
func hostWarnings(r raftstore.Reader, sp *schedulerpb.ServiceSpec) (out []string) {
	lines := func(c *taskpb.ContainerSpec, name string) bool {
		return slices.ContainsFunc(c.GetHosts(), func(h *taskpb.Host) bool { return strings.EqualFold(h.GetName(), name) })
	}
	mine := sp.GetTask().GetContainer()
	if lines(mine, sp.GetName()) {
		out = append(out, fmt.Sprintf("in its containers the host %s is what --host says, and not this service", sp.GetName()))
	}
	for _, u := range sp.GetTask().GetNetworks() {
		n, err := meshstore.ResolveNetwork(r, u.GetNetwork())
		if err != nil {
			continue
		}
		for s := range schedstore.Services.By(r, "network", n.GetId()) {
			name := s.GetSpec().GetName()
			if name == sp.GetName() {
				continue
			}
			for _, known := range append([]string{name}, addressAliases(s, n)...) {
				if lines(mine, known) {
					out = append(out, fmt.Sprintf("in its containers the host %s is what --host says, and not service %s of network %s", known, name, n.GetSpec().GetName()))
				}
			}
			if lines(s.GetSpec().GetTask().GetContainer(), sp.GetName()) {
				out = append(out, fmt.Sprintf("in containers of service %s the host %s is what its --host says, and not this service", name, sp.GetName()))
			}
			if len(out) >= maxNamed {
				return out[:maxNamed]
			}
		}
	}
	return out
}

// dnsWarnings tells of servers that are never asked.
func dnsWarnings(r raftstore.Reader, sp *schedulerpb.ServiceSpec) []string {
	uses := sp.GetTask().GetNetworks()
	if len(sp.GetTask().GetContainer().GetDns().GetServers()) == 0 || len(uses) == 0 {
		return nil
	}
	for _, u := range uses {
		if n, err := meshstore.ResolveNetwork(r, u.GetNetwork()); err != nil || !n.GetSpec().GetInternal() {
			return nil
		}
	}
	return []string{"its networks are internal, so that no names outside the cluster are asked for: what --dns says is of no use there"}
}

// checkServers refuses DNS servers of a service that are nodes: the node asks them in
// the containers' stead, who must not reach what the cluster's nodes listen on.
func checkServers(r raftstore.Reader, sp *schedulerpb.ServiceSpec) error {
	servers := sp.GetTask().GetContainer().GetDns().GetServers()
	if len(servers) == 0 {
		return nil
	}
	for node := range schedstore.Nodes.All(r) {
		if a := underlay(r, node); a.IsValid() && slices.Contains(servers, a.String()) {
			return apierr.Invalid("leave it out to have the node's own resolvers asked", "DNS server %s is node %s, and containers reach nothing of the cluster's nodes", a, nodeName(r, node.GetId()))
		}
	}
	return nil
}

func addressAliases(s *schedulerpb.Service, n *meshpb.Network) []string {
	return addressOn(s, n.GetId()).GetAliases()
}
