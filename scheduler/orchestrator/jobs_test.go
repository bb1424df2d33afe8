package orchestrator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// jobWorld is a world with a job in the place of the service, and its runs.
type jobWorld struct {
	*world
	runs []*schedulerpb.ServiceRun
	// completed are the slots and nodes, by run, of which a task has said so.
	completed map[place]bool
}

func newJobWorld(t rapid.TB, global bool, policy *taskpb.RestartPolicy) *jobWorld {
	w := &jobWorld{newWorld(t, global, policy), nil, map[place]bool{}}
	if global {
		w.service.Spec.Mode = &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}
	} else {
		w.service.Spec.Mode = &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{MaxConcurrent: 2, TotalCompletions: 5}}
	}
	return w
}

// begin begins a run as the store does.
func (w *jobWorld) begin(replace bool) {
	w.bump(func(s *schedulerpb.Service) { s.Run++ })
	for i, run := range w.runs {
		if replace && run.GetState() == store.RunGoing {
			w.setRun(i, func(run *schedulerpb.ServiceRun) { run.State, run.EndedAt = store.RunStopped, w.now.UnixNano() })
		}
	}
	w.runs = append(w.runs, &schedulerpb.ServiceRun{
		Meta: w.meta(nil), Id: store.RunID("svc", w.service.GetRun()), ServiceId: "svc", Number: w.service.GetRun(),
		State: store.RunGoing, BeganAt: w.now.UnixNano(), Revision: w.service.GetRevision(), Wanted: spec.Size(w.service.GetSpec()),
	})
}

func (w *jobWorld) setRun(i int, change func(*schedulerpb.ServiceRun)) {
	run := proto.CloneOf(w.runs[i])
	change(run)
	run.Meta = w.meta(run.Meta)
	w.runs[i] = run
}

func (w *jobWorld) input() Input {
	in := w.world.input()
	in.Runs = w.runs
	if w.service == nil {
		in.Runs = nil
	}
	in.RequestOf = func(revision uint64) *placement.Request {
		sp, ok := w.revs[store.RevisionID("svc", revision)]
		if !ok {
			return nil
		}
		r, err := placement.Compile("svc", revision, sp, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		return r
	}
	return in
}

// reconcile carries out what passes of a plan, and reports how much there was.
func (w *jobWorld) reconcile(pass func() bool) int {
	w.observeNodes()
	p := w.memory.Plan(w.input())
	for _, slot := range p.Slots {
		passed := pass()
		for _, c := range slot {
			if w.touch(either(c.New, c.Old)); !passed {
				continue
			}
			w.checkJob(c)
			if c.New == nil {
				delete(w.tasks, c.Old.GetId())
			} else {
				w.put(c.New)
			}
		}
	}
	for _, id := range p.Revisions {
		if !pass() {
			continue
		}
		for _, run := range w.runs {
			if w.service != nil && run.GetState() == store.RunGoing && store.RevisionID("svc", run.GetRevision()) == id {
				w.t.Fatalf("revision %s is forgotten while run %d goes on", id, run.GetNumber())
			}
		}
		delete(w.revs, id)
	}
	for _, e := range p.Runs {
		i := slices.IndexFunc(w.runs, func(run *schedulerpb.ServiceRun) bool { return run.GetId() == e.Run.GetId() })
		if w.runs[i].GetMeta().GetVersion() != e.Version {
			w.t.Fatalf("run %d has changed since it was planned for", e.Run.GetNumber())
		}
		if pass() {
			w.ended(e.Run)
			w.setRun(i, func(run *schedulerpb.ServiceRun) { proto.Reset(run); proto.Merge(run, e.Run) })
		}
	}
	w.bounds()
	return len(p.Slots) + len(p.Revisions) + len(p.Runs)
}

func either(a, b *schedulerpb.Task) *schedulerpb.Task {
	if a != nil {
		return a
	}
	return b
}

func (w *jobWorld) checkJob(c Change) {
	if c.Old != nil {
		w.check(c)
		return
	}
	i := slices.IndexFunc(w.runs, func(run *schedulerpb.ServiceRun) bool { return run.GetNumber() == c.New.GetIteration() })
	switch {
	case i < 0 || w.runs[i].GetState() != store.RunGoing && w.service.GetSpec().GetGlobalJob() == nil:
		w.t.Fatalf("made a task of a run that does not go on: %v", c.New)
	case c.New.GetRevision() != w.runs[i].GetRevision():
		w.t.Fatalf("made a task of another revision than its run: %v", c.New)
	case uint64(c.New.GetSlot()) > w.runs[i].GetWanted():
		w.t.Fatalf("made a task beyond the completions asked for: %v", c.New)
	case w.completed[place{c.New.GetSlot(), c.New.GetTargetNodeId(), c.New.GetIteration()}]:
		w.t.Fatalf("made a task where one has completed: %v", c.New)
	}
}

// ended holds the end of a run against its tasks.
func (w *jobWorld) ended(run *schedulerpb.ServiceRun) {
	done := uint64(0)
	for p := range w.completed {
		if p.run == run.GetNumber() {
			done++
		}
	}
	for _, t := range w.tasks {
		if t.GetIteration() == run.GetNumber() && store.Live(t) && run.GetState() != store.RunGoing && run.GetState() != store.RunStopped {
			w.t.Fatalf("run %d has ended and has the task %v", run.GetNumber(), t)
		}
	}
	if run.GetState() == store.RunCompleted && (run.GetCompleted() != done || run.GetFailed() > 0 || done < run.GetWanted()) {
		w.t.Fatalf("run %v is over, %d have completed", run, done)
	}
}

// bounds holds at every moment: one task of a slot, and no more of a run than may be.
func (w *jobWorld) bounds() {
	places, runs := map[place]int{}, map[uint64]uint64{}
	for _, t := range w.tasks {
		if store.Live(t) {
			places[place{t.GetSlot(), t.GetTargetNodeId(), t.GetIteration()}]++
			runs[t.GetIteration()]++
		}
	}
	for p, n := range places {
		if n > 1 {
			w.t.Fatalf("%d live tasks in %v", n, p)
		}
	}
	if j := w.service.GetSpec().GetReplicatedJob(); j != nil {
		for run, n := range runs {
			if n > j.GetMaxConcurrent() {
				w.t.Fatalf("%d tasks of run %d at a time, %d allowed", n, run, j.GetMaxConcurrent())
			}
		}
	}
}

// step has a task do what comes next, up to its completion.
func (w *jobWorld) step(id string, fails bool) bool {
	t := w.tasks[id]
	n := w.nodes[t.GetNodeId()]
	if n == nil || n.GetState() != schedulerpb.NodeState_NODE_STATE_READY || !store.Live(t) || fails || t.GetDesired() > store.Running || store.State(t) < store.Running {
		return w.agent(id, fails)
	}
	next := proto.CloneOf(t)
	next.Status.State = store.Complete
	w.put(next)
	w.completed[place{t.GetSlot(), t.GetTargetNodeId(), t.GetIteration()}] = true
	return true
}

func (w *jobWorld) settle() {
	for range 5000 {
		w.now = w.now.Add(time.Second)
		n := w.reconcile(all)
		if w.service != nil {
			w.placeJob()
		}
		for _, id := range slices.Sorted(maps.Keys(w.tasks)) {
			if w.step(id, false) {
				n++
			}
		}
		if n == 0 {
			return
		}
	}
	w.t.Fatal("it never comes to rest")
}

// placeJob places all but what waits for its restart delay.
func (w *jobWorld) placeJob() {
	for _, id := range slices.Sorted(maps.Keys(w.tasks)) {
		if t := w.tasks[id]; t.GetNotBefore() > w.now.UnixNano() && t.GetNodeId() == "" {
			w.now = time.Unix(0, t.GetNotBefore())
		}
	}
	w.place()
}

func (w *jobWorld) states() string {
	var out []string
	for _, run := range w.runs {
		out = append(out, fmt.Sprintf("%d %s %d+%d", run.GetNumber(), strings.ToLower(strings.TrimPrefix(run.GetState().String(), "STATE_")), run.GetCompleted(), run.GetFailed()))
	}
	return strings.Join(out, ", ")
}

func (w *jobWorld) want(t *testing.T, want string) {
	t.Helper()
	if got := w.states(); got != want {
		t.Fatalf("its runs are %s, want %s", got, want)
	}
}

func TestAJobComesToItsEnd(t *testing.T) {
	for _, global := range []bool{false, true} {
		w := newJobWorld(t, global, nil)
		w.begin(true)
		w.settle()
		want := map[bool]string{false: "1 completed 5+0", true: "1 completed 3+0"}[global]
		w.want(t, want)
		for range 3 {
			w.memory = NewService()
			if n := w.reconcile(all); n != 0 {
				t.Fatalf("%d changes after the end", n)
			}
		}
		w.begin(true)
		w.settle()
		w.want(t, want+", 2 "+want[2:])
	}
}

func TestAJobFailsForGood(t *testing.T) {
	w := newJobWorld(t, false, &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ON_FAILURE, MaxAttempts: 2})
	w.begin(true)
	for i := range 3 { // slot 1 three times, twice of them again
		w.reconcile(all)
		w.placeJob()
		id := ""
		for _, x := range w.tasks {
			if x.GetSlot() == 1 && store.Live(x) {
				id = x.GetId()
			}
		}
		if id == "" {
			t.Fatalf("slot 1 is not tried the %d. time", i+1)
		}
		w.step(id, true)
	}
	w.settle()
	w.want(t, "1 failed 4+1")
	if m := w.runs[0].GetMessage(); !strings.HasPrefix(m, "1 of 5 failed: task") {
		t.Error(m)
	}
}

func TestANodeThatComesHasAGlobalJob(t *testing.T) {
	w := newJobWorld(t, true, nil)
	w.begin(true)
	w.settle()
	w.want(t, "1 completed 3+0")
	w.addNode()
	w.settle()
	w.want(t, "1 completed 4+0")
	w.service.Spec.Schedule = &schedulerpb.Schedule{Expression: "@daily"}
	w.memory = NewService()
	w.addNode()
	w.settle()
	w.want(t, "1 completed 4+0") // it has the next run
}

func TestAStoppedRunIsToldHowFarItCame(t *testing.T) {
	w := newJobWorld(t, false, nil)
	w.begin(true)
	for range 2 {
		w.reconcile(all)
		w.placeJob()
		for _, id := range slices.Sorted(maps.Keys(w.tasks)) {
			w.step(id, false)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.tasks)) {
		w.step(id, false)
	}
	w.begin(true)
	w.settle()
	if got := w.states(); !strings.HasPrefix(got, "1 stopped 2+") || !strings.HasSuffix(got, "2 completed 5+0") {
		t.Error(got)
	}
}

func TestTasksOfFormerRunsAreForgotten(t *testing.T) {
	w := newJobWorld(t, false, nil)
	w.service.Spec.GetReplicatedJob().TotalCompletions, w.service.Spec.GetReplicatedJob().MaxConcurrent = 400, 400
	for range 5 {
		w.begin(true)
		w.settle()
	}
	of := map[uint64]int{}
	for _, x := range w.tasks {
		of[x.GetIteration()]++
	}
	if len(of) != 2 || of[5] != 400 || of[4] != 400 {
		t.Errorf("tasks are kept of runs %v", of)
	}
}

// wide has the job have that many slots, all at a time.
func (w *jobWorld) wide(slots uint64) {
	j := w.service.GetSpec().GetReplicatedJob()
	j.TotalCompletions, j.MaxConcurrent = slots, slots
}

// turn has everybody work once.
func (w *jobWorld) turn(fails func(*schedulerpb.Task) bool) {
	w.now = w.now.Add(time.Second)
	w.reconcile(all)
	w.placeJob()
	for _, id := range slices.Sorted(maps.Keys(w.tasks)) {
		w.step(id, fails(w.tasks[id]))
	}
}

func never(*schedulerpb.Task) bool { return false }

// TestTasksOfStoppedRunsAreForgotten as those of runs that came to their end are, also
// where none of them did anything.
func TestTasksOfStoppedRunsAreForgotten(t *testing.T) {
	for _, works := range []bool{false, true} {
		w := newJobWorld(t, false, nil)
		w.wide(400)
		for range 6 {
			w.begin(true)
			for range map[bool]int{false: 1, true: 3}[works] {
				w.turn(never)
			}
		}
		w.begin(true)
		w.settle()
		if len(w.tasks) > MaxEndedTasks {
			t.Errorf("%d tasks are kept of runs that have ended: %s", len(w.tasks), w.states())
		}
	}
}

// TestARunOfManyTasksKeepsNone once it has ended, or was stopped: its record says how far
// it came.
func TestARunOfManyTasksKeepsNone(t *testing.T) {
	w := newJobWorld(t, false, nil)
	w.wide(MaxEndedTasks + 200)
	w.begin(true)
	w.settle()
	w.want(t, "1 completed 1200+0")
	if len(w.tasks) > 0 {
		t.Errorf("%d tasks are kept", len(w.tasks))
	}
	w.begin(true)
	for len(w.completed) < 2*MaxEndedTasks+100 {
		w.turn(never)
	}
	done := len(w.completed) - 1200
	w.begin(true)
	for range 3 {
		w.turn(never)
	}
	if got, want := w.states(), fmt.Sprintf("1 completed 1200+0, 2 stopped %d+0, 3 running 0+0", done); got != want {
		t.Errorf("its runs are %s, want %s", got, want)
	}
	w.settle()
	if len(w.tasks) > 0 {
		t.Errorf("%d tasks are kept", len(w.tasks))
	}
}

// TestOneTaskIsKeptOfASlotThatIsDone while a run of many goes on.
func TestOneTaskIsKeptOfASlotThatIsDone(t *testing.T) {
	w := newJobWorld(t, false, nil)
	slots := uint64(MaxEndedTasks/MaxHistory + 1)
	w.wide(slots)
	w.begin(true)
	failed := map[uint32]int{}
	for range 40 {
		w.turn(func(x *schedulerpb.Task) bool {
			if store.State(x) != store.Running || x.GetSlot() > 1 && failed[x.GetSlot()] >= 2 {
				return false
			}
			failed[x.GetSlot()]++
			return true
		})
	}
	w.reconcile(all)
	ended := map[uint32]int{}
	for _, x := range w.tasks {
		if !store.Live(x) {
			ended[x.GetSlot()]++
		}
	}
	if uint64(len(w.completed)) != slots-1 || ended[1] != MaxHistory {
		t.Fatalf("%d slots are done, of the first are %d tries", len(w.completed), ended[1])
	}
	for slot := uint32(2); uint64(slot) <= slots; slot++ {
		if ended[slot] != 1 {
			t.Fatalf("slot %d has %d tasks", slot, ended[slot])
		}
	}
}

// TestARunWithoutItsRevision that can be used is no reason to stop planning.
func TestARunWithoutItsRevision(t *testing.T) {
	for _, global := range []bool{false, true} {
		w := newJobWorld(t, global, nil)
		w.begin(true)
		w.reconcile(all)
		w.update()
		for _, memory := range []*Service{w.memory, NewService()} {
			in := w.input()
			in.RequestOf = func(uint64) *placement.Request { return nil }
			for _, slot := range memory.Plan(in).Slots {
				for _, c := range slot {
					if c.Old == nil {
						t.Errorf("made %v", c.New)
					}
				}
			}
		}
	}
}

func TestJobsFromAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		global := rapid.Bool().Draw(t, "global")
		w := newJobWorld(t, global, &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ON_FAILURE, DelayNs: 5e9, MaxAttempts: rapid.Uint64Range(0, 2).Draw(t, "attempts")})
		if rapid.Bool().Draw(t, "scheduled") {
			w.service.Spec.Schedule = &schedulerpb.Schedule{Expression: "@daily"}
		}
		sometimes := func() bool { return rapid.Bool().Draw(t, "pass") }
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { w.now = w.now.Add(time.Second) },
			"begin": func(t *rapid.T) {
				if w.service == nil || w.service.GetRun() >= 5 {
					t.Skip()
				}
				w.begin(rapid.Bool().Draw(t, "replace"))
			},
			"update": func(t *rapid.T) {
				if w.service == nil {
					t.Skip()
				}
				w.update()
			},
			"forget": func(t *rapid.T) {
				if len(w.runs) > 0 && w.runs[0].GetState() != store.RunGoing {
					w.runs = w.runs[1:]
				}
			},
			"remove service": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") == 0 {
					w.service, w.runs = nil, nil
				}
			},
			"add node": func(*rapid.T) {
				if len(w.nodes) < 6 {
					w.addNode()
				}
			},
			"remove node": func(t *rapid.T) {
				if len(w.nodes) > 0 {
					delete(w.nodes, pick(t, w.nodes))
				}
			},
			"node state": func(t *rapid.T) {
				if len(w.nodes) > 0 {
					w.nodes[pick(t, w.nodes)].State = schedulerpb.NodeState(rapid.IntRange(0, 2).Draw(t, "state"))
				}
			},
			"availability": func(t *rapid.T) {
				if len(w.nodes) > 0 {
					w.nodes[pick(t, w.nodes)].Availability = schedulerpb.Availability(rapid.IntRange(2, 4).Draw(t, "availability"))
				}
			},
			"agent": func(t *rapid.T) {
				if len(w.tasks) > 0 {
					w.step(pick(t, w.tasks), rapid.IntRange(0, 3).Draw(t, "fails") == 0)
				}
			},
			"leader change":  func(*rapid.T) { w.memory = NewService() },
			"reconcile":      func(*rapid.T) { w.reconcile(all) },
			"half reconcile": func(*rapid.T) { w.reconcile(sometimes) },
			"place": func(*rapid.T) {
				if w.service != nil {
					w.place()
				}
			},
		})
		for _, n := range w.nodes {
			n.State, n.Availability = schedulerpb.NodeState_NODE_STATE_READY, store.Active
		}
		if len(w.nodes) == 0 {
			w.addNode()
		}
		w.settle()
		if p := Reconcile(w.input()); len(p.Slots)+len(p.Revisions)+len(p.Runs) > 0 || p.More {
			t.Fatalf("what was remembered hid from the plan %v", p)
		}
		if w.service == nil {
			w.converged(t)
			return
		}
		for _, run := range w.runs {
			if run.GetState() == store.RunGoing {
				t.Fatalf("run %v never ends, and has the tasks %v", run, w.tasks)
			}
		}
		for _, task := range w.tasks {
			if store.Live(task) {
				t.Fatalf("a task is left: %v", task)
			}
		}
	})
}
