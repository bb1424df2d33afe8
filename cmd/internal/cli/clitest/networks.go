package clitest

import (
	"context"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// CreateNetwork implements Control.
func (n *Node) CreateNetwork(_ context.Context, r *controlpb.CreateNetworkRequest) (*controlpb.CreateNetworkResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	sp, err := meshspec.Network(r.GetSpec())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if _, v := n.network(sp.GetName()); v != nil {
		return nil, apierr.Exists("choose another name", "a network called %q exists", sp.GetName())
	}
	w := &meshpb.Network{Meta: &raftstorepb.Meta{Version: 1, CreatedAt: 1}, Id: ident.New(), Spec: sp, Kind: meshpb.Kind_KIND_OVERLAY, Vni: 4096, Subnets: sp.GetSubnets()}
	n.networks = append(n.networks, w)
	return &controlpb.CreateNetworkResponse{Id: w.GetId()}, nil
}

func (n *Node) network(ref string) (int, *meshpb.Network) {
	for i, w := range n.networks {
		if w.GetId() == ref || w.GetSpec().GetName() == ref {
			return i, w
		}
	}
	return 0, nil
}

// attach has a service's networks by their ids, as they are stored.
func (n *Node) attach(sp *schedulerpb.ServiceSpec) error {
	for _, u := range sp.GetTask().GetNetworks() {
		seen := map[string]bool{}
		for _, a := range u.GetAliases() {
			if seen[a] {
				return apierr.Invalid("", "network %s: alias %s is given twice: keep one", u.GetNetwork(), a)
			}
			seen[a] = true
		}
		_, w := n.network(u.GetNetwork())
		if w == nil {
			return apierr.NotFound("list them with `redoubt network ls`", "no network %q", u.GetNetwork())
		}
		u.Network = w.GetId()
	}
	return nil
}

// StreamNetworks implements Control.
func (n *Node) StreamNetworks(r *controlpb.StreamNetworksRequest, s grpc.ServerStreamingServer[controlpb.StreamNetworksResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	page := &controlpb.StreamNetworksResponse{}
	for _, ref := range r.GetNetworks() {
		_, w := n.network(ref)
		if w == nil {
			return apierr.NotFound("list them with `redoubt network ls`", "no network %q", ref)
		}
		page.Networks = append(page.Networks, &controlpb.NetworkDetail{Network: w})
	}
	if len(r.GetNetworks()) == 0 {
		for _, w := range n.networks {
			page.Networks = append(page.Networks, &controlpb.NetworkDetail{Network: w})
		}
	}
	return onePage(s)(page, n.manager())
}

// RemoveNetwork implements Control.
func (n *Node) RemoveNetwork(_ context.Context, r *controlpb.RemoveNetworkRequest) (*controlpb.RemoveNetworkResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, w := n.network(r.GetNetwork())
	if w == nil {
		return nil, apierr.NotFound("list them with `redoubt network ls`", "no network %q", r.GetNetwork())
	}
	n.networks = append(n.networks[:i], n.networks[i+1:]...)
	return &controlpb.RemoveNetworkResponse{Id: w.GetId()}, nil
}
