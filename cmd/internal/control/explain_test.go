package control_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func (w *world) explain(target string) *controlpb.ExplainResponse {
	w.t.Helper()
	r, err := w.api.Explain(w.t.Context(), &controlpb.ExplainRequest{Target: target})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) put(t *schedulerpb.Task) {
	w.t.Helper()
	if err := w.store.Update(w.t.Context(), func(tx *raftstore.Tx) error { return schedstore.PutTask(tx, t) }); err != nil {
		w.t.Fatal(err)
	}
}

func TestExplainNamesWhatSpeaksAgainstEachNodeAndTheCommand(t *testing.T) {
	w := newWorld(t)
	sp := w.spec("web")
	sp.Task.Constraints = []string{"node.labels.disk==ssd"}
	id := w.create(sp)
	w.put(&schedulerpb.Task{Id: "task1", ServiceId: id, Slot: 1, Revision: 1, Desired: schedstore.Running,
		Status: &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_PENDING, Message: "no suitable node (1 lacks label disk=ssd)"}})

	r := w.explain("web.1")
	if r.Task.GetTask().GetId() != "task1" || r.Summary[0] != "web.1 waits for a node: no suitable node (1 lacks label disk=ssd)" ||
		r.Summary[1] != "0 of 2 nodes could run one more" {
		t.Errorf("explained as %q", r.Summary)
	}
	reasons := map[string]string{}
	for _, n := range r.Nodes {
		reasons[n.Name] = n.Reason
	}
	if reasons["worker-1"] != "lacks label disk=ssd" || reasons["manager-1"] != "drained" {
		t.Errorf("reasons are %v", reasons)
	}
	// A manager that is drained by design is not offered.
	if want := []string{"redoubt node update --label-add disk=ssd worker-1"}; !slices.Equal(r.Remedies, want) {
		t.Errorf("the remedies are %q, want %q", r.Remedies, want)
	}

	if r := w.explain("web"); r.Task != nil || !strings.HasPrefix(r.Summary[0], "web wants 2 tasks and 0 run") ||
		!strings.HasPrefix(r.Summary[1], "1 pending: no suitable node") {
		t.Errorf("the service is explained as %q", r.Summary)
	}
	_, err := w.api.Explain(t.Context(), &controlpb.ExplainRequest{Target: "web.9"})
	wantReason(t, err, apierr.ReasonNotFound, "web.9")
}

// A task whose service waits for another says for which, and where to look.
func TestExplainOfWhatWaitsForAnother(t *testing.T) {
	w := newWorld(t)
	sp := w.spec("web")
	sp.Task.DependsOn = []*taskpb.Dependency{{Service: "db", Condition: taskpb.Dependency_CONDITION_HEALTHY}, {Service: "cache", Optional: true}}
	id := w.create(sp)
	w.put(&schedulerpb.Task{Id: "task1", ServiceId: id, Slot: 1, Revision: 1, Desired: schedstore.Running, Status: &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_PENDING}})
	r := w.explain("web.1")
	if r.Summary[0] != "web.1 waits for db to be healthy (there is no such service)" {
		t.Errorf("explained as %q", r.Summary)
	}
	if want := []string{"redoubt service update --depends-on-rm db web"}; !slices.Equal(r.Remedies, want) {
		t.Errorf("the remedies are %q, want %q", r.Remedies, want)
	}
	w.create(w.spec("db"))
	if want := []string{"redoubt service explain db"}; !slices.Equal(w.explain("web").Remedies, want) {
		t.Errorf("the remedies are %q, want %q", w.explain("web").Remedies, want)
	}
}

// What somebody wrote into a service is no command of the operator's.
func TestExplainQuotesWhatIsPasted(t *testing.T) {
	w := newWorld(t)
	sp := w.spec("web")
	sp.Task.Constraints = []string{"node.labels.disk==$(reboot); it's `id`"}
	w.create(sp)
	if want := []string{`redoubt node update --label-add 'disk=$(reboot); it'\''s ` + "`id`" + `' worker-1`}; !slices.Equal(w.explain("web").Remedies, want) {
		t.Errorf("the remedies are %q, want %q", w.explain("web").Remedies, want)
	}
}

func TestExplainOfWhatRunsOffersNoRemedy(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.spec("web"))
	w.put(&schedulerpb.Task{Id: "task1", ServiceId: id, Slot: 1, Revision: 1, Desired: schedstore.Running, NodeId: w.worker,
		Status: &schedulerpb.TaskStatus{State: schedstore.Running}})
	if r := w.explain("web.1"); r.Summary[0] != "web.1 runs on worker-1" || len(r.Summary) != 1 || len(r.Remedies) != 0 {
		t.Errorf("explained as %q, %q", r.Summary, r.Remedies)
	}
	if r := w.explain("web"); r.Nodes[0].Name != "worker-1" || r.Nodes[0].ServiceTasks != 1 || r.Nodes[0].Reason != "" {
		t.Errorf("nodes are %v", r.Nodes)
	}
}

func TestExplainOfWhatTheRestartPolicyGaveUp(t *testing.T) {
	w := newWorld(t)
	sp := w.spec("web")
	sp.Task.Restart = &taskpb.RestartPolicy{MaxAttempts: 3, WindowNs: int64(30 * time.Second)}
	id := w.create(sp)
	for i, at := range []int64{2, 1} {
		w.put(&schedulerpb.Task{Id: fmt.Sprint("task", i), ServiceId: id, Slot: uint32(i + 1), Revision: 1, Desired: schedstore.Shutdown, Settled: true,
			Status: &schedulerpb.TaskStatus{State: schedstore.Failed, Error: fmt.Sprint("exit code ", at), At: at}})
	}
	r := w.explain("web")
	if len(r.Summary) < 2 || r.Summary[1] != "2 started no more by the restart policy (condition any, 3 attempts within 30s), the last one failed: exit code 2" {
		t.Errorf("explained as %q", r.Summary)
	}
	if want := []string{"redoubt service logs --tail 20 web", "redoubt service update --force web"}; !slices.Equal(r.Remedies, want) {
		t.Errorf("the remedies are %q, want %q", r.Remedies, want)
	}
}

func TestExplainPlacement(t *testing.T) {
	w := newWorld(t)
	sp := w.spec("low")
	sp.Task.Reservations = &taskpb.Resources{MemoryBytes: 1 << 30}
	sp.Task.Preferences = []string{"spread=node.labels.zone"}
	low := w.create(sp)
	sp = w.spec("high")
	sp.Task.Reservations = &taskpb.Resources{MemoryBytes: 8 << 30}
	sp.Task.Priority = 10
	high := w.create(sp)
	var node string
	if err := w.store.View(func(r *raftstore.ReadTx) error {
		for n := range schedstore.Nodes.All(r) {
			if !n.GetManager() {
				node = n.GetId()
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Update(t.Context(), func(tx *raftstore.Tx) error {
		return schedstore.UpdateDescription(tx, node, &schedulerpb.NodeDescription{Hostname: "worker-1", Resources: &taskpb.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30}})
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		w.put(&schedulerpb.Task{Id: fmt.Sprint("low", i), ServiceId: low, Slot: uint32(i + 1), Revision: 1, NodeId: node, Desired: schedstore.Running,
			Status: &schedulerpb.TaskStatus{State: schedstore.Running}})
	}
	w.put(&schedulerpb.Task{Id: "high1", ServiceId: high, Slot: 1, Revision: 1, Desired: schedstore.Running, Status: &schedulerpb.TaskStatus{State: schedstore.Pending}})
	has := func(target, want string) {
		t.Helper()
		if got := w.explain(target).Summary; !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%s is explained as %q, without %q", target, got, want)
		}
	}
	has("low", "spread over node.labels.zone: (none) 2")
	has("high.1", "by its priority of 10 one more takes the place of 2 of lower ones on worker-1: ")
	if err := w.store.Update(t.Context(), func(tx *raftstore.Tx) error {
		old, _ := schedstore.Tasks.Get(tx, "low0")
		next := proto.CloneOf(old)
		next.Desired, next.PreemptedBy, next.Status.State = schedstore.Shutdown, "high1", schedstore.Shutdown
		return schedstore.PutTask(tx, next)
	}); err != nil {
		t.Fatal(err)
	}
	has("low", "1 ended so that tasks of a higher priority have their place, the last for task high1")
	has("low0", "it ended so that task high1")
}
