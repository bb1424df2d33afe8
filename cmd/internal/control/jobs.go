package control

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/orchestrator"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// BeginRun begins a run of a job, of what it is now.
func (s *Server) BeginRun(ctx context.Context, req *controlpb.BeginRunRequest) (*controlpb.BeginRunResponse, error) {
	svc, err := s.mayRun(ctx, req.GetService())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	run, err := schedstore.BeginRun(ctx, s.c.Store, svc.GetId(), schedstore.Beginning{By: caller(ctx), Judged: svc.GetSpec()})
	if err != nil {
		return nil, err
	}
	return &controlpb.BeginRunResponse{Id: svc.GetId(), Run: run}, nil
}

// mayRun finds the job of which the caller wants a run. It is judged by what the service
// is, which no rule of the request knows: as an update of it would be, for what the
// service itself needs. That the job may be run at all was judged before.
func (s *Server) mayRun(ctx context.Context, ref string) (svc *schedulerpb.Service, err error) {
	if err := s.view(ctx, func(r *raftstore.ReadTx) (err error) {
		svc, err = schedstore.ResolveService(r, ref)
		return err
	}); err != nil {
		return nil, err
	}
	acts, err := authz.ActsOf(controlpb.Control_UpdateService_FullMethodName, &controlpb.UpdateServiceRequest{Service: svc.GetId(), Spec: svc.GetSpec()})
	if err != nil {
		return nil, err
	}
	acts = slices.DeleteFunc(acts, func(a authz.Act) bool { return a.Kind != "Service" || a.Verb == "service.update" })
	if len(acts) == 0 {
		return svc, nil
	}
	id, ok := authz.FromContext(ctx)
	if !ok || s.c.Roles == nil {
		return nil, apierr.New(apierr.ReasonDenied, "", "nobody can say here whether service %s may be run", svc.GetSpec().GetName())
	}
	return svc, s.c.Roles.Judge(ctx, id, acts)
}

// SuspendService has the schedule of a job not count, or count again. Who has it count
// again has the job run.
func (s *Server) SuspendService(ctx context.Context, req *controlpb.SuspendServiceRequest) (*controlpb.SuspendServiceResponse, error) {
	id, err := s.serviceID(ctx, req.GetService())
	if err == nil && !req.GetSuspend() {
		_, err = s.mayRun(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	if err := schedstore.Suspend(ctx, s.c.Store, id, req.GetSuspend()); err != nil {
		return nil, err
	}
	resp := &controlpb.SuspendServiceResponse{Id: id}
	return resp, s.view(ctx, func(r *raftstore.ReadTx) error {
		svc, _ := schedstore.Services.Get(r, id)
		resp.Due = svc.GetDue()
		return nil
	})
}

// StreamRuns tells of the runs of a job that are kept.
func (s *Server) StreamRuns(req *controlpb.StreamRunsRequest, stream controlpb.Control_StreamRunsServer) error {
	var all []*schedulerpb.ServiceRun
	err := s.view(stream.Context(), func(r *raftstore.ReadTx) error {
		svc, err := schedstore.ResolveService(r, req.GetService())
		if err == nil {
			err = schedstore.CheckJob(svc)
		}
		if err != nil {
			return err
		}
		all = schedstore.Runs(r, svc.GetId())
		progress(r, svc, all)
		return nil
	})
	if err != nil {
		return err
	}
	for _, run := range slices.Backward(all) {
		if err := stream.Send(&controlpb.StreamRunsResponse{Run: run}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) serviceID(ctx context.Context, ref string) (id string, err error) {
	err = s.view(ctx, func(r *raftstore.ReadTx) error {
		svc, err := schedstore.ResolveService(r, ref)
		id = svc.GetId()
		return err
	})
	return id, err
}

// jobView fills in what is of a job alone; besides is a run that it has in any case.
func jobView(r *raftstore.ReadTx, v *controlpb.ServiceView, besides uint64) {
	svc := v.GetService()
	ended := false
	for _, run := range slices.Backward(schedstore.Runs(r, svc.GetId())) {
		newest := !ended && run.GetState() != schedstore.RunGoing && run.GetState() != schedstore.RunMissed
		if newest || run.GetState() == schedstore.RunGoing || run.GetNumber() == besides {
			v.Runs = append(v.Runs, run)
		}
		ended = ended || newest
	}
	slices.Reverse(v.Runs)
	progress(r, svc, v.Runs)
	for _, run := range v.Runs {
		if run.GetState() == schedstore.RunGoing {
			v.Wanted += min(run.GetWanted()-min(run.GetCompleted(), run.GetWanted()), spec.Concurrent(svc.GetSpec()))
		}
	}
}

// jobWarning is what somebody should know of a job: that its newest run was missed, or
// that the newest which ended has failed.
func jobWarning(r raftstore.Reader, v *controlpb.ServiceView) string {
	svc := v.GetService()
	name := svc.GetSpec().GetName()
	newest, _ := schedstore.ServiceRuns.Get(r, schedstore.RunID(svc.GetId(), svc.GetRun()))
	if newest.GetState() == schedstore.RunMissed {
		return fmt.Sprintf("run %d of job %s was missed: %s", newest.GetNumber(), name, newest.GetMessage())
	}
	for _, run := range v.GetRuns() {
		if run.GetState() == schedstore.RunFailed {
			return fmt.Sprintf("run %d of job %s has failed: %s", run.GetNumber(), name, run.GetMessage())
		}
	}
	return ""
}

// progress says of runs how far they are: how many of their slots are done as yet, and
// of those that are for each node how many nodes that is.
func progress(r *raftstore.ReadTx, svc *schedulerpb.Service, runs []*schedulerpb.ServiceRun) {
	done, nodes := map[uint64]map[string]bool{}, map[uint64]map[string]bool{}
	perNode := spec.PerNode(svc.GetSpec())
	for i, run := range runs {
		runs[i] = proto.CloneOf(run)
		if run.GetState() == schedstore.RunGoing {
			done[run.GetNumber()], nodes[run.GetNumber()] = map[string]bool{}, map[string]bool{}
		} else if perNode {
			runs[i].Wanted = run.GetCompleted() + run.GetFailed()
		}
	}
	if len(done) == 0 {
		return
	}
	for t := range schedstore.OfService(r, svc.GetId()) {
		slots := done[t.GetIteration()]
		if slots == nil {
			continue
		}
		place := schedstore.SlotKey(svc.GetId(), t.GetSlot(), t.GetTargetNodeId())
		if schedstore.State(t) == schedstore.Complete {
			slots[place] = true
		}
		nodes[t.GetIteration()][place] = true
	}
	for _, run := range runs {
		if run.GetState() != schedstore.RunGoing {
			continue
		}
		run.Completed = uint64(len(done[run.GetNumber()]))
		if perNode {
			for place := range welcoming(r, svc, run.GetRevision()) {
				nodes[run.GetNumber()][place] = true
			}
			run.Wanted = uint64(len(nodes[run.GetNumber()]))
		}
	}
}

// welcoming are the places of the nodes that would get a task of a global job now.
func welcoming(r *raftstore.ReadTx, svc *schedulerpb.Service, revision uint64) map[string]bool {
	out := map[string]bool{}
	rev, ok := schedstore.Revisions.Get(r, schedstore.RevisionID(svc.GetId(), revision))
	if !ok {
		return out
	}
	req, err := placement.Compile(svc.GetId(), revision, rev.GetSpec(), meshstore.NodeFeature(r))
	if err != nil {
		return out
	}
	for n := range schedstore.Nodes.All(r) {
		if orchestrator.Welcomes(n, req) {
			out[schedstore.SlotKey(svc.GetId(), 0, n.GetId())] = true
		}
	}
	return out
}
