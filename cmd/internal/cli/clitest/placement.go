package clitest

import (
	"cmp"
	"context"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// GetPlacement implements Placement.
func (n *Node) GetPlacement(context.Context, *controlpb.GetPlacementRequest) (*controlpb.GetPlacementResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.GetPlacementResponse{Strategy: cmp.Or(n.strategy, spec.Spread)}, n.manager()
}

// UpdatePlacement implements Placement.
func (n *Node) UpdatePlacement(_ context.Context, r *controlpb.UpdatePlacementRequest) (*controlpb.UpdatePlacementResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.strategy = r.GetStrategy()
	return &controlpb.UpdatePlacementResponse{Strategy: n.strategy}, n.manager()
}

// RebalanceService implements Placement. Of a service called "stuck" the replacement of
// the first task does not come up, and one called "slow" is never done.
func (n *Node) RebalanceService(_ context.Context, r *controlpb.RebalanceServiceRequest) (*controlpb.RebalanceServiceResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.find(r.GetService())
	st := s.GetRebalanceStatus()
	switch {
	case s == nil:
		return nil, apierr.NotFound("see `redoubt service ls`", "no service %q", r.GetService())
	case r.GetStop() && st.GetState() != schedulerpb.RebalanceStatus_STATE_MOVING:
		return nil, apierr.State("", "no task of %s is being moved", s.GetSpec().GetName())
	case r.GetStop():
		st.State, st.Message = schedulerpb.RebalanceStatus_STATE_STOPPED, "stopped on request"
		return &controlpb.RebalanceServiceResponse{Id: s.GetId()}, nil
	}
	st = &schedulerpb.RebalanceStatus{State: schedulerpb.RebalanceStatus_STATE_COMPLETED, Moves: 2, Message: "every task is where it would be placed now", StartedAt: 1, CompletedAt: 2e9}
	switch s.GetSpec().GetName() {
	case "stuck":
		st.State, st.Moves, st.Message = schedulerpb.RebalanceStatus_STATE_STOPPED, 1, "task 1 stays on node abc: the one it made way for did not come up: exited with 3"
	case "slow":
		st.State, st.Moves, st.CompletedAt, st.Message = schedulerpb.RebalanceStatus_STATE_MOVING, 1, 0, "task 2 leaves node abc: node.labels.zone a has 2 more tasks"
	}
	s.RebalanceStatus = st
	return &controlpb.RebalanceServiceResponse{Id: s.GetId()}, nil
}
