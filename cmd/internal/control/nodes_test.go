package control_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

func TestNodes(t *testing.T) {
	w := newWorld(t)
	ctx := authz.NewContext(t.Context(), authz.Identity{LocalRoot: true, LocalRootOf: w.manager})
	r, err := w.api.ListNodes(ctx, &controlpb.ListNodesRequest{})
	if err != nil || len(r.GetNodes()) != 2 || r.GetSelf() != w.manager {
		t.Fatalf("%v %v", r, err)
	}
	m := r.GetNodes()[0]
	if m.GetName() != "manager-1" || !m.GetManager().GetReachable() || m.GetEffective() != schedstore.Drain {
		t.Errorf("%v", m)
	}
	if created := m.GetNode().GetMeta().GetCreatedAt() / 1e9; m.GetJoinedAt() < created-5 || m.GetJoinedAt() > created+5 {
		t.Errorf("joined at %d, which is not %d in seconds", m.GetJoinedAt(), created)
	}

	// A manager without its helpers is there, and not ready.
	w.state(w.manager, schedulerpb.NodeState_NODE_STATE_NOT_READY, "it cannot run tasks: netd does not answer")
	st, err := w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{})
	if err != nil || st.GetNodesReady() != 1 || !st.GetManagers()[0].GetReachable() ||
		!slices.ContainsFunc(st.GetWarnings(), func(s string) bool { return strings.Contains(s, "manager-1 is not ready, it cannot run tasks: netd") }) {
		t.Errorf("%v %v", st, err)
	}

	update := func(req *controlpb.UpdateNodeRequest) error {
		_, err := w.api.UpdateNode(t.Context(), req)
		return err
	}
	if err := update(&controlpb.UpdateNodeRequest{Node: "worker-1", LabelAdd: map[string]string{"disk": "ssd"}}); err != nil {
		t.Fatal(err)
	}
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1", Availability: schedstore.Auto}), apierr.ReasonInvalid, "auto is for managers")
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1", Availability: 77}), apierr.ReasonInvalid, "unknown")
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1", LabelRm: []string{"none"}}), apierr.ReasonInvalid, "no label")
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1", LabelAdd: map[string]string{"": "x"}}), apierr.ReasonInvalid, "label")
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "nobody"}), apierr.ReasonNotFound, "no node")
	w.addNode("worker-1", false)
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1"}), apierr.ReasonAmbiguous, `"worker-1" means more than one node: `)
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1"}), apierr.ReasonAmbiguous, w.worker+" (")
	w.addNode(w.worker[:12], false) // a stolen token's node takes the short id of another one for its name
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: w.worker[:12]}), apierr.ReasonAmbiguous, "more than one node")
	if err := update(&controlpb.UpdateNodeRequest{Node: w.worker[:13], LabelAdd: map[string]string{"disk": "ssd"}}); err != nil {
		t.Error(err)
	}

	remove := func(node string, force bool) error {
		_, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: node, Force: force})
		return err
	}
	wantReason(t, remove("manager-1", true), apierr.ReasonState, "last manager")
	wantReason(t, remove(w.worker, false), apierr.ReasonState, "is up")
	w.state(w.worker, schedulerpb.NodeState_NODE_STATE_NOT_READY, "")
	wantReason(t, remove(w.worker, false), apierr.ReasonState, "is up")
	if err := remove(w.worker, true); err != nil {
		t.Fatal(err)
	}
	if err := remove(w.worker, true); err != nil { // the answer may have been lost
		t.Error("by its id, once more:", err)
	}
	wantReason(t, remove(w.worker[:13], true), apierr.ReasonNotFound, "no node")
}
