package control_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

// Where shares alone open the managers, a leaving makes no operator key: who asks is
// told, and one that is sent all the same is refused. The slots that stay are named.
func TestLeavingWithoutOperatorKey(t *testing.T) {
	w := newLeaveWorld(t)
	split, _, err := autolock.Split(w.ca.ClusterID, "officers", 2, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	put := func(slots ...*keydpb.Slot) {
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			rec, _ := autolockstore.Slots.Get(tx, autolockstore.RecordID)
			rec = proto.CloneOf(rec)
			rec.Set = &keydpb.SlotSet{Epoch: 2, Slots: slots}
			return autolockstore.Slots.Put(tx, rec)
		})
	}
	put(newSlot(), split)
	if r, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "manager-2", Check: true}); err != nil || r.GetNoSlot() {
		t.Errorf("with an operator key: %v (%v)", r, err)
	}
	put(split)
	remove := func(slot *keydpb.Slot, check bool) (*controlpb.RemoveNodeResponse, error) {
		return w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: "manager-2", Force: true, Slot: slot, Check: check})
	}
	if r, err := remove(nil, true); err != nil || !r.GetManager() || !r.GetNoSlot() {
		t.Errorf("rm: %v (%v)", r, err)
	}
	if r, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "manager-2", Check: true}); err != nil || !r.GetNoSlot() {
		t.Errorf("revoke: %v (%v)", r, err)
	}
	if r, err := w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: "manager-2", Check: true}); err != nil || !r.GetNoSlot() {
		t.Errorf("demote: %v (%v)", r, err)
	}
	before := w.facts()
	_, err = remove(newSlot(), false)
	wantReason(t, err, apierr.ReasonState, "no operator key")
	w.unchanged(before)
	// A key that is added in the middle of it would not be replaced.
	w.meanwhile = func() { put(newSlot(), split) }
	_, err = remove(nil, false)
	wantReason(t, err, apierr.ReasonConflict, "set of slots")
	put(split)
	r, err := remove(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if rot := r.GetRotation(); rot.GetSlotEpoch() != 3 || len(rot.GetSlotsKept()) != 1 || rot.GetSlotsKept()[0] != "officers" {
		t.Errorf("%v", rot)
	}
	_ = w.store.View(func(r *raftstore.ReadTx) error {
		if s, _ := autolockstore.Slots.Get(r, autolockstore.RecordID); len(s.GetSet().GetSlots()) != 1 || s.GetSet().GetSlots()[0].GetId() != split.GetId() {
			t.Errorf("the slots are %v", s.GetSet())
		}
		return nil
	})
}
