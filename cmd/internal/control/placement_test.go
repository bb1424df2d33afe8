package control_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestClusterStrategy(t *testing.T) {
	w := newWorld(t)
	is := func(want taskpb.Strategy) {
		t.Helper()
		if r, err := w.api.GetPlacement(t.Context(), &controlpb.GetPlacementRequest{}); err != nil || r.GetStrategy() != want {
			t.Errorf("the strategy is %v (%v), want %v", r.GetStrategy(), err, want)
		}
	}
	set := func(s taskpb.Strategy) error {
		_, err := w.api.UpdatePlacement(t.Context(), &controlpb.UpdatePlacementRequest{Strategy: s})
		return err
	}
	is(taskpb.Strategy_STRATEGY_SPREAD)
	if err := set(taskpb.Strategy_STRATEGY_BIN_PACK); err != nil {
		t.Fatal(err)
	}
	is(taskpb.Strategy_STRATEGY_BIN_PACK)
	sp := w.spec("web")
	sp.Task.Reservations = &taskpb.Resources{NanoCpus: 1e9}
	w.create(sp)
	if got := w.explain("web").Summary; !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "(bin-pack)") }) {
		t.Errorf("explained as %q", got)
	}
	for _, s := range []taskpb.Strategy{0, 9} {
		wantReason(t, set(s), apierr.ReasonInvalid, "use spread or bin-pack")
	}
	is(taskpb.Strategy_STRATEGY_BIN_PACK)
}

// TestRebalanceService: explain says what would move and how to have it done, while it is
// done that it is, and why no more is.
func TestRebalanceService(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.spec("web"))
	w.create(schedulertest.GlobalSpec("global"))
	for i := range 2 {
		w.put(&schedulerpb.Task{Id: fmt.Sprint("web", i), ServiceId: id, Slot: uint32(i + 1), Revision: 1, NodeId: w.worker, Desired: schedstore.Running,
			Status: &schedulerpb.TaskStatus{State: schedstore.Running}})
	}
	rebalance := func(ref string, stop bool) error {
		_, err := w.api.RebalanceService(t.Context(), &controlpb.RebalanceServiceRequest{Service: ref, Stop: stop})
		return err
	}
	explained := func(line, remedy string) {
		t.Helper()
		r := w.explain("web")
		if !slices.ContainsFunc(r.Summary, func(s string) bool { return strings.HasPrefix(s, line) }) || strings.Join(r.Remedies, "; ") != remedy {
			t.Errorf("explained as %q with %q, want %q and %q", r.Summary, r.Remedies, line, remedy)
		}
	}
	explained("web wants 2 tasks and 2 run", "")
	w.addNode("worker-2", false)
	explained("one would be on worker-2 and not on worker-1 if it were placed now: ", "redoubt service rebalance web")
	if err := rebalance("web", false); err != nil {
		t.Fatal(err)
	}
	explained("its tasks are being moved: looking for tasks to move", "")
	if err := rebalance("web", false); err != nil {
		t.Errorf("once more: %v", err)
	}
	if err := rebalance("web", true); err != nil {
		t.Fatal(err)
	}
	explained("its tasks are moved no more: stopped on request", "redoubt service rebalance web")
	wantReason(t, rebalance("web", true), apierr.ReasonInvalid, "no task of web is being moved")
	wantReason(t, rebalance("global", false), apierr.ReasonInvalid, "nothing to rebalance")
	wantReason(t, rebalance("nosuch", false), apierr.ReasonNotFound, "no service")
}
