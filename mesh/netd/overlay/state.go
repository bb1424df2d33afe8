package overlay

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// response tells how the networks are that a declaration named.
func (o *Overlays) response(news map[string]*touched) *netdpb.OverlayResponse {
	resp := &netdpb.OverlayResponse{}
	for _, id := range slices.Sorted(maps.Keys(news)) {
		r := o.realms[id]
		if r == nil {
			continue
		}
		if r.err != nil {
			resp.Networks = append(resp.Networks, &netdpb.OverlayResult{NetworkId: id, Error: r.err.Error()})
		}
		for _, e := range r.net.locals {
			resp.Endpoints = append(resp.Endpoints, r.result(e))
		}
	}
	slices.SortFunc(resp.Endpoints, byNetworkAndTask)
	return resp
}

func byNetworkAndTask(a, b *netdpb.OverlayResult) int {
	return cmp.Or(cmp.Compare(a.GetNetworkId(), b.GetNetworkId()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
}

func (r *realm) result(e *endpoint) *netdpb.OverlayResult {
	out := &netdpb.OverlayResult{NetworkId: r.id, TaskId: e.task}
	switch {
	case r.err != nil:
		out.Error = fmt.Sprintf("its network is degraded: %s", r.err)
	case r.bad[e.task] != nil:
		out.Error = r.bad[e.task].Error()
	}
	return out
}

// State tells what is in force; with counters, which are read from the kernel.
func (o *Overlays) State(counters bool) (*netdpb.OverlayStateResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	resp := &netdpb.OverlayStateResponse{Generation: o.plan.generation, Repairs: o.repairs}
	for _, id := range slices.Sorted(maps.Keys(o.realms)) {
		r := o.realms[id]
		s := &netdpb.OverlayNetworkState{Id: id, Mtu: uint32(r.tunnel.mtu)}
		s.LocalEndpoints = uint32(len(r.net.locals))
		s.RemoteEndpoints = uint32(len(r.net.endpoints)) - s.LocalEndpoints
		for _, e := range r.net.locals {
			if res := r.result(e); res.GetError() != "" {
				s.Endpoints = append(s.Endpoints, res)
			}
		}
		slices.SortFunc(s.Endpoints, byNetworkAndTask)
		switch {
		case r.err != nil:
			s.Error = r.err.Error()
		case counters && r.file != nil && r.table != nil:
			var err error
			if s.Allowed, s.Dropped, err = r.table.Counters(); err != nil {
				return nil, fmt.Errorf("network %s: read counters: %w", id, err)
			}
		}
		resp.Networks = append(resp.Networks, s)
	}
	return resp, nil
}
