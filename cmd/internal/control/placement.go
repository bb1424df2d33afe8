package control

import (
	"context"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// GetPlacement says how nodes are chosen for services that do not say.
func (s *Server) GetPlacement(ctx context.Context, _ *controlpb.GetPlacementRequest) (*controlpb.GetPlacementResponse, error) {
	resp := &controlpb.GetPlacementResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		resp.Strategy = schedstore.Strategy(r)
		return nil
	})
	return resp, err
}

// UpdatePlacement changes that. Tasks that are there stay where they are.
func (s *Server) UpdatePlacement(ctx context.Context, req *controlpb.UpdatePlacementRequest) (*controlpb.UpdatePlacementResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	if err := schedstore.SetStrategy(ctx, s.c.Store, req.GetStrategy()); err != nil {
		return nil, err
	}
	return &controlpb.UpdatePlacementResponse{Strategy: req.GetStrategy()}, nil
}

// RebalanceService has tasks of a service moved, or no more of them.
func (s *Server) RebalanceService(ctx context.Context, req *controlpb.RebalanceServiceRequest) (*controlpb.RebalanceServiceResponse, error) {
	var id string
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		svc, err := schedstore.ResolveService(r, req.GetService())
		id = svc.GetId()
		return err
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	ask := schedstore.Rebalance
	if req.GetStop() {
		ask = schedstore.StopRebalance
	}
	if err := ask(ctx, s.c.Store, id); err != nil {
		return nil, err
	}
	return &controlpb.RebalanceServiceResponse{Id: id}, nil
}
