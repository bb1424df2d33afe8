package scheduler_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// dependent is a service's spec that waits for another.
func dependent(name, on string, c taskpb.Dependency_Condition) *schedulerpb.ServiceSpec {
	sp := schedulertest.Spec(name, 1)
	sp.Task.DependsOn = []*taskpb.Dependency{{Service: on, Condition: c}}
	return sp
}

// report has every task of a service that has a node say that it is in that state.
func report(t *testing.T, s *raftstore.Store, service string, st *schedulerpb.TaskStatus) {
	t.Helper()
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		for task := range store.OfService(r, service) {
			if store.Live(task) && task.GetNodeId() != "" {
				return nil
			}
		}
		return fmt.Errorf("no task of %s has a node", service)
	})
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		for task := range store.OfService(tx, service) {
			if store.Live(task) && task.GetNodeId() != "" {
				st.At++
				if err := store.AdvanceTask(tx, task.GetNodeId(), task.GetId(), st); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// waitsFor wants all n tasks of a service to wait, saying so.
func waitsFor(t *testing.T, s *raftstore.Store, service string, n int, text string) {
	t.Helper()
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		waiting := 0
		for task := range store.OfService(r, service) {
			switch m := task.GetStatus().GetMessage(); {
			case !store.Live(task):
			case task.GetNodeId() == "" && strings.Contains(m, text):
				waiting++
			case task.GetNodeId() == "":
				return fmt.Errorf("a task waits and says %q, not %q", m, text)
			}
		}
		if waiting != n {
			return fmt.Errorf("%d tasks wait, %d wanted", waiting, n)
		}
		return nil
	})
}

func assigned(t *testing.T, s *raftstore.Store, service string, n int) {
	t.Helper()
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		has := 0
		for task := range store.OfService(r, service) {
			if store.Live(task) && task.GetNodeId() != "" {
				has++
			}
		}
		if has != n {
			return fmt.Errorf("%d tasks have a node, %d wanted", has, n)
		}
		return nil
	})
}

var (
	isStarting = &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_STARTING}
	isRunning  = &schedulerpb.TaskStatus{State: store.Running}
	isSick     = &schedulerpb.TaskStatus{State: store.Running, Unhealthy: true}
)

// TestDependsOnHealthy: tasks get no node before what they depend on has come so far,
// say what they wait for, and go as soon as it has; what is begun later waits again.
func TestDependsOnHealthy(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	web := create(t, s, dependent("web", "db", taskpb.Dependency_CONDITION_HEALTHY))
	log := create(t, s, dependent("log", "db", taskpb.Dependency_CONDITION_STARTED))
	waitsFor(t, s, web, 1, "waits for db to be healthy (there is no such service)")
	db := create(t, s, schedulertest.Spec("db", 1))
	assigned(t, s, db, 1)
	waitsFor(t, s, log, 1, "waits for db to be started")

	report(t, s, db, isStarting)
	assigned(t, s, log, 1)
	waitsFor(t, s, web, 1, "waits for db to be healthy")
	report(t, s, db, isRunning)
	assigned(t, s, web, 1)

	report(t, s, db, isSick)
	sp := dependent("late", "db", taskpb.Dependency_CONDITION_HEALTHY)
	late := create(t, s, sp)
	waitsFor(t, s, late, 1, "waits for db to be healthy (it runs and fails its healthcheck)")
	assigned(t, s, web, 1) // what has its node keeps it
	report(t, s, db, isRunning)
	assigned(t, s, late, 1)
}

func TestDependsOnCompleted(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	job := schedulertest.Spec("migrate", 2)
	job.Task.Restart = &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ON_FAILURE, DelayNs: 1}
	migrate := create(t, s, job)
	web := create(t, s, dependent("web", "migrate", taskpb.Dependency_CONDITION_COMPLETED))
	waitsFor(t, s, web, 1, "waits for migrate to have completed (0 of 2 have)")
	report(t, s, migrate, isRunning)
	report(t, s, migrate, &schedulerpb.TaskStatus{State: store.Failed, ExitCode: 1})
	assigned(t, s, migrate, 2) // again
	assigned(t, s, web, 0)
	report(t, s, migrate, &schedulerpb.TaskStatus{State: store.Complete})
	assigned(t, s, web, 1)

	forever := create(t, s, schedulertest.Spec("forever", 1))
	report(t, s, forever, isRunning)
	last := create(t, s, dependent("last", "forever", taskpb.Dependency_CONDITION_COMPLETED))
	waitsFor(t, s, last, 1, "give it the restart condition on-failure or none")
}

// TestDependsOnOptional: one that is not there, or has failed for good, is not waited for.
func TestDependsOnOptional(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	sp := dependent("web", "none", taskpb.Dependency_CONDITION_HEALTHY)
	sp.Task.DependsOn[0].Optional = true
	assigned(t, s, create(t, s, sp), 1)

	once := schedulertest.Spec("once", 1)
	once.Task.Restart = &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_NONE}
	id := create(t, s, once)
	sp = dependent("after", "once", taskpb.Dependency_CONDITION_COMPLETED)
	sp.Task.DependsOn[0].Optional = true
	after := create(t, s, sp)
	waitsFor(t, s, after, 1, "waits for once to have completed")
	report(t, s, id, &schedulerpb.TaskStatus{State: store.Failed, ExitCode: 1})
	assigned(t, s, after, 1)
}

// TestNothingMovesWhileItWaits: a task that is moved would wait for what its service
// depends on, so it stays until that has come, and is moved then.
func TestNothingMovesWhileItWaits(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	schedulertest.AddNode(t, s, false)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	db := create(t, s, schedulertest.Spec("db", 1))
	sp := dependent("web", "db", taskpb.Dependency_CONDITION_STARTED)
	sp.Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 6}}
	web := create(t, s, sp)
	schedulertest.Await(t, s, schedulertest.Running(web, 6))
	if err := store.RemoveService(t.Context(), s, db); err != nil {
		t.Fatal(err)
	}
	schedulertest.AddNode(t, s, false)
	if err := store.Rebalance(t.Context(), s, web); err != nil {
		t.Fatal(err)
	}
	// When this runs, all that was there before was looked at.
	schedulertest.Await(t, s, schedulertest.Running(create(t, s, schedulertest.Spec("other", 1)), 1))
	if st := service(t, s, web).GetRebalanceStatus(); st.GetState() != store.Moving || st.GetMoves() != 0 {
		t.Errorf("while it waits: %v", st)
	}
	create(t, s, schedulertest.Spec("db", 1))
	schedulertest.Await(t, s, settledAt(web, store.MovingCompleted, 2, 2))
	if n := service(t, s, web).GetRebalanceStatus().GetMoves(); n != 2 {
		t.Errorf("%d moves", n)
	}
}
