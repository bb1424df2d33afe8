package clitest

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// The 14th of November 2023, in the evening.
const jobsAt = 1_700_000_000_000_000_000

// startJob begins the run of a job, or says when it is due.
func (n *Node) startJob(s *schedulerpb.Service) {
	switch {
	case !spec.IsJob(s.Spec):
	case s.Spec.Schedule != nil:
		s.Due = jobsAt
	default:
		n.beginRun(s, "person ann")
	}
}

// beginRun has a run of a job end at once: it fails with image failing, and goes on with
// image endless.
func (n *Node) beginRun(s *schedulerpb.Service, by string) {
	if n.runs == nil {
		n.runs = map[string][]*schedulerpb.ServiceRun{}
	}
	s.Run++
	r := &schedulerpb.ServiceRun{Number: s.Run, ServiceId: s.Id, BeganAt: jobsAt, By: by, Wanted: max(1, spec.Size(s.Spec)), Revision: s.Revision}
	switch s.Spec.Task.Container.Image {
	case "endless":
		r.State = schedulerpb.ServiceRun_STATE_RUNNING
	case "failing":
		r.State, r.EndedAt, r.Failed, r.Message = schedulerpb.ServiceRun_STATE_FAILED, jobsAt+3e9, r.Wanted, "1 of 1 failed: exited with 2"
	default:
		r.State, r.EndedAt, r.Completed = schedulerpb.ServiceRun_STATE_COMPLETED, jobsAt+65e9, r.Wanted
	}
	n.runs[s.Id] = append(n.runs[s.Id], r)
}

func (n *Node) tasksOfRuns(s *schedulerpb.Service) (out []*controlpb.TaskView) {
	for _, r := range n.runs[s.Id] {
		out = append(out, &controlpb.TaskView{ServiceName: s.Spec.Name, NodeName: "manager-1", Image: s.Spec.Task.Container.Image,
			Task: &schedulerpb.Task{Id: fmt.Sprintf("%s%02d", s.Id[:24], r.Number), ServiceId: s.Id, Slot: 1, Iteration: r.Number, NodeId: n.id,
				Desired: schedulerpb.TaskState_TASK_STATE_RUNNING, Status: &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_COMPLETE, At: jobsAt}}})
	}
	return out
}

// BeginRun implements Control.
func (n *Node) BeginRun(_ context.Context, r *controlpb.BeginRunRequest) (*controlpb.BeginRunResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, err := n.job(r.Service)
	if err != nil {
		return nil, err
	}
	n.beginRun(s, "person ann")
	return &controlpb.BeginRunResponse{Id: s.Id, Run: s.Run}, nil
}

// SuspendService implements Control.
func (n *Node) SuspendService(_ context.Context, r *controlpb.SuspendServiceRequest) (*controlpb.SuspendServiceResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, err := n.job(r.Service)
	if err != nil {
		return nil, err
	}
	if s.Due, s.SuspendedSince = jobsAt, 0; r.Suspend {
		s.Due, s.SuspendedSince = 0, jobsAt
	}
	return &controlpb.SuspendServiceResponse{Id: s.Id, Due: s.Due}, nil
}

// StreamRuns implements Control. There is one more that was missed.
func (n *Node) StreamRuns(r *controlpb.StreamRunsRequest, stream grpc.ServerStreamingServer[controlpb.StreamRunsResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, err := n.job(r.Service)
	if err != nil {
		return err
	}
	all := append(slices.Clone(n.runs[s.Id]), &schedulerpb.ServiceRun{Number: s.Run + 1, ServiceId: s.Id, State: schedulerpb.ServiceRun_STATE_MISSED,
		DueAt: jobsAt, LastDueAt: jobsAt + 60e9, EndedAt: jobsAt + 120e9, Times: 2, Message: "its schedule was suspended"})
	for _, run := range slices.Backward(all) {
		if err := stream.Send(&controlpb.StreamRunsResponse{Run: run}); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) job(ref string) (*schedulerpb.Service, error) {
	s := n.find(ref)
	switch {
	case s == nil:
		return nil, apierr.NotFound("see `redoubt service ls`", "no service %q", ref)
	case !spec.IsJob(s.Spec):
		return nil, apierr.Invalid("", "service %s is no job: it goes on", ref)
	}
	return s, nil
}
