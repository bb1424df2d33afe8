package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// judged is this node's answer to who asks how it is: rund's, and by the controls that
// are redoubtd's own what it trusts and what netd says.
func (n *Node) judged(creds *pki.Credentials) func(context.Context, []string) ([]*taskpb.CheckResult, error) {
	own := &control.Own{
		Roots: func() (trusted, kept [][]byte, err error) {
			file, err := n.disk.loadRoots()
			return creds.RootHashes(), pki.HashesOf(file.GetRoots()), err
		},
		Networks: n.networksNow,
	}
	return func(ctx context.Context, ids []string) ([]*taskpb.CheckResult, error) {
		var mine, runds []string
		for _, c := range control.All() {
			if c.By == control.ByControl && slices.Contains(ids, c.ID) {
				mine = append(mine, c.ID)
			}
		}
		for _, id := range ids {
			if !slices.Contains(mine, id) {
				runds = append(runds, id)
			}
		}
		var all []*taskpb.CheckResult
		for _, r := range control.RunControl(ctx, n.env.DataDir, mine, own) {
			all = append(all, &taskpb.CheckResult{Control: r.Control.ID, Outcome: string(r.Outcome), Evidence: r.Evidence, Took: int64(r.Took)})
		}
		if len(runds) == 0 {
			return all, nil
		}
		results, err := n.rund.Check(ctx, runds)
		return append(all, results...), err
	}
}

// networksNow is what netd has of this node's networks, as it reads them.
func (n *Node) networksNow(ctx context.Context) (is control.Networks, err error) {
	ask := func(req *netdpb.Request) *netdpb.Response {
		resp := &netdpb.Response{}
		if err == nil {
			err = n.netd.Call(ctx, req, resp)
		}
		if err == nil && resp.GetError() != nil {
			err = errors.New(resp.GetError().GetMessage())
		}
		return resp
	}
	wrong := func(format string, args ...any) { is.Wrong = append(is.Wrong, fmt.Sprintf(format, args...)) }
	state := ask(&netdpb.Request{Verb: &netdpb.Request_State{State: &netdpb.StateRequest{}}}).GetState()
	is.Changed = state.GetRulesChanged()
	for _, e := range state.GetEndpoints() {
		if e.GetError() != "" {
			wrong("task %s: %s", e.GetTaskId(), e.GetError())
		}
	}
	if !n.env.FIPS { // else there is no mesh
		fabric := ask(&netdpb.Request{Verb: &netdpb.Request_FabricState{FabricState: &netdpb.FabricStateRequest{}}}).GetFabricState()
		if fabric.GetDegraded() != "" {
			wrong("the mesh: %s", fabric.GetDegraded())
		}
	}
	for _, o := range ask(&netdpb.Request{Verb: &netdpb.Request_OverlayState{OverlayState: &netdpb.OverlayStateRequest{WithoutCounters: true}}}).GetOverlayState().GetNetworks() {
		if o.GetError() != "" {
			wrong("network %s: %s", o.GetId(), o.GetError())
		}
		for _, e := range o.GetEndpoints() {
			wrong("network %s, task %s: %s", o.GetId(), e.GetTaskId(), e.GetError())
		}
	}
	ingress := ask(&netdpb.Request{Verb: &netdpb.Request_IngressState{IngressState: &netdpb.IngressStateRequest{}}}).GetIngressState()
	if ingress.GetError() != "" {
		wrong("published ports: %s", ingress.GetError())
	}
	if err != nil {
		return control.Networks{}, fmt.Errorf("netd: %w", err)
	}
	return is, nil
}
