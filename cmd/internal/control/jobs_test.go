package control_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// job is a spec of a replicated job, global where concurrent is 0.
func (w *world) job(name string, concurrent, completions uint64) *schedulerpb.ServiceSpec {
	sp := schedulertest.JobSpec(name, concurrent, completions)
	if concurrent == 0 {
		sp = schedulertest.GlobalJobSpec(name)
	}
	sp.Task.Container.Digest = ""
	return sp
}

// putJobTask stores a task of a job's run; slot 0: on the worker.
func (w *world) putJobTask(service string, run uint64, slot uint32, state schedulerpb.TaskState, lines ...string) string {
	w.t.Helper()
	target := ""
	if slot == 0 {
		target = w.worker
	}
	id := ident.New()
	w.mu.Lock()
	for i, l := range lines {
		w.logs[id] = append(w.logs[id], &schedulerpb.LogChunk{TaskId: id, At: int64(i + 1), Data: []byte(l)})
	}
	w.logs[id] = append(w.logs[id], &schedulerpb.LogChunk{TaskId: id, Eof: true})
	w.mu.Unlock()
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		return schedstore.PutTask(tx, &schedulerpb.Task{Id: id, ServiceId: service, Slot: slot, TargetNodeId: target, Revision: 1, Iteration: run, NodeId: w.worker, Desired: schedstore.Running,
			Status: &schedulerpb.TaskStatus{State: state, ContainerId: "c"}})
	})
	return id
}

// endRun has a run be over.
func (w *world) endRun(service string, n uint64, state schedulerpb.ServiceRun_State, completed, failed uint64, message string) {
	w.t.Helper()
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		r, _ := schedstore.ServiceRuns.Get(tx, schedstore.RunID(service, n))
		r = proto.CloneOf(r)
		r.State, r.Completed, r.Failed, r.Message, r.EndedAt = state, completed, failed, message, tx.Now().UnixNano()
		return schedstore.ServiceRuns.Put(tx, r)
	})
}

// runs are "number state completed/wanted", the newest first.
func (w *world) runs(ref string) (out []string) {
	w.t.Helper()
	s := &sink[controlpb.StreamRunsResponse]{ctx: w.t.Context()}
	if err := w.api.StreamRuns(&controlpb.StreamRunsRequest{Service: ref}, s); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range s.pages {
		out = append(out, runLine(p.GetRun()))
	}
	return out
}

func runLine(r *schedulerpb.ServiceRun) string {
	return fmt.Sprintf("%d %s %d/%d", r.GetNumber(), strings.ToLower(strings.TrimPrefix(r.GetState().String(), "STATE_")), r.GetCompleted(), r.GetWanted())
}

func (w *world) wantView(ref string, wanted uint64, runs ...string) {
	w.t.Helper()
	v := w.service(ref)
	var got []string
	for _, r := range v.GetRuns() {
		got = append(got, runLine(r))
	}
	if v.GetWanted() != wanted || !slices.Equal(got, runs) {
		w.t.Errorf("%s wants %d tasks, runs %q; want %d, %q", ref, v.GetWanted(), got, wanted, runs)
	}
}

// TestRuns: what is told of a job's runs while they go on and after, and who begins them.
func TestRuns(t *testing.T) {
	w := newWorld(t)
	begin := func(ref string) (uint64, error) {
		r, err := w.api.BeginRun(t.Context(), &controlpb.BeginRunRequest{Service: ref})
		return r.GetRun(), err
	}
	id := w.create(w.job("import", 2, 5))
	w.wantView("import", 2, "1 running 0/5")
	w.putJobTask(id, 1, 1, schedstore.Complete)
	w.putJobTask(id, 1, 1, schedstore.Complete) // it was made twice, and counts once
	w.putJobTask(id, 1, 2, schedstore.Failed)
	for slot := range uint32(3) {
		w.putJobTask(id, 1, 3+slot, schedstore.Complete)
	}
	w.wantView("import", 1, "1 running 4/5")
	w.endRun(id, 1, schedstore.RunFailed, 4, 1, "1 of 5 failed: exited with 2")
	w.wantView("import", 0, "1 failed 4/5")
	status, err := w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{})
	if err != nil || !slices.Contains(status.GetWarnings(), "run 1 of job import has failed: 1 of 5 failed: exited with 2: `redoubt service runs import`") {
		t.Errorf("%q, %v", status.GetWarnings(), err)
	}
	if r, err := w.api.Explain(t.Context(), &controlpb.ExplainRequest{Target: "import"}); err != nil || !slices.Contains(r.GetSummary(), "run 1 failed, 4 of 5 tasks completed: 1 of 5 failed: exited with 2") {
		t.Errorf("%q, %v", r.GetSummary(), err)
	}
	if n, err := begin("import"); n != 2 || err != nil {
		t.Errorf("run %d, %v", n, err)
	}
	w.wantView("import", 2, "1 failed 4/5", "2 running 0/5")
	if n, err := begin("import"); n != 3 || err != nil {
		t.Errorf("run %d, %v", n, err)
	}
	// Of those that ended there is the newest; all are in the list.
	w.wantView("import", 2, "2 stopped 0/5", "3 running 0/5")
	if got := w.runs("import"); !slices.Equal(got, []string{"3 running 0/5", "2 stopped 0/5", "1 failed 4/5"}) {
		t.Errorf("%q", got)
	}

	// A global job is for the nodes that there are.
	each := w.create(w.job("sweep", 0, 0))
	w.wantView("sweep", 1, "1 running 0/1") // managers are drained
	w.state(w.addNode("worker-2", false), schedulerpb.NodeState_NODE_STATE_READY, "")
	w.wantView("sweep", 2, "1 running 0/2")
	w.putJobTask(each, 1, 0, schedstore.Complete)
	w.wantView("sweep", 1, "1 running 1/2")
	w.endRun(each, 1, schedstore.RunCompleted, 2, 0, "")
	w.wantView("sweep", 0, "1 completed 2/2")

	w.create(w.spec("web"))
	_, err = begin("web")
	wantReason(t, err, apierr.ReasonInvalid, "web is no job")
	_, err = begin("nothing")
	wantReason(t, err, apierr.ReasonNotFound, "no service")
	wantReason(t, w.api.StreamRuns(&controlpb.StreamRunsRequest{Service: "web"}, &sink[controlpb.StreamRunsResponse]{ctx: t.Context()}), apierr.ReasonInvalid, "web is no job")
}

// TestSchedules: a job that has one is due, unless it is suspended.
func TestSchedules(t *testing.T) {
	w := newWorld(t)
	sp := w.job("backup", 1, 1)
	sp.Schedule = &schedulerpb.Schedule{Expression: "@yearly"}
	id := w.create(sp)
	w.wantView("backup", 0)
	suspend := func(ref string, yes bool) (int64, error) {
		r, err := w.api.SuspendService(t.Context(), &controlpb.SuspendServiceRequest{Service: ref, Suspend: yes})
		return r.GetDue(), err
	}
	if due, err := suspend("backup", true); due != 0 || err != nil || w.service(id).GetService().GetSuspendedSince() == 0 {
		t.Errorf("%d, %v", due, err)
	}
	if due, err := suspend("backup", false); due == 0 || err != nil || due != w.service(id).GetService().GetDue() {
		t.Errorf("%d, %v", due, err)
	}
	r, err := w.api.BeginRun(t.Context(), &controlpb.BeginRunRequest{Service: "backup"})
	if err != nil || r.GetRun() != 1 {
		t.Errorf("%v, %v", r, err)
	}
	_, err = w.api.BeginRun(t.Context(), &controlpb.BeginRunRequest{Service: "backup"})
	wantReason(t, err, apierr.ReasonInvalid, "run 1 of job backup is still going")
	w.create(w.job("import", 1, 1))
	_, err = suspend("import", true)
	wantReason(t, err, apierr.ReasonInvalid, "no schedule")
	wrong := w.job("wrong", 1, 1)
	wrong.Schedule = &schedulerpb.Schedule{Expression: "0 0 30 2 *"}
	_, err = w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: wrong})
	wantReason(t, err, apierr.ReasonInvalid, "would never run")
}

// TestARunNeedsWhatItsJobNeeds: who may not make a service that has capabilities or a
// priority begins no run of one, and has its schedule not count again.
func TestARunNeedsWhatItsJobNeeds(t *testing.T) {
	w := newWorld(t)
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		for name, role := range map[string]string{"dave": "deployer", "olga": "operator"} {
			if err := pkistore.People.Put(tx, &pkipb.Person{Id: name}); err != nil {
				return err
			}
			if _, err := roles.Bind(tx, role, roles.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: name}, nil); err != nil {
				return err
			}
		}
		return nil
	})
	judge, err := roles.New(w.store, &audit.Log{Store: w.store, Manager: w.manager})
	if err != nil {
		t.Fatal(err)
	}
	judged := control.New(control.Config{Store: w.store, Roles: judge, Logger: slog.New(slog.DiscardHandler)})
	as := func(person string) context.Context {
		return authz.NewContext(t.Context(), authz.Identity{Person: person, Source: &net.TCPAddr{}})
	}
	for verb, change := range map[string]func(*taskpb.TaskSpec){
		"":                   func(*taskpb.TaskSpec) {},
		"service.prioritize": func(task *taskpb.TaskSpec) { task.Priority = 5 },
		"service.privileged": func(task *taskpb.TaskSpec) { task.Container.CapAdd = []string{"CAP_NET_ADMIN"} },
	} {
		sp := w.job("job"+strings.ReplaceAll(verb, ".", "-"), 1, 1)
		sp.Schedule = &schedulerpb.Schedule{Expression: "@yearly", Concurrency: spec.Replace}
		change(sp.Task)
		id := w.create(sp)
		for person, may := range map[string]bool{"dave": verb == "", "olga": true} {
			ctx := as(person)
			_, run := judged.BeginRun(ctx, &controlpb.BeginRunRequest{Service: sp.Name})
			if _, err := judged.SuspendService(ctx, &controlpb.SuspendServiceRequest{Service: id, Suspend: true}); err != nil {
				t.Errorf("%s may not suspend %s: %v", person, sp.Name, err)
			}
			_, resume := judged.SuspendService(ctx, &controlpb.SuspendServiceRequest{Service: id})
			for what, err := range map[string]error{"run": run, "resume": resume} {
				switch {
				case may && err != nil:
					t.Errorf("%s may not %s %s: %v", person, what, sp.Name, err)
				case !may:
					wantReason(t, err, apierr.ReasonDenied, "may not "+verb)
				}
			}
		}
		if verb == "" {
			continue
		}
		_, err := w.api.BeginRun(as("olga"), &controlpb.BeginRunRequest{Service: id}) // it cannot ask
		wantReason(t, err, apierr.ReasonDenied, "nobody can say here")
	}
}

// TestAWatchTellsOfRuns: also when nothing but the record of a run changed, and of the
// run that was asked for when others ended since.
func TestAWatchTellsOfRuns(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.job("import", 1, 1))
	next, _ := stream(t, func(s *serverStream[*controlpb.WatchServiceResponse]) error {
		return w.api.WatchService(&controlpb.WatchServiceRequest{Service: id, Changes: true, Run: 1}, s)
	})
	states := func() (out []string) {
		for _, r := range next().GetService().GetRuns() {
			out = append(out, runLine(r))
		}
		return out
	}
	if got := states(); !slices.Equal(got, []string{"1 running 0/1"}) {
		t.Errorf("%q", got)
	}
	w.endRun(id, 1, schedstore.RunCompleted, 1, 0, "")
	if got := states(); !slices.Equal(got, []string{"1 completed 1/1"}) {
		t.Errorf("%q", got)
	}
	for n := uint64(2); n <= 3; n++ {
		if _, err := w.api.BeginRun(t.Context(), &controlpb.BeginRunRequest{Service: id}); err != nil {
			t.Fatal(err)
		}
		for got := states(); len(got) == 0 || got[len(got)-1] != fmt.Sprintf("%d running 0/1", n); got = states() {
		}
	}
	w.endRun(id, 3, schedstore.RunCompleted, 1, 0, "")
	if got := states(); !slices.Equal(got, []string{"1 completed 1/1", "3 completed 1/1"}) {
		t.Errorf("%q", got)
	}
}

// TestLogsOfARun are of its tasks alone, and end with it.
func TestLogsOfARun(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.job("import", 1, 1))
	w.putJobTask(id, 1, 1, schedstore.Complete, "first")
	w.endRun(id, 1, schedstore.RunCompleted, 1, 0, "")
	if _, err := w.api.BeginRun(t.Context(), &controlpb.BeginRunRequest{Service: id}); err != nil {
		t.Fatal(err)
	}
	task := w.putJobTask(id, 2, 1, schedstore.Running, "second")
	read := func(req *controlpb.ServiceLogsRequest) (func() *controlpb.ServiceLogsResponse, func() error) {
		return stream(t, func(s *serverStream[*controlpb.ServiceLogsResponse]) error { return w.api.ServiceLogs(req, s) })
	}
	next, wait := read(&controlpb.ServiceLogsRequest{Target: "import", Run: 1, Follow: true})
	if m := next(); m.GetTaskName() != "import.1#1" || string(m.GetData()) != "first" {
		t.Errorf("%v", m)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
	next, wait = read(&controlpb.ServiceLogsRequest{Target: "import", Run: 2, Follow: true})
	if m := next(); m.GetTaskName() != "import.1#2" || string(m.GetData()) != "second" {
		t.Errorf("%v", m)
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		x, _ := schedstore.Tasks.Get(tx, task)
		x = proto.CloneOf(x)
		x.Status.State = schedstore.Complete
		return schedstore.PutTask(tx, x)
	})
	w.endRun(id, 2, schedstore.RunCompleted, 1, 0, "")
	if err := wait(); err != nil {
		t.Error(err)
	}
	refused := func(req *controlpb.ServiceLogsRequest, reason apierr.Reason, text string) {
		t.Helper()
		_, wait := read(req)
		wantReason(t, wait(), reason, text)
	}
	refused(&controlpb.ServiceLogsRequest{Target: "import", Run: 7}, apierr.ReasonNotFound, "no run 7 that is kept")
	refused(&controlpb.ServiceLogsRequest{Target: "import.1", Run: 1}, apierr.ReasonInvalid, "is one task")
	w.create(w.spec("web"))
	refused(&controlpb.ServiceLogsRequest{Target: "web", Run: 1}, apierr.ReasonInvalid, "web is no job")
}
