package rund

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// Check judges this node by controls. Who asks while another is being answered
// waits.
func (s *Server) Check(ctx context.Context, req *rundpb.CheckRequest) (*rundpb.CheckResponse, error) {
	if s.check == nil {
		return nil, status.Error(codes.Unimplemented, "this rund has no controls")
	}
	if len(req.GetControls()) > maxControls {
		return nil, status.Errorf(codes.InvalidArgument, "%d controls: at most %d are possible", len(req.GetControls()), maxControls)
	}
	select {
	case s.checking <- struct{}{}:
		defer func() { <-s.checking }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &rundpb.CheckResponse{Results: s.check(ctx, req.GetControls(), s.inventory)}, nil
}
