package control

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// RollbackService has a service go back to a former spec. The image is the one that it
// had then, and has to be one that may run now.
func (s *Server) RollbackService(ctx context.Context, req *controlpb.RollbackServiceRequest) (*controlpb.RollbackServiceResponse, error) {
	if req.GetSpec() == nil {
		return nil, apierr.Invalid("", "the request has no former specification in it")
	}
	var old *schedulerpb.Service
	err := s.view(ctx, func(r *raftstore.ReadTx) (err error) {
		old, err = schedstore.ResolveService(r, req.GetService())
		return err
	})
	if err != nil {
		return nil, err
	}
	former, err := spec.Admit(req.GetSpec())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if err := s.view(ctx, func(r *raftstore.ReadTx) error { return checkServers(r, former.Spec()) }); err != nil {
		return nil, err
	}
	warnings, err := s.admitImage(ctx, former.Spec().GetTask().GetContainer())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	sg, err := s.signing(ctx, req.GetSigned(), req.GetPlan())
	if err != nil {
		return nil, err
	}
	back := schedstore.Rollback{Version: req.GetVersion(), To: req.GetTo(), Spec: req.GetSpec()}
	err = schedstore.RollBack(ctx, s.c.Store, old.GetId(), back, sg)
	if p := (*plannedError)(nil); errors.As(err, &p) {
		return &controlpb.RollbackServiceResponse{Id: old.GetId(), Warnings: warnings, Planned: p.spec}, nil
	}
	if err != nil {
		return nil, err
	}
	return &controlpb.RollbackServiceResponse{Id: old.GetId(), Warnings: warnings}, nil
}

// StreamServiceHistory tells of the specs that a service had, and of the one it has.
func (s *Server) StreamServiceHistory(req *controlpb.StreamServiceHistoryRequest, stream controlpb.Control_StreamServiceHistoryServer) error {
	var all []*controlpb.StreamServiceHistoryResponse
	err := s.view(stream.Context(), func(r *raftstore.ReadTx) error {
		svc, err := schedstore.ResolveService(r, req.GetService())
		if err != nil {
			return err
		}
		all = history(svc, schedstore.History(r, svc.GetId()))
		return nil
	})
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := stream.Send(h); err != nil {
			return err
		}
	}
	return nil
}

// history is newest first. A service of before records has one entry all the same.
func history(svc *schedulerpb.Service, records []*schedulerpb.ServiceSpecRecord) (out []*controlpb.StreamServiceHistoryResponse) {
	n := schedstore.SpecNumber(svc)
	if !slices.ContainsFunc(records, func(r *schedulerpb.ServiceSpecRecord) bool { return r.GetNumber() == n }) {
		records = append(records, &schedulerpb.ServiceSpecRecord{ServiceId: svc.GetId(), Number: n})
	}
	previous := schedstore.Previous(svc, records)
	for _, rec := range slices.Backward(records) {
		h := &controlpb.StreamServiceHistoryResponse{Record: rec, Version: svc.GetMeta().GetVersion(), Previous: rec.GetNumber() == previous, InForce: rec.GetNumber() == n}
		if h.InForce {
			h.Record = proto.CloneOf(rec)
			h.Record.Spec, h.Record.Signed, h.Record.Revision = svc.GetSpec(), svc.GetSigned(), svc.GetRevision()
		}
		out = append(out, h)
	}
	return out
}
