package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/orchestrator"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// CreateService validates, pins the image and stores.
func (s *Server) CreateService(ctx context.Context, req *controlpb.CreateServiceRequest) (*controlpb.CreateServiceResponse, error) {
	sp, warnings, err := s.admit(ctx, req.GetSpec(), nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	sg, err := s.signing(ctx, req.GetSigned(), req.GetPlan())
	if err != nil {
		return nil, err
	}
	id, err := schedstore.CreateSigned(ctx, s.c.Store, sp, sg)
	if p := (*plannedError)(nil); errors.As(err, &p) {
		return &controlpb.CreateServiceResponse{Warnings: warnings, Planned: p.spec}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &controlpb.CreateServiceResponse{Id: id, Warnings: warnings}
	s.warn(ctx, &resp.Warnings, func(r raftstore.Reader) []string { return nameWarnings(r, sp.Spec()) })
	return resp, nil
}

// UpdateService replaces the spec that was read at req.Version.
func (s *Server) UpdateService(ctx context.Context, req *controlpb.UpdateServiceRequest) (*controlpb.UpdateServiceResponse, error) {
	var old *schedulerpb.Service
	err := s.view(ctx, func(r *raftstore.ReadTx) (err error) {
		old, err = schedstore.ResolveService(r, req.GetService())
		return err
	})
	if err != nil {
		return nil, err
	}
	sp, warnings, err := s.admit(ctx, req.GetSpec(), old.GetSpec())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	sg, err := s.signing(ctx, req.GetSigned(), req.GetPlan())
	if err != nil {
		return nil, err
	}
	err = schedstore.UpdateSigned(ctx, s.c.Store, old.GetId(), req.GetVersion(), sp.Spec(), sg)
	if p := (*plannedError)(nil); errors.As(err, &p) {
		return &controlpb.UpdateServiceResponse{Id: old.GetId(), Warnings: warnings, Planned: p.spec}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &controlpb.UpdateServiceResponse{Id: old.GetId(), Warnings: warnings}
	s.warn(ctx, &resp.Warnings, func(r raftstore.Reader) []string { return nameWarnings(r, sp.Spec()) })
	return resp, nil
}

// RemoveService removes one service.
func (s *Server) RemoveService(ctx context.Context, req *controlpb.RemoveServiceRequest) (*controlpb.RemoveServiceResponse, error) {
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
	if err := schedstore.RemoveService(ctx, s.c.Store, id); err != nil {
		return nil, err
	}
	return &controlpb.RemoveServiceResponse{Id: id}, nil
}

// ListServices returns the named services, or all by name.
func (s *Server) ListServices(ctx context.Context, req *controlpb.ListServicesRequest) (*controlpb.ListServicesResponse, error) {
	resp := &controlpb.ListServicesResponse{}
	return resp, s.eachService(ctx, req, collect(&resp.Services))
}

// StreamServices is ListServices in pages.
func (s *Server) StreamServices(req *controlpb.ListServicesRequest, stream controlpb.Control_StreamServicesServer) error {
	p := &pages[*controlpb.ServiceView]{send: func(page []*controlpb.ServiceView) error {
		return stream.Send(&controlpb.ListServicesResponse{Services: page})
	}}
	return p.end(s.eachService(stream.Context(), req, p.add))
}

func (s *Server) eachService(ctx context.Context, req *controlpb.ListServicesRequest, yield func(*controlpb.ServiceView) error) error {
	return s.view(ctx, func(r *raftstore.ReadTx) error {
		services, err := pick(r, req.GetServices())
		if err != nil {
			return err
		}
		for _, svc := range services {
			if err := yield(serviceView(r, svc, 0)); err != nil {
				return err
			}
		}
		return nil
	})
}

// pick resolves references in their order; none means all, by name.
func pick(r raftstore.Reader, refs []string) (out []*schedulerpb.Service, err error) {
	for _, ref := range refs {
		svc, err := schedstore.ResolveService(r, ref)
		if err != nil {
			return nil, err
		}
		out = append(out, svc)
	}
	if len(refs) > 0 {
		return out, nil
	}
	out = slices.Collect(schedstore.Services.All(r))
	slices.SortFunc(out, func(a, b *schedulerpb.Service) int {
		return strings.Compare(a.GetSpec().GetName(), b.GetSpec().GetName())
	})
	return out, nil
}

// serviceView counts the service's tasks. besides is a run that the view of a job has in
// any case, where it is kept; 0: none.
func serviceView(r *raftstore.ReadTx, svc *schedulerpb.Service, besides uint64) *controlpb.ServiceView {
	count := schedstore.CountOf(r, svc.GetId())
	v := &controlpb.ServiceView{Service: svc, Running: count.Running, Networks: serviceNetworks(r, svc)}
	req, err := placement.Compile(svc.GetId(), svc.GetRevision(), svc.GetSpec().GetTask(), meshstore.NodeFeature(r))
	if err != nil { // validation lets no such service in
		return v
	}
	if spec.IsJob(svc.GetSpec()) {
		jobView(r, v, besides)
	} else {
		v.Wanted = orchestrator.Wanted(svc, req, schedstore.Nodes.All(r), schedstore.OfService(r, svc.GetId()))
	}
	if !spec.PerNode(svc.GetSpec()) {
		if v.Held = orchestrator.Held(v.Wanted, count); v.Held > 0 {
			v.HeldReason = waitingReason(r, svc.GetId())
		}
	}
	return v
}

// waitingReason is why one of the service's tasks waits for a node.
func waitingReason(r *raftstore.ReadTx, service string) string {
	for t := range schedstore.Tasks.By(r, "node", schedstore.Unassigned) {
		if why := t.GetStatus().GetMessage(); t.GetServiceId() == service && schedstore.Wanted(t) && t.GetNotBefore() == 0 && why != "" {
			return why
		}
	}
	return ""
}

// admit checks a spec and pins its image. An image that did not change keeps
// its digest: an update of something else must not replace what runs.
func (s *Server) admit(ctx context.Context, sp, old *schedulerpb.ServiceSpec) (admitted spec.Admitted, warnings []string, err error) {
	if sp == nil {
		return admitted, nil, apierr.Invalid("", "the request has no service in it")
	}
	if admitted, err = spec.Admit(sp); err != nil {
		return admitted, nil, apierr.Invalid("", "%v", err)
	}
	if err := s.view(ctx, func(r *raftstore.ReadTx) error { return checkServers(r, admitted.Spec()) }); err != nil {
		return admitted, nil, err
	}
	c := admitted.Spec().GetTask().GetContainer()
	was := old.GetTask().GetContainer()
	digest, platforms := was.GetDigest(), old.GetTask().GetPlatforms()
	other := false
	if c.GetImage() != was.GetImage() || digest == "" || sp.GetTask().GetForce() != old.GetTask().GetForce() {
		if digest, platforms, warnings, err = s.pin(ctx, c.GetImage()); err != nil {
			return admitted, nil, err
		}
		other = true
	}
	if admitted, err = admitted.Pin(digest, platforms); err != nil {
		return admitted, nil, err
	}
	more, err := s.admitImage(ctx, admitted.Spec().GetTask().GetContainer())
	if err != nil && !other {
		// It runs: one who may not scale it down, say, could only remove it.
		more, err = []string{err.Error()}, nil
	}
	return admitted, append(warnings, more...), err
}
