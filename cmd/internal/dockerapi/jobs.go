package dockerapi

import (
	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// Docker has jobs, and no word for their schedules: one that a job has stays as it is.
// Which runs a schedule begins Docker calls iterations of the job, as those that an
// update begins.

func fromMode(in *swarm.ServiceMode, out *schedulerpb.ServiceSpec) error {
	replicated, global, job, globalJob := take(&in.Replicated), take(&in.Global), take(&in.ReplicatedJob), take(&in.GlobalJob)
	given := 0
	for _, is := range []bool{replicated != nil, global != nil, job != nil, globalJob != nil} {
		if is {
			given++
		}
	}
	switch {
	case given > 1:
		return badRequest("Mode is several at once: choose one")
	case global != nil:
		out.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	case globalJob != nil:
		out.Mode = &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}
	case job != nil:
		out.Mode = &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: fromJob(job, out.GetReplicatedJob())}
	default:
		n := uint64(1)
		if replicated != nil && replicated.Replicas != nil {
			n = *replicated.Replicas
		}
		out.Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: n}}
	}
	return nil
}

// fromJob leaves what Docker has no word for, all at a time, where its number was not
// changed.
func fromJob(in *swarm.ReplicatedJob, was *schedulerpb.ReplicatedJob) *schedulerpb.ReplicatedJob {
	out := &schedulerpb.ReplicatedJob{MaxConcurrent: 1}
	if in.MaxConcurrent != nil {
		out.MaxConcurrent = *in.MaxConcurrent
	}
	if out.TotalCompletions = out.MaxConcurrent; in.TotalCompletions != nil {
		out.TotalCompletions = *in.TotalCompletions
	}
	if was != nil && was.GetMaxConcurrent() == 0 && out.MaxConcurrent == was.GetTotalCompletions() {
		out.MaxConcurrent = 0
	}
	return out
}

func toMode(s *schedulerpb.ServiceSpec) swarm.ServiceMode {
	size := spec.Size(s)
	switch {
	case s.GetGlobal() != nil:
		return swarm.ServiceMode{Global: &swarm.GlobalService{}}
	case s.GetGlobalJob() != nil:
		return swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}}
	case s.GetReplicatedJob() != nil:
		most := spec.Concurrent(s)
		if s.GetReplicatedJob().GetMaxConcurrent() == 0 {
			most = size
		}
		return swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: &most, TotalCompletions: &size}}
	}
	return swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &size}}
}

// toJobStatus is there for each job, also for one that never ran: clients rely on it.
func toJobStatus(v *controlpb.ServiceView) *swarm.JobStatus {
	if !spec.IsJob(v.GetService().GetSpec()) {
		return nil
	}
	run := spec.NewestRun(v.GetRuns())
	return &swarm.JobStatus{JobIteration: swarm.Version{Index: run.GetNumber()}, LastExecution: moment(run.GetBeganAt())}
}

func toServiceStatus(v *controlpb.ServiceView) *swarm.ServiceStatus {
	run := spec.NewestRun(v.GetRuns())
	out := &swarm.ServiceStatus{RunningTasks: v.GetRunning(), DesiredTasks: v.GetWanted(), CompletedTasks: run.GetCompleted()}
	if v.GetService().GetSpec().GetGlobalJob() != nil { // of which it is told how many completed
		out.DesiredTasks = run.GetWanted()
	}
	return out
}

// jobTask says of a task of a job of which run it is, and its slot as Docker counts those
// of jobs: from 0.
func jobTask(t *schedulerpb.Task, out *swarm.Task) {
	if t.GetIteration() == 0 {
		return
	}
	out.JobIteration = &swarm.Version{Index: t.GetIteration()}
	out.Slot = max(out.Slot-1, 0)
}
