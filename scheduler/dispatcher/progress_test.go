package dispatcher

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// The states that a task passes on its way reach the log only where it stays in
// one; that it runs is written at once.
func TestProgressOfTasksThatStartSoonIsNotWritten(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		quick, slow := w.addTask(n), w.addTask(n)
		c := w.session(n)
		w.settle(2 * time.Second)
		before := w.store.AppliedIndex()
		const preparing = schedulerpb.TaskState_TASK_STATE_PREPARING
		for _, s := range []schedulerpb.TaskState{schedulerpb.TaskState_TASK_STATE_ACCEPTED, preparing} {
			c.send(report(s, quick, slow))
			w.settle(100 * time.Millisecond)
		}
		c.send(report(schedulerpb.TaskState_TASK_STATE_STARTING, quick))
		w.settle(100 * time.Millisecond)
		c.send(report(store.Running, quick))
		w.settle(100 * time.Millisecond)
		if got := store.State(w.task(quick)); got != store.Running {
			t.Errorf("the quick one is %v", got)
		}
		if got := store.State(w.task(slow)); got != store.Assigned {
			t.Errorf("the slow one is %v already", got)
		}
		w.settle(time.Second)
		if got := store.State(w.task(slow)); got != preparing {
			t.Errorf("the slow one is %v after more than a second", got)
		}
		if got := w.store.AppliedIndex() - before; got != 2 {
			t.Errorf("%d entries were written, want 2", got)
		}
	})
}
