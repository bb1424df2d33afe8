package control_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func (w *world) history(ref string) []*controlpb.StreamServiceHistoryResponse {
	w.t.Helper()
	s := &sink[controlpb.StreamServiceHistoryResponse]{ctx: w.t.Context()}
	if err := w.api.StreamServiceHistory(&controlpb.StreamServiceHistoryRequest{Service: ref}, s); err != nil {
		w.t.Fatal(err)
	}
	return s.pages
}

func (w *world) change(ref string, change func(*schedulerpb.ServiceSpec)) {
	w.t.Helper()
	svc := w.service(ref).GetService()
	sp := proto.CloneOf(svc.GetSpec())
	change(sp)
	if _, err := w.api.UpdateService(w.t.Context(), &controlpb.UpdateServiceRequest{Service: ref, Version: svc.GetMeta().GetVersion(), Spec: sp}); err != nil {
		w.t.Fatal(err)
	}
}

// back is the request that goes back to n, as the history tells of it.
func (w *world) back(ref string, n uint64) *controlpb.RollbackServiceRequest {
	w.t.Helper()
	for _, h := range w.history(ref) {
		if h.GetRecord().GetNumber() == n {
			return &controlpb.RollbackServiceRequest{Service: ref, Version: h.GetVersion(), To: n, Spec: proto.CloneOf(h.GetRecord().GetSpec())}
		}
	}
	w.t.Fatalf("%s has no specification %d", ref, n)
	return nil
}

func TestRollback(t *testing.T) {
	w := newWorld(t)
	w.create(w.spec("web"))
	rollback := func(req *controlpb.RollbackServiceRequest) error {
		_, err := w.api.RollbackService(t.Context(), req)
		return err
	}
	if h := w.history("web"); len(h) != 1 || !h[0].GetInForce() || h[0].GetPrevious() || h[0].GetRecord().GetSpec().GetName() != "web" {
		t.Errorf("the history of a new service: %v", h)
	}
	wantReason(t, rollback(w.back("web", 1)), apierr.ReasonInvalid, "is in force")
	wantReason(t, rollback(&controlpb.RollbackServiceRequest{Service: "web", To: 1}), apierr.ReasonInvalid, "no former specification in it")

	w.registry[ref] = digestB
	w.change("web", func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	if h := w.history("web"); len(h) != 2 || !h[0].GetInForce() || h[0].GetRecord().GetNumber() != 2 || !h[1].GetPrevious() {
		t.Errorf("history: %v", h)
	}
	// What was approved, or judged, is what is gone back to, and nothing else.
	other := w.back("web", 1)
	other.Spec.Task.Container.Env = []string{"LD_PRELOAD=/evil"}
	wantReason(t, rollback(other), apierr.ReasonInvalid, "is not what specification 1")
	unknown := w.back("web", 1)
	unknown.To = 9
	wantReason(t, rollback(unknown), apierr.ReasonInvalid, "no former specification 9")
	late := w.back("web", 1)
	late.Version--
	wantReason(t, rollback(late), apierr.ReasonConflict, "changed by somebody else")
	gone := w.back("web", 1)
	gone.Service = "nosuch"
	wantReason(t, rollback(gone), apierr.ReasonNotFound, "no service")

	plan := w.back("web", 1)
	plan.Plan = true
	if r, err := w.api.RollbackService(t.Context(), plan); err != nil || !proto.Equal(r.GetPlanned(), plan.Spec) || w.service("web").GetService().GetRevision() != 2 {
		t.Errorf("a plan: %v, %v", r, err)
	}
	if err := rollback(w.back("web", 1)); err != nil {
		t.Fatal(err)
	}
	svc := w.service("web").GetService()
	if svc.GetSpec().GetTask().GetContainer().GetDigest() != digestA || svc.GetRevision() != 1 || svc.GetSpecNumber() != 1 || svc.GetUpdateStatus().GetMessage() != "manually requested rollback" {
		t.Errorf("gone back to %v", svc)
	}
	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: "web"}); err != nil {
		t.Fatal(err)
	}
	wantReason(t, rollback(late), apierr.ReasonNotFound, "no service")
}

// TestRollbackToWhatIsTaken: what a former specification had may be another's by now, or
// nobody's.
func TestRollbackToWhatIsTaken(t *testing.T) {
	w := newWorld(t)
	if _, err := w.api.CreateNetwork(t.Context(), &controlpb.CreateNetworkRequest{Spec: &meshpb.NetworkSpec{Name: "front"}}); err != nil {
		t.Fatal(err)
	}
	port := []*taskpb.Port{{Published: 8080, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}
	first := w.spec("web")
	first.Task.Networks, first.Task.Ports = []*taskpb.NetworkUse{{Network: "front"}}, port
	w.create(first)
	w.change("web", func(sp *schedulerpb.ServiceSpec) {
		sp.Task.Networks, sp.Task.Ports, sp.EndpointMode = nil, nil, 0
	})
	taker := w.spec("taker")
	taker.Task.Ports = port
	w.create(taker)
	_, err := w.api.RollbackService(t.Context(), w.back("web", 1))
	wantReason(t, err, apierr.ReasonInvalid, "8080")
	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: "taker"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.api.RemoveNetwork(t.Context(), &controlpb.RemoveNetworkRequest{Network: "front"}); err != nil {
		t.Fatal(err)
	}
	_, err = w.api.RollbackService(t.Context(), w.back("web", 1))
	wantReason(t, err, apierr.ReasonNotFound, "network")
	if n := w.service("web").GetService().GetSpecNumber(); n != 2 {
		t.Errorf("it is at %d", n)
	}
}
