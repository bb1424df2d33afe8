package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestCircles: services that would wait for each other for ever are refused by the one
// that closes the circle, with the whole of it; so is one of another stack.
func TestCircles(t *testing.T) {
	s := schedulertest.NewStore(t)
	depends := func(name, stack string, on ...string) *schedulerpb.ServiceSpec {
		sp := schedulertest.Spec(name, 1)
		if stack != "" {
			sp.Labels = map[string]string{spec.StackLabel: stack}
		}
		for _, o := range on {
			sp.Task.DependsOn = append(sp.Task.DependsOn, &taskpb.Dependency{Service: o})
		}
		return sp
	}
	refused := func(sp *schedulerpb.ServiceSpec, want string) {
		t.Helper()
		if _, err := store.CreateService(t.Context(), s, sp); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("service %s: %v, want %q", sp.GetName(), err, want)
		}
	}
	create := func(sp *schedulerpb.ServiceSpec) string {
		t.Helper()
		id, err := store.CreateService(t.Context(), s, sp)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	create(depends("a", "", "b", "x"))
	create(depends("b", "", "c"))
	refused(depends("c", "", "d", "a"), "c → a → b → c: leave one out")
	c := create(depends("c", "", "d"))
	create(depends("d", ""))
	refused(depends("self", "", "self"), "depends on itself")
	refused(depends("twice", "", "a", "a"), "given twice")
	create(depends("shop_db", "shop"))
	create(depends("shop_web", "shop", "shop_db"))
	refused(depends("web", "", "shop_db"), "not of the same stack")
	refused(depends("blog_web", "blog", "a"), "not of the same stack")

	svc := service(t, s, c)
	next := depends("c", "", "d", "a")
	if err := store.UpdateService(t.Context(), s, c, svc.GetMeta().GetVersion(), next); err == nil || !strings.Contains(err.Error(), "for ever") {
		t.Errorf("an update that closes the circle: %v", err)
	}
}

// TestWaitsForAJob: a job has completed when its newest run has.
func TestWaitsForAJob(t *testing.T) {
	s := schedulertest.NewStore(t)
	job, web := schedulertest.Spec("job", 1), schedulertest.Spec("web", 1)
	job.Mode = &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{TotalCompletions: 1}}
	web.Task.DependsOn = []*taskpb.Dependency{{Service: "job", Condition: taskpb.Dependency_CONDITION_COMPLETED}}
	var ids []string
	for _, sp := range []*schedulerpb.ServiceSpec{job, web} {
		id, err := store.CreateService(t.Context(), s, sp)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	waits := func(optional bool) (why string) {
		t.Helper()
		if err := s.View(func(r *raftstore.ReadTx) error {
			w, _ := store.Services.Get(r, ids[1])
			on := []*taskpb.Dependency{{Service: "job", Condition: taskpb.Dependency_CONDITION_COMPLETED, Optional: optional}}
			why = store.Waits(r, w, on)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return why
	}
	set := func(state schedulerpb.ServiceRun_State) {
		t.Helper()
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			for run := range store.ServiceRuns.By(tx, "service", ids[0]) {
				run = proto.CloneOf(run)
				run.State = state
				return store.ServiceRuns.Put(tx, run)
			}
			return errors.New("there is no run")
		})
	}
	if got := waits(false); got != "waits for job to have completed (run 1 goes on)" {
		t.Error(got)
	}
	set(store.RunFailed)
	if got := waits(false); got != "waits for job to have completed (run 1 has failed)" {
		t.Error(got)
	}
	if got := waits(true); got != "" {
		t.Errorf("it is optional, and %s", got)
	}
	set(store.RunCompleted)
	if got := waits(false); got != "" {
		t.Error(got)
	}
}

// TestDependsOnTooMany: what is too much to be looked at is refused, and not let in unseen.
func TestDependsOnTooMany(t *testing.T) {
	s := schedulertest.NewStore(t)
	depends := func(i, on int) *schedulerpb.ServiceSpec {
		sp := schedulertest.Spec(fmt.Sprintf("s%d", i), 1)
		sp.Task.DependsOn = []*taskpb.Dependency{{Service: fmt.Sprintf("s%d", on)}}
		return sp
	}
	const many = 4200
	for from := 0; from < many; from += 300 {
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			for i := from; i < from+300; i++ {
				if err := store.Services.Put(tx, &schedulerpb.Service{Id: ident.New(), Spec: depends(i, i+1)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if _, err := store.CreateService(t.Context(), s, depends(many, 0)); err == nil || !strings.Contains(err.Error(), "more than 4096 services") {
		t.Errorf("a circle of %d services: %v", many, err)
	}
}
