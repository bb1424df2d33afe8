package agent

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestAssignmentStaysItsTask: an id that was assigned is not assigned as another task;
// one that ends may leave out what is gone.
func TestAssignmentStaysItsTask(t *testing.T) {
	first := &schedulerpb.Assignment{TaskId: ident.New(), ServiceId: ident.New(), ServiceName: "web", Slot: 1, Desired: schedulerpb.TaskState_TASK_STATE_RUNNING,
		Spec: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web"}}}
	m := &machine{tasks: map[string]*task{first.TaskId: {id: first.TaskId, nets: onNetworks{last: first}}}}
	for what, f := range map[string]func(*schedulerpb.Assignment){
		"service": func(a *schedulerpb.Assignment) { a.ServiceId = ident.New() },
		"name":    func(a *schedulerpb.Assignment) { a.ServiceName = "bank" },
		"slot":    func(a *schedulerpb.Assignment) { a.Slot = 2 },
		"spec":    func(a *schedulerpb.Assignment) { a.Spec.Container.Image = "bank" },
	} {
		other := proto.CloneOf(first)
		f(other)
		if err := m.assign(testNow, false, []*schedulerpb.Assignment{other}, nil); err == nil || !strings.Contains(err.Error(), "another task") {
			t.Errorf("another %s: %v", what, err)
		}
	}
	ending := proto.CloneOf(first)
	ending.ServiceName, ending.Spec, ending.Signed = "", nil, []byte("x")
	if another(first, ending) || another(nil, first) {
		t.Error("a task is not itself")
	}
}
