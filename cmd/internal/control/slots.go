package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/autolock"
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
			Reachable: connected[n.GetId()], StoreKey: sched.GetDescription().GetStoreKey(), Lacks: sched.GetDescription().GetSlotsLacking()})
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

// RotateSlot commits a slot set of the next epoch in which an operator's slot
// is replaced, and reports until every manager has re-sealed. Unless forced it is
// refused while a manager is away, as that one would go on opening with the old
// key. Once committed it completes by itself, whether or not anybody watches.
func (s *Server) RotateSlot(req *controlpb.RotateSlotRequest, stream controlpb.Control_RotateSlotServer) error {
	slot := req.GetSlot()
	if err := autolock.CheckSlot(slot); err != nil {
		return apierr.Invalid("", "%v", err)
	}
	if slot.GetKind() != keydpb.SlotKind_SLOT_KIND_OPERATOR || !ident.Valid(slot.GetId()) {
		return apierr.Invalid("", "only an operator key's slot can be rotated")
	}
	return s.changeSlots(stream, "rotated", func(tx *raftstore.Tx, set *keydpb.SlotSet) error {
		if err := s.allThere(tx, set, req.GetForce()); err != nil {
			return err
		}
		return replaceOperator(tx, set, req.GetReplace(), slot)
	})
}

func (s *Server) reportAcks(stream slotStream, epoch uint64) error {
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

func (s *Server) followAcks(stream slotStream, w *raftstore.Watch, epoch uint64) (done bool, err error) {
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
