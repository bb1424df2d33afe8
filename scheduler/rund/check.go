package rund

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// Check judges this node by controls. Who asks while another is being answered
// waits. A control that takes longer than who asks has time, as many processes of a
// container may have it do, is an error by itself: the others are told.
func (s *Server) Check(ctx context.Context, req *rundpb.CheckRequest) (*rundpb.CheckResponse, error) {
	if s.check == nil {
		return nil, status.Error(codes.Unimplemented, "this rund has no controls")
	}
	if len(req.GetControls()) > maxControls {
		return nil, status.Errorf(codes.InvalidArgument, "%d controls: at most %d are possible", len(req.GetControls()), maxControls)
	}
	if until, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until.Add(-checkMargin))
		defer cancel()
	}
	select {
	case s.checking <- struct{}{}:
		defer func() { <-s.checking }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &rundpb.CheckResponse{Results: s.check(ctx, req.GetControls(), Inventory{Containers: s.inventory, Lock: s.locked})}, nil
}
