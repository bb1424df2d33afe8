package control

import (
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// slotStream is where a change of the slots is reported.
type slotStream = grpc.ServerStreamingServer[controlpb.RotateSlotResponse]

// autolockOff is what the slot is called by which autolock is off.
const autolockOff = "autolock-off"

// AddSlot commits a set with one slot more. A manager that is away follows when it
// is back: until then the others' slots open it as before.
func (s *Server) AddSlot(req *controlpb.AddSlotRequest, stream slotStream) error {
	slot := req.GetSlot()
	if err := autolock.CheckSlot(slot); err != nil {
		return apierr.Invalid("", "%v", err)
	}
	if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_FILE || slot.GetName() == "" || slot.GetName() == autolockOff {
		return apierr.Invalid("", "a slot that is added needs a name of its own, and is no slot of a file (`redoubt autolock off`)")
	}
	return s.changeSlots(stream, "added", func(tx *raftstore.Tx, set *keydpb.SlotSet) error {
		if len(set.GetSlots()) == autolock.MaxSlots {
			return apierr.State("remove one first: `redoubt unlock-key slot rm`", "there are %d slots already", autolock.MaxSlots)
		}
		for _, old := range set.GetSlots() {
			if autolock.SlotName(old) == slot.GetName() || old.GetId() == slot.GetId() {
				return apierr.Exists("choose another name", "a slot %s exists already", slot.GetName())
			}
		}
		if slot.GetSince() != 0 && slot.GetSince() != set.GetEpoch() {
			// Its shares say that epoch.
			return apierr.Conflict("set of slots")
		}
		added := proto.CloneOf(slot)
		added.CreatedAt = tx.Now().Unix()
		set.Slots = append(set.Slots, added)
		return nil
	})
}

// RemoveSlot commits a set without that slot. It is refused where nobody could
// open a manager any more.
func (s *Server) RemoveSlot(req *controlpb.RemoveSlotRequest, stream slotStream) error {
	remove := func(r raftstore.Reader, set *keydpb.SlotSet) error {
		slot, err := findSlot(set, req.GetSlot())
		if err != nil {
			return err
		}
		if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_FILE {
			return apierr.State("`redoubt autolock on`", "slot %s is there because autolock is off", autolock.SlotName(slot))
		}
		set.Slots = slices.DeleteFunc(set.Slots, func(o *keydpb.Slot) bool { return o == slot })
		if !slices.ContainsFunc(set.Slots, func(o *keydpb.Slot) bool { return !autolock.OwnSeed(o) }) {
			return apierr.State("add another first: `redoubt unlock-key slot add`", "slot %s is the last that people open: without it nobody could open a manager", autolock.SlotName(slot))
		}
		return s.allThere(r, set, req.GetForce())
	}
	if req.GetCheck() {
		return s.view(stream.Context(), func(r *raftstore.ReadTx) error {
			set, _, err := nextSet(r)
			if err != nil {
				return err
			}
			return remove(r, set)
		})
	}
	return s.changeSlots(stream, "removed", func(tx *raftstore.Tx, set *keydpb.SlotSet) error { return remove(tx, set) })
}

// SetAutolock has every manager keep, or forget, what opens it by itself.
func (s *Server) SetAutolock(req *controlpb.SetAutolockRequest, stream slotStream) error {
	return s.changeSlots(stream, "changed", func(tx *raftstore.Tx, set *keydpb.SlotSet) error {
		file := autolock.FileSlot(set)
		switch {
		case req.GetOn() == (file == nil):
			state := map[bool]string{true: "on", false: "off"}[req.GetOn()]
			return apierr.State("", "autolock is %s already: nothing was changed", state)
		case req.GetOn():
			set.Slots = slices.DeleteFunc(set.Slots, func(o *keydpb.Slot) bool { return o == file })
			return s.allThere(tx, set, req.GetForce())
		case len(set.GetSlots()) == autolock.MaxSlots:
			return apierr.State("remove one first: `redoubt unlock-key slot rm`", "there are %d slots already", autolock.MaxSlots)
		}
		set.Slots = append(set.Slots, &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_FILE, Name: autolockOff, CreatedAt: tx.Now().Unix()})
		return nil
	})
}

// changeSlots commits the set of the next epoch as change leaves it, and reports
// until every manager has sealed to it.
func (s *Server) changeSlots(stream slotStream, what string, change func(*raftstore.Tx, *keydpb.SlotSet) error) error {
	ctx := stream.Context()
	var epoch uint64
	err := s.update(ctx, func(tx *raftstore.Tx) (err error) {
		epoch, err = putSlotSet(tx, change)
		return err
	})
	if err != nil {
		return err
	}
	s.c.Logger.InfoContext(ctx, "unlock slots "+what, "epoch", epoch)
	return s.reportAcks(stream, epoch)
}

// putSlotSet writes the set of the next epoch as change leaves it.
func putSlotSet(tx *raftstore.Tx, change func(*raftstore.Tx, *keydpb.SlotSet) error) (epoch uint64, err error) {
	set, rec, err := nextSet(tx)
	if err != nil {
		return 0, err
	}
	if err := change(tx, set); err != nil {
		return 0, err
	}
	if err := autolock.CheckSlotSet(set); err != nil {
		return 0, apierr.Invalid("", "%v", err)
	}
	next := &autolockpb.SlotRecord{Meta: rec.GetMeta(), Id: rec.GetId(), Set: set, Kinds: slices.ContainsFunc(set.GetSlots(), newerSlot)}
	return set.GetEpoch(), autolockstore.Slots.Put(tx, next)
}

// nextSet is a copy of the set in force, with the next epoch.
func nextSet(r raftstore.Reader) (*keydpb.SlotSet, *autolockpb.SlotRecord, error) {
	rec, ok := autolockstore.Slots.Get(r, autolockstore.RecordID)
	if !ok {
		return nil, nil, errors.New("the store has no slot record")
	}
	set := proto.CloneOf(rec.GetSet())
	set.Epoch++
	return set, rec, nil
}

// newerSlot reports whether the first release would not understand a slot.
func newerSlot(slot *keydpb.Slot) bool {
	return slot.GetKind() != keydpb.SlotKind_SLOT_KIND_OPERATOR || slot.GetName() != "" || slot.GetSince() != 0
}

// allThere refuses what an absent manager would not hear of: it would go on opening
// with what is taken away. set is of the next epoch.
func (s *Server) allThere(r raftstore.Reader, set *keydpb.SlotSet, force bool) error {
	if force {
		return nil
	}
	for _, m := range s.acks(r) {
		if !m.GetReachable() {
			return apierr.State("bring it back (a locked one: `redoubt unlock` on it), or add --force: it opens with the old key once more then", "manager %s is away and would keep the old key", m.GetName())
		}
		if m.GetEpoch()+1 < set.GetEpoch() {
			return apierr.State("wait for it: `redoubt unlock-key slot ls`", "manager %s has not finished the rotation before this one", m.GetName())
		}
	}
	return nil
}

// replaceOperator puts slot in the place of an operator's: of the one named, or of
// the only one.
func replaceOperator(tx *raftstore.Tx, set *keydpb.SlotSet, ref string, slot *keydpb.Slot) error {
	at, err := operatorSlot(set, ref)
	if err != nil {
		return err
	}
	for _, old := range set.GetSlots() {
		if old.GetId() == slot.GetId() {
			return apierr.Exists("run the command again", "a slot with that id exists already")
		}
	}
	slot = proto.CloneOf(slot)
	slot.CreatedAt, slot.Name = tx.Now().Unix(), set.Slots[at].GetName()
	set.Slots[at] = slot
	return nil
}

// operatorSlot is where the operator slot stands that ref names.
func operatorSlot(set *keydpb.SlotSet, ref string) (int, error) {
	isOperator := func(o *keydpb.Slot) bool { return o.GetKind() == keydpb.SlotKind_SLOT_KIND_OPERATOR }
	if ref != "" {
		slot, err := findSlot(set, ref)
		if err != nil {
			return 0, err
		}
		if !isOperator(slot) {
			return 0, apierr.State("add a new one and remove it: `redoubt unlock-key slot add`, `slot rm`", "slot %s has no operator key to be rotated", autolock.SlotName(slot))
		}
		return slices.Index(set.GetSlots(), slot), nil
	}
	var names []string
	for _, o := range set.GetSlots() {
		if isOperator(o) {
			names = append(names, autolock.SlotName(o))
		}
	}
	switch len(names) {
	case 0:
		return 0, apierr.State("shares are replaced by `redoubt unlock-key slot add shamir` and `slot rm`", "there is no operator key to be rotated")
	case 1:
		return slices.IndexFunc(set.GetSlots(), isOperator), nil
	}
	return 0, apierr.State("say which: `--slot NAME`", "there are %d operator keys (%s)", len(names), strings.Join(names, ", "))
}

// findSlot is the slot of that name, id, or unique prefix of one.
func findSlot(set *keydpb.SlotSet, ref string) (*keydpb.Slot, error) {
	var found []*keydpb.Slot
	for _, slot := range set.GetSlots() {
		if autolock.SlotName(slot) == ref || slot.GetId() == ref {
			return slot, nil
		}
		if len(ref) >= minSlotPrefix && strings.HasPrefix(slot.GetId(), ref) {
			found = append(found, slot)
		}
	}
	switch len(found) {
	case 0:
		return nil, apierr.NotFound("see `redoubt unlock-key slot ls`", "no slot %q", ref)
	case 1:
		return found[0], nil
	}
	return nil, apierr.Ambiguous("slot", ref, len(found), nil)
}

// rotateForLeaving is what a manager's leaving does to the slots: an operator's is
// replaced by slot, that of the first release where there are several. Where there is
// none, or who asks may not make one, slot is nil, and the set gets a new epoch alone, and
// with it each manager a new KEK. kept are the others that people open.
func rotateForLeaving(tx *raftstore.Tx, slot *keydpb.Slot) (epoch uint64, kept []string, err error) {
	epoch, err = putSlotSet(tx, func(tx *raftstore.Tx, set *keydpb.SlotSet) error {
		old := autolock.LeavingSlot(set)
		if kept = keptSlots(set); old == nil {
			return nil
		}
		if slot == nil {
			kept = append(kept, autolock.SlotName(old))
			return nil
		}
		return replaceOperator(tx, set, old.GetId(), slot)
	})
	return epoch, kept, err
}

// keptSlots names the slots that people open and that a manager's leaving does not
// replace.
func keptSlots(set *keydpb.SlotSet) (kept []string) {
	old := autolock.LeavingSlot(set)
	for _, o := range set.GetSlots() {
		if o != old && !autolock.OwnSeed(o) {
			kept = append(kept, autolock.SlotName(o))
		}
	}
	return kept
}
