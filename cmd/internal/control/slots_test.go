package control_test

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

func newSlot() *keydpb.Slot {
	key := autolock.NewOperatorKey()
	return key.Slot()
}

func TestRotateSlot(t *testing.T) {
	w := newWorld(t)
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		return autolockstore.Slots.Put(tx, &autolockpb.SlotRecord{Id: autolockstore.RecordID,
			Set: &keydpb.SlotSet{Epoch: 1, Slots: []*keydpb.Slot{newSlot()}}})
	})
	rotate := func(slot *keydpb.Slot) (func() *controlpb.RotateSlotResponse, func() error) {
		return stream(t, func(s *serverStream[*controlpb.RotateSlotResponse]) error {
			return w.api.RotateSlot(&controlpb.RotateSlotRequest{Slot: slot}, s)
		})
	}
	_, wait := rotate(&keydpb.Slot{Id: "x"})
	wantReason(t, wait(), apierr.ReasonInvalid, "slot")
	_, wait = rotate(newSlot())
	wantReason(t, wait(), apierr.ReasonState, "has not finished the rotation before")
	w.describe(w.manager, func(d *schedulerpb.NodeDescription) { d.SlotEpoch = 1 })
	w.sessions = nil
	_, wait = rotate(newSlot())
	wantReason(t, wait(), apierr.ReasonState, "manager-1 is away")
	w.sessions = []dispatcher.SessionInfo{{NodeID: w.manager}}
	next, wait := rotate(newSlot())
	if m := next(); m.GetEpoch() != 2 || m.GetDone() {
		t.Errorf("%v", m)
	}
	w.describe(w.manager, func(d *schedulerpb.NodeDescription) { d.SlotEpoch = 2 })
	for m := next(); !m.GetDone(); m = next() {
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
	l, err := w.api.ListSlots(t.Context(), &controlpb.ListSlotsRequest{})
	if err != nil || l.GetSlots().GetEpoch() != 2 || len(l.GetSlots().GetSlots()) != 1 || l.GetManagers()[0].GetEpoch() != 2 {
		t.Errorf("%v %v", l, err)
	}
}
