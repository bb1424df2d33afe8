package store

import (
	"fmt"
	"strings"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// maxDepth bounds the services that one depends on, directly or through others.
const maxDepth = 4096

// Waits says what of the services that s depends on has not come so far, for people;
// empty: nothing. One task of a service is enough for it to have started, or to be
// healthy: whoever calls it is led to that one.
func Waits(r raftstore.Reader, s *schedulerpb.Service, on []*taskpb.Dependency) string {
	var all []string
	for _, d := range on {
		if why := waits(r, s, d); why != "" {
			all = append(all, fmt.Sprintf("for %s to %s (%s)", d.GetService(), goal[d.GetCondition()], why))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "waits " + strings.Join(all, ", ")
}

// Awaited are the names of the services that have not come so far.
func Awaited(r raftstore.Reader, s *schedulerpb.Service, on []*taskpb.Dependency) (names []string) {
	for _, d := range on {
		if waits(r, s, d) != "" {
			names = append(names, d.GetService())
		}
	}
	return names
}

var goal = map[taskpb.Dependency_Condition]string{
	taskpb.Dependency_CONDITION_STARTED:   "be started",
	taskpb.Dependency_CONDITION_HEALTHY:   "be healthy",
	taskpb.Dependency_CONDITION_COMPLETED: "have completed",
}

// Named is the service of that name, or nil.
func Named(r raftstore.Reader, name string) *schedulerpb.Service {
	for s := range Services.By(r, "name", name) {
		return s
	}
	return nil
}

func waits(r raftstore.Reader, s *schedulerpb.Service, d *taskpb.Dependency) (why string) {
	on := Named(r, d.GetService())
	switch {
	case d.GetOptional() && (on == nil || stackOf(on.GetSpec()) != stackOf(s.GetSpec())):
		return ""
	case on == nil:
		return "there is no such service"
	case stackOf(on.GetSpec()) != stackOf(s.GetSpec()):
		return "that one is not of its stack"
	}
	done, why := comeSoFar(r, on, d.GetCondition())
	if done || d.GetOptional() && givenUp(r, on) {
		return ""
	}
	return why
}

// comeSoFar reports whether a service meets the condition, and if not, what it is.
func comeSoFar(r raftstore.Reader, s *schedulerpb.Service, c taskpb.Dependency_Condition) (bool, string) {
	switch {
	case c == taskpb.Dependency_CONDITION_COMPLETED && spec.IsJob(s.GetSpec()):
		return ran(r, s)
	case c == taskpb.Dependency_CONDITION_COMPLETED:
		return completed(r, s)
	}
	why := "it has no task"
	for t := range OfService(r, s.GetId()) {
		switch state := State(t); {
		case c == taskpb.Dependency_CONDITION_STARTED && (state == Complete || Wanted(t) && state >= schedulerpb.TaskState_TASK_STATE_STARTING):
			return true, ""
		case c == taskpb.Dependency_CONDITION_HEALTHY && Wanted(t) && state == Running && !t.GetStatus().GetUnhealthy():
			return true, ""
		case Wanted(t) && state == Running:
			why = "it runs and fails its healthcheck"
		case Wanted(t):
			why = "it is " + StateName(state)
		}
	}
	return false, why
}

// ran looks at the newest run of a job.
func ran(r raftstore.Reader, s *schedulerpb.Service) (bool, string) {
	run := spec.NewestRun(Runs(r, s.GetId()))
	if run == nil {
		return false, "it has not run yet"
	}
	return run.GetState() == RunCompleted, fmt.Sprintf("run %d %s", run.GetNumber(), runWords[run.GetState()])
}

var runWords = map[schedulerpb.ServiceRun_State]string{RunGoing: "goes on", RunCompleted: "has completed", RunFailed: "has failed", RunStopped: "was stopped"}

// completed looks at the newest task of each place.
func completed(r raftstore.Reader, s *schedulerpb.Service) (bool, string) {
	newest := map[string]*schedulerpb.Task{}
	for t := range OfService(r, s.GetId()) {
		key := SlotKey("", t.GetSlot(), t.GetTargetNodeId())
		if old := newest[key]; old == nil || Newer(t, old) {
			newest[key] = t
		}
	}
	want := max(int(s.GetSpec().GetReplicated().GetReplicas()), 1)
	done := 0
	for _, t := range newest {
		if State(t) == Complete {
			done++
		}
	}
	switch {
	case done >= want && done == len(newest):
		return true, ""
	case s.GetSpec().GetTask().GetRestart().GetCondition() == taskpb.RestartPolicy_CONDITION_ANY:
		return false, "it is started again when it ends: give it the restart condition on-failure or none"
	}
	return false, fmt.Sprintf("%d of %d have", done, max(want, len(newest)))
}

// givenUp reports whether no task of a service will run again by itself.
func givenUp(r raftstore.Reader, s *schedulerpb.Service) bool {
	if spec.IsJob(s.GetSpec()) {
		run := spec.NewestRun(Runs(r, s.GetId()))
		return run != nil && run.GetState() != RunGoing
	}
	some := false
	for t := range OfService(r, s.GetId()) {
		if Live(t) {
			return false
		}
		some = some || t.GetSettled()
	}
	return some
}

func stackOf(s *schedulerpb.ServiceSpec) string { return s.GetLabels()[spec.StackLabel] }

// checkDependencies refuses a service that would wait for itself, or for one of another
// stack. What is not there yet is looked at when it comes.
func checkDependencies(r raftstore.Reader, sp *schedulerpb.ServiceSpec) error {
	for _, d := range sp.GetTask().GetDependsOn() {
		if on := Named(r, d.GetService()); on != nil && stackOf(on.GetSpec()) != stackOf(sp) {
			return refuse("service %s depends on %s, which is not of the same stack: leave it out", sp.GetName(), d.GetService())
		}
	}
	// Breadth first; before holds by what each was come to.
	before := map[string]string{}
	look := []*schedulerpb.ServiceSpec{sp}
	for i := 0; i < len(look); i++ {
		if i == maxDepth {
			return refuse("service %s depends on more than %d services, one through another: leave some out", sp.GetName(), maxDepth)
		}
		from := look[i]
		for _, d := range from.GetTask().GetDependsOn() {
			if d.GetService() == sp.GetName() {
				way := sp.GetName()
				for at := from.GetName(); at != sp.GetName(); at = before[at] {
					way = at + " → " + way
				}
				return refuse("services would wait for each other for ever: %s → %s: leave one out", sp.GetName(), way)
			}
			if _, seen := before[d.GetService()]; seen {
				continue
			}
			before[d.GetService()] = from.GetName()
			if on := Named(r, d.GetService()); on != nil {
				look = append(look, on.GetSpec())
			}
		}
	}
	return nil
}
