package agent

import (
	"context"
	"slices"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// identified are the assignments of tasks that are to run, or do.
func (m *machine) identified() (out []*schedulerpb.Assignment) {
	for _, t := range m.tasks {
		if t.assignment != nil && !t.ended && t.assignment.Desired <= schedulerpb.TaskState_TASK_STATE_RUNNING {
			out = append(out, t.assignment)
		}
	}
	slices.SortFunc(out, func(a, b *schedulerpb.Assignment) int {
		if a.TaskId < b.TaskId {
			return -1
		}
		return 1
	})
	return out
}

// tellIdentities tells whenever other tasks are to have identities. A task that is
// to stop has none any more.
func (a *agent) tellIdentities(ctx context.Context) error {
	if a.Identities == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	var told []*schedulerpb.Assignment
	for {
		if err := a.identityKick.wait(ctx, 0); err != nil {
			return err
		}
		a.mu.Lock()
		now, ready := a.machine.identified(), a.machine.assigned
		a.mu.Unlock()
		if ready && !slices.Equal(now, told) {
			told = now
			a.Identities(now)
		}
	}
}
