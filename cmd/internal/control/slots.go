package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// ListSlots returns the unlock slots and the epoch each manager is sealed to.
func (s *Server) ListSlots(ctx context.Context, _ *controlpb.ListSlotsRequest) (*controlpb.ListSlotsResponse, error) {
	resp := &controlpb.ListSlotsResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		rec, ok := autolockstore.Slots.Get(r, autolockstore.RecordID)
		if !ok {
			return errors.New("the store has no slot record")
		}
		resp.Slots, resp.Managers = rec.GetSet(), s.acks(r)
		return nil
	})
	return resp, err
}

// acks are the managers with the slot epoch they last reported, by name. Only
// one with a session now is there to seal: a node's state lags behind.
func (s *Server) acks(r raftstore.Reader) (out []*controlpb.SlotAck) {
	connected := s.connected()
	for n := range pkistore.Nodes.By(r, "role", "manager") {
		if n.GetDenied() {
			continue
		}
		sched, _ := schedstore.Nodes.Get(r, n.GetId())
		out = append(out, &controlpb.SlotAck{NodeId: n.GetId(), Name: n.GetName(), Epoch: sched.GetDescription().GetSlotEpoch(),
			Reachable: connected[n.GetId()]})
	}
	slices.SortFunc(out, func(a, b *controlpb.SlotAck) int {
		return strings.Compare(a.GetName()+a.GetNodeId(), b.GetName()+b.GetNodeId())
	})
	return out
}

// connected are the nodes that have a session now.
func (s *Server) connected() map[string]bool {
	out := map[string]bool{}
	for _, ses := range s.c.Sessions() {
		out[ses.NodeID] = true
	}
	return out
}

// RotateSlot commits a slot set of the next epoch in which the operator's slot
// is replaced, and reports until every manager has re-sealed. It is refused
// while a manager is away, as that one would go on opening with the old key.
// Once committed it completes by itself, whether or not anybody watches.
func (s *Server) RotateSlot(req *controlpb.RotateSlotRequest, stream controlpb.Control_RotateSlotServer) error {
	ctx := stream.Context()
	slot := req.GetSlot()
	if err := autolock.CheckSlot(slot); err != nil {
		return apierr.Invalid("", "%v", err)
	}
	if slot.GetKind() != keydpb.SlotKind_SLOT_KIND_OPERATOR || !ident.Valid(slot.GetId()) {
		return apierr.Invalid("", "only an operator key's slot can be rotated")
	}
	var epoch uint64
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		rec, ok := autolockstore.Slots.Get(tx, autolockstore.RecordID)
		if !ok {
			return errors.New("the store has no slot record")
		}
		for _, m := range s.acks(tx) {
			if !m.GetReachable() {
				return apierr.State("bring it back (a locked one: `redoubt unlock` on it) and try again", "manager %s is away and would keep the old key", m.GetName())
			}
			if m.GetEpoch() < rec.GetSet().GetEpoch() {
				return apierr.State("wait for it: `redoubt unlock-key slot ls`", "manager %s has not finished the rotation before this one", m.GetName())
			}
		}
		var err error
		epoch, err = replaceOperatorSlot(tx, slot)
		return err
	})
	if err != nil {
		return err
	}
	s.c.Logger.InfoContext(ctx, "unlock slots rotated", "epoch", epoch)
	return s.reportAcks(stream, epoch)
}

// replaceOperatorSlot makes the slot set of the next epoch, with slot in the place
// of the operator's.
func replaceOperatorSlot(tx *raftstore.Tx, slot *keydpb.Slot) (epoch uint64, err error) {
	rec, ok := autolockstore.Slots.Get(tx, autolockstore.RecordID)
	if !ok {
		return 0, errors.New("the store has no slot record")
	}
	next := &autolockpb.SlotRecord{Meta: rec.GetMeta(), Id: rec.GetId(), Set: &keydpb.SlotSet{Epoch: rec.GetSet().GetEpoch() + 1}}
	for _, old := range rec.GetSet().GetSlots() {
		if old.GetId() == slot.GetId() {
			return 0, apierr.Exists("run the command again", "a slot with that id exists already")
		}
		if old.GetKind() != keydpb.SlotKind_SLOT_KIND_OPERATOR {
			next.Set.Slots = append(next.Set.Slots, old)
		}
	}
	slot = proto.CloneOf(slot)
	slot.CreatedAt = tx.Now().Unix()
	next.Set.Slots = append(next.Set.Slots, slot)
	return next.GetSet().GetEpoch(), autolockstore.Slots.Put(tx, next)
}

func (s *Server) reportAcks(stream controlpb.Control_RotateSlotServer, epoch uint64) error {
	for {
		w, err := s.c.Store.Watch(func(*raftstore.ReadTx) error { return nil }, schedstore.Nodes)
		if err != nil {
			return err
		}
		done, err := s.followAcks(stream, w, epoch)
		w.Close()
		if done || !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (s *Server) followAcks(stream controlpb.Control_RotateSlotServer, w *raftstore.Watch, epoch uint64) (done bool, err error) {
	for {
		msg := &controlpb.RotateSlotResponse{Epoch: epoch}
		if err := s.c.Store.View(func(r *raftstore.ReadTx) error { msg.Managers = s.acks(r); return nil }); err != nil {
			return false, err
		}
		msg.Done = !slices.ContainsFunc(msg.Managers, func(a *controlpb.SlotAck) bool { return a.GetEpoch() < epoch })
		if err := stream.Send(msg); err != nil || msg.Done {
			return msg.Done, err
		}
		if _, err := w.Next(stream.Context()); err != nil {
			return false, err
		}
	}
}
