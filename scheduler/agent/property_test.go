package agent_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"pgregory.net/rapid"
)

// step is something that happens to a node: to one of its tasks, or to one of
// the processes around it.
type step struct {
	kind string
	task int
	wait time.Duration
}

func (s step) String() string { return fmt.Sprintf("%s %d, %v", s.kind, s.task, s.wait) }

var kinds = []string{
	"assign", "assign", "assign", "assign later", "assign to network", "assign to network", "assign to lan", "assign to lan", "publish", "publish", "stop", "remove", "exit", "fail",
	"agent restarts", "rund restarts", "netd restarts", "machine restarts",
	"rund down", "rund up", "netd down", "netd up", "managers down", "managers up", "nothing",
	"named restarts", "named down", "named up", "networks change", "netd slow", "netd quick",
}

// Whatever happens in whatever order: once everybody is back, the node has
// what it was assigned, nothing else, and told the truth about it. At no time
// does a container start twice, or without its network, or is one removed
// while it runs (the fakes watch for that).
func TestConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				kind: rapid.SampledFrom(kinds).Draw(rt, "kind"),
				task: rapid.IntRange(0, 5).Draw(rt, "task"),
				wait: time.Duration(rapid.SampledFrom([]int{0, 0, 1, 30, 150, 700, 3000, 20000}).Draw(rt, "ms")) * time.Millisecond,
			}
		}), 1, 25).Draw(rt, "steps")
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = play(newNode(t), steps) })
		for _, p := range problems {
			rt.Error(p)
		}
	})
}

func play(n *node, steps []step) (problems []string) {
	tasks := map[int]*schedulerpb.Assignment{}
	ended := map[string]bool{} // tasks that something ended
	again := map[string]int{}  // starts that nobody can know of
	w := newNetWorld()
	n.manager.SetNetworks(w.set())
	n.start()
	for _, s := range steps {
		a := tasks[s.task]
		switch s.kind {
		case "assign", "assign later", "assign to network", "assign to lan", "publish":
			if a != nil {
				n.manager.Remove(a.TaskId)
			}
			a = assignment(running)
			if s.kind == "assign to network" {
				a = w.task(w.back, w.front)
				a.Attachments[1].Addresses[0] = fmt.Sprintf("10.200.2.%d", 10+s.task)
			}
			if s.kind == "assign to lan" {
				a = w.task([][]string{{w.lan}, {w.off}, {w.lan, w.front}}[s.task%3]...)
			}
			if s.kind == "publish" {
				a = w.published(s.task)
			}
			if s.kind == "assign later" {
				a.NotBefore = time.Now().Add(5 * time.Second).UnixNano()
			}
			tasks[s.task] = a
			n.manager.Assign(a)
		case "stop":
			if a != nil {
				a.Desired = shutdown
				n.manager.Assign(a)
			}
		case "remove":
			if a != nil {
				n.manager.Remove(a.TaskId)
				delete(tasks, s.task)
			}
		case "exit":
			if a != nil && n.rund.Exit(a.TaskId, int32(s.wait%2), false) {
				ended[a.TaskId] = true
			}
		case "fail":
			if a != nil && n.netd.Endpoint(a.TaskId) == nil {
				n.netd.Fail(a.TaskId, "port in use")
				ended[a.TaskId] = true
			}
		case "agent restarts":
			n.restart()
		case "rund restarts":
			n.rund.Restart()
		case "netd restarts":
			n.netd.Restart()
		case "machine restarts":
			n.stop()
			n.rund.Reboot()
			n.netd.Reboot()
			for _, a := range tasks {
				ended[a.TaskId] = true
				// A node keeps nothing: what it did not report is forgotten.
				if n.state(a.TaskId) < schedulerpb.TaskState_TASK_STATE_STARTING {
					again[a.TaskId]++
				}
			}
			n.start()
		case "named restarts":
			n.named.Restart()
		case "named down", "named up":
			n.named.SetDown(s.kind == "named down")
		case "networks change":
			set := w.set()
			set.Update[0].Endpoints = set.Update[0].Endpoints[:s.task%2]
			n.manager.SetNetworks(set)
		case "rund down", "rund up":
			n.rund.SetDown(s.kind == "rund down")
		case "netd down", "netd up":
			n.netd.SetDown(s.kind == "netd down")
		case "netd slow":
			n.netd.SetSlow(s.wait)
		case "netd quick":
			n.netd.SetSlow(0)
		case "managers down", "managers up":
			n.manager.SetDown(s.kind == "managers down")
		}
		if s.wait > 0 {
			n.settle(s.wait)
		}
	}
	n.rund.SetDown(false)
	n.netd.SetDown(false)
	n.netd.SetSlow(0)
	n.named.SetDown(false)
	n.manager.SetDown(false)
	n.settle(2 * time.Minute)
	problems = append(problems, verify(n, w, tasks, ended, again)...)
	n.stop()
	return append(problems, n.rund.Violations()...)
}

func verify(n *node, w *netWorld, tasks map[int]*schedulerpb.Assignment, ended map[string]bool, again map[string]int) (problems []string) {
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	containers := n.rund.Tasks()
	up := 0
	addresses := map[string]bool{}
	for _, a := range tasks {
		id, state := a.TaskId, n.state(a.TaskId)
		phase := containers[id]
		delete(containers, id)
		runs := phase == rundpb.Phase_PHASE_RUNNING
		if runs {
			up++
		}
		if n.rund.Starts(id) > 1+again[id] {
			complain("task %s was started %d times", id, n.rund.Starts(id))
		}
		switch {
		case a.Desired == running && state == running:
			e, driven := n.netd.Endpoint(id), w.driven(a)
			if !runs || (e == nil) != (driven > 0 && driven == len(a.Attachments)) || len(n.rund.Actual(id).LocalAttachments) != driven {
				complain("task %s is said to run: it is %v with endpoint %v, made with %v", id, phase, e, n.rund.Actual(id).GetLocalAttachments())
				continue
			}
			if e == nil {
				up--
				continue
			}
			if addresses[e.Address] {
				complain("address %s is used twice", e.Address)
			}
			addresses[e.Address] = true
			for _, at := range a.Attachments {
				if at.NetworkId == w.ports {
					if e := n.netd.Reached(w.web, id); !e.GetServing() || e.Address != at.Addresses[0] {
						complain("task %s runs, and its published ports lead to %v", id, e)
					}
					continue
				}
				if len(at.Addresses) == 0 {
					if n.named.Sandbox(id) == nil {
						complain("task %s runs, and is told no names", id)
					}
					continue
				}
				if p := n.netd.Place(at.NetworkId, id); !p.GetServing() || p.Addresses[0] != at.Addresses[0] || n.named.Sandbox(id) == nil {
					complain("task %s runs, and its place on %s is %v", id, at.NetworkId, p)
				}
			}
		case a.Desired == running && !ended[id]:
			complain("task %s is %v (%v), its container %v", id, state, n.manager.Status(id), phase)
		case state <= running:
			complain("task %s never ended: %v (%v), its container %v", id, state, n.manager.Status(id), phase)
		case runs:
			complain("task %s runs though it is said to have ended", id)
		}
	}
	for id, phase := range containers {
		complain("container of task %s is left, %v", id, phase)
	}
	if got := n.netd.Len(); got != up {
		complain("%d endpoints for %d running containers", got, up)
	}
	return problems
}

// driven are how many of a task's networks rund's drivers make.
func (w *netWorld) driven(a *schedulerpb.Assignment) (n int) {
	for _, at := range a.Attachments {
		if at.NetworkId == w.lan || at.NetworkId == w.off {
			n++
		}
	}
	return n
}
