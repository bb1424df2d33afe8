package dispatcher

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestAssignments(t *testing.T) {
	inWorld(t, func(w *world) {
		mine, other := w.addNode(), w.addNode()
		first := w.addTask(mine)
		w.addTask(other)
		c := w.session(mine)
		got := c.assignments()
		if len(got) != 1 || !got[0].Complete || got[0].Sequence != 1 || len(got[0].Update) != 1 || got[0].Update[0].TaskId != first ||
			got[0].Update[0].Spec.GetContainer().GetImage() != "web" || got[0].Update[0].Observed != store.Assigned {
			t.Fatalf("first assignments %v", got)
		}
		second := w.addTask(mine)
		w.addTask(other)
		w.change(first, func(t *schedulerpb.Task) { t.Desired = store.Shutdown })
		c.send(report(store.Running, second)) // a status makes no assignment
		w.settle(time.Second)
		w.update(func(tx *raftstore.Tx) error { return store.Tasks.Delete(tx, first) })
		w.settle(time.Second)
		told := map[string]schedulerpb.TaskState{}
		removed := 0
		for i, a := range c.assignments() {
			if a.Sequence != uint64(i+1) || a.Complete != (i == 0) {
				t.Errorf("message %d: sequence %d, complete %v", i, a.Sequence, a.Complete)
			}
			for _, u := range a.Update {
				told[u.TaskId] = u.Desired
			}
			for _, id := range a.Remove {
				removed++
				delete(told, id)
			}
		}
		if len(told) != 1 || told[second] != store.Running || removed != 1 {
			t.Errorf("told %v, %d removed", told, removed)
		}
		if n := len(c.assignments()); n != 4 {
			t.Errorf("%d messages, want 4", n)
		}
	})
}

// What ended is not assigned as if it had yet to be begun.
func TestEndedTasksAreNotBegun(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		task, lost := w.addTask(n), w.addTask(n)
		w.change(task, func(t *schedulerpb.Task) { t.Status.State = store.Failed })
		c := w.session(n)
		w.change(lost, func(t *schedulerpb.Task) { t.Status.State = store.Orphaned })
		w.settle(time.Second)
		got := map[string]schedulerpb.TaskState{}
		for _, a := range c.assignments() {
			for _, u := range a.Update {
				got[u.TaskId] = u.Desired
			}
		}
		if got[task] != store.Shutdown || got[lost] != store.Shutdown {
			t.Errorf("assigned %v", got)
		}
	})
}

func TestLargeSetComesInParts(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		for range 600 {
			w.addTask(n)
		}
		c := w.session(n)
		got := c.assignments()
		total := 0
		for i, a := range got {
			total += len(a.Update)
			if a.More != (i < len(got)-1) || proto.Size(a) > 2*maxAssignmentBytes {
				t.Errorf("part %d of %d: more %v, %d bytes", i, len(got), a.More, proto.Size(a))
			}
		}
		if total != 600 || len(got) < 3 {
			t.Errorf("%d tasks in %d parts", total, len(got))
		}
	})
}

func TestReports(t *testing.T) {
	inWorld(t, func(w *world) {
		n, other := w.addNode(), w.addNode()
		mine, foreign := w.addTask(n), w.addTask(other)
		c := w.session(n)
		c.send(report(store.Running, mine, foreign, ident.New()))
		w.settle(time.Second)
		if got := store.State(w.task(mine)); got != store.Running {
			t.Errorf("own task is %v", got)
		}
		if got := store.State(w.task(foreign)); got != store.Assigned {
			t.Errorf("another node's task was changed to %v", got)
		}
		if !strings.Contains(w.log.String(), "refused a node's report") {
			t.Error("the forged report was not logged")
		}
		c.wantOpen()
		// Nothing goes back, and what is known makes no entry.
		before := w.store.AppliedIndex()
		c.send(report(schedulerpb.TaskState_TASK_STATE_STARTING, mine))
		w.settle(time.Second)
		if got := store.State(w.task(mine)); got != store.Running || w.store.AppliedIndex() != before {
			t.Errorf("state %v, %d entries", got, w.store.AppliedIndex()-before)
		}
	})
}

func TestReportsAreCoalesced(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		var ids []string
		for range 200 {
			ids = append(ids, w.addTask(n))
		}
		c := w.session(n)
		w.settle(time.Second)
		before := w.store.AppliedIndex()
		for _, id := range ids {
			c.send(report(store.Running, id))
		}
		w.settle(time.Second)
		for _, id := range ids {
			if store.State(w.task(id)) != store.Running {
				t.Fatal("a report was lost")
			}
		}
		if n := w.store.AppliedIndex() - before; n > 5 {
			t.Errorf("200 reports made %d entries", n)
		}
	})
}

func TestMalformed(t *testing.T) {
	long := hello()
	long.GetHello().Description.Kernel = strings.Repeat("x", 1000)
	many := make([]string, maxBatchReports+1)
	for name, m := range map[string]*schedulerpb.AgentMessage{
		"no state for nodes": report(store.Orphaned, ident.New()),
		"too many":           report(store.Running, many...),
		"description":        long,
		"empty":              {},
		"log":                {Message: &schedulerpb.AgentMessage_Log{Log: &schedulerpb.LogChunk{Data: make([]byte, maxLogChunk+1)}}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				c := w.session(w.addNode())
				c.send(m)
				c.wantEnd(codes.InvalidArgument)
			})
		})
	}
}

func TestQuotas(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		c := w.session(n)
		begin := time.Now()
		for range messageBurst + 2*messageRate {
			c.send(heartbeat())
		}
		if d := time.Since(begin); d < time.Second || d > 3*time.Second {
			t.Errorf("%d messages were taken in %v", messageBurst+2*messageRate, d)
		}
		c.wantOpen()
		refused := false
		for range sessionBurst + 1 {
			c := w.connect(n)
			synctest.Wait()
			select {
			case <-c.done:
				refused = refused || status.Code(c.err) == codes.ResourceExhausted
			default:
				c.cancel()
			}
		}
		if !refused {
			t.Error("sessions without end were accepted")
		}
	})
}
