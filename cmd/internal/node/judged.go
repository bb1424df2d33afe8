package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

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
		return answers(ctx, ids, func(ctx context.Context, mine []string) []control.Result {
			return control.RunControl(ctx, n.env.DataDir, mine, own)
		}, n.rund.Check), nil
	}
}

// answers are what redoubtd says by its own controls, and rund by the others, at once:
// neither keeps the other from being told. Where rund gives none, that is an error of
// each of its controls.
func answers(ctx context.Context, ids []string, own func(context.Context, []string) []control.Result, rund func(context.Context, []string) ([]*taskpb.CheckResult, error)) (all []*taskpb.CheckResult) {
	var mine, runds []string
	for _, id := range ids {
		if slices.ContainsFunc(control.All(), func(c control.Control) bool { return c.ID == id && c.By == control.ByControl }) {
			mine = append(mine, id)
		} else {
			runds = append(runds, id)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, r := range own(ctx, mine) {
			all = append(all, &taskpb.CheckResult{Control: r.Control.ID, Outcome: string(r.Outcome), Evidence: r.Evidence, Took: int64(r.Took)})
		}
	})
	var theirs []*taskpb.CheckResult
	if len(runds) > 0 {
		begun := time.Now()
		var err error
		if theirs, err = rund(ctx, runds); err != nil {
			theirs = nil
			for _, id := range runds {
				theirs = append(theirs, &taskpb.CheckResult{Control: id, Outcome: string(control.Error), Evidence: []string{err.Error()}, Took: int64(time.Since(begun))})
			}
		}
	}
	wg.Wait()
	return append(all, theirs...)
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
