package control

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// RevokeNode denies a node at once, as RemoveNode does with its keys in other
// hands; the node stays listed, as revoked, until it is removed. Of one that is revoked
// already it puts what its tasks held on the revocation list, as far as that is known,
// and tells once more what is on record of it: the first answer may have been lost.
func (s *Server) RevokeNode(ctx context.Context, req *controlpb.RevokeNodeRequest) (*controlpb.RevokeNodeResponse, error) {
	l := &leaving{Server: s, ref: req.GetNode(), slot: req.GetSlot(), only: req.GetCheck(),
		force: true, how: pki.Leaving{Compromised: true, Listed: true}}
	if gone, err := s.left(ctx, req.GetNode(), false); err != nil || gone != nil {
		resp := &controlpb.RevokeNodeResponse{Id: gone.GetId(), Already: gone != nil}
		if err != nil || l.only {
			return resp, err
		}
		resp.Unlisted = !s.listHeld(ctx, gone.GetId())
		resp.Services, resp.Known, resp.Rotation, err = s.took(ctx, gone)
		return resp, err
	}
	if err := l.run(ctx); err != nil {
		return nil, err
	}
	resp := &controlpb.RevokeNodeResponse{Id: l.node.GetId(), Rotation: l.rotation, Manager: l.manager(), NoSlot: l.noSlot(), Known: l.known, Unlisted: l.unlisted}
	if !l.only {
		resp.Services = l.services
		s.c.Logger.InfoContext(ctx, "node revoked", "node", resp.GetId(), "keyset_epoch", l.rotation.GetKeysetEpoch())
	}
	return resp, nil
}

// removeAgain is RemoveNode of a node that was revoked, which is listed no more, or was
// removed before: what its tasks held is put on the revocation list where it is not, and
// it is noted that its keys are in other hands where that was not known then.
func (s *Server) removeAgain(ctx context.Context, gone *pkipb.Node, req *controlpb.RemoveNodeRequest, err error) (*controlpb.RemoveNodeResponse, error) {
	resp := &controlpb.RemoveNodeResponse{Id: gone.GetId(), Already: gone != nil}
	if err != nil || req.GetCheck() {
		return resp, err
	}
	if err := s.unlist(ctx, gone.GetId()); err != nil {
		return nil, err
	}
	if req.GetCompromised() {
		if err := s.update(ctx, func(tx *raftstore.Tx) error { return pki.Expose(tx, gone.GetId()) }); err != nil {
			return nil, err
		}
	}
	resp.Unlisted = !s.listHeld(ctx, gone.GetId())
	if req.GetCompromised() {
		resp.Services, resp.Known, resp.Rotation, err = s.took(ctx, gone)
	}
	return resp, err
}

// listHeld puts what a denied node's tasks held on the revocation list, and reports
// whether that was done. The node is out already, so who asked and went away leaves
// nothing of it undone.
func (s *Server) listHeld(ctx context.Context, id string) bool {
	w := s.c.Workloads
	if w == nil {
		return true
	}
	err := s.list(context.WithoutCancel(ctx), id, w.IssuedTo, pki.ListWorkloads)
	if err != nil {
		s.c.Logger.WarnContext(ctx, "what the tasks of a node that left held is not on the revocation list", "node", id, "err", err)
	}
	return err == nil
}

// left returns the revoked node of that name, or where removed are meant too the denied
// one of exactly that id, where no member is meant; nil: there is none.
func (s *Server) left(ctx context.Context, ref string, removed bool) (n *pkipb.Node, err error) {
	err = s.view(ctx, func(r *raftstore.ReadTx) error {
		if _, err := resolveNode(r, ref); err == nil {
			return nil
		}
		if found, err := resolveAmong(r, ref, listed); err == nil && found.GetRevoked() {
			n = found
		} else if found, ok := pkistore.Nodes.Get(r, ref); removed && ok && found.GetDenied() {
			n = found
		}
		return nil
	})
	return n, err
}

// took is what is still on record of what a node took along that left with its keys in
// other hands. Services whose tasks there are forgotten are not among it.
func (s *Server) took(ctx context.Context, gone *pkipb.Node) (services []string, known *controlpb.KnownSecrets, rotation *controlpb.Rotation, err error) {
	err = s.view(ctx, func(r *raftstore.ReadTx) error {
		id := gone.GetId()
		services = servicesOn(r, id)
		if gone.GetRole() != profilepb.Role_ROLE_MANAGER && gone.GetKeysetEpoch() == 0 {
			known = knownToWorker(r, id)
			return nil
		}
		c, err := pkistore.GetCluster(r)
		if err != nil {
			return err
		}
		known = knownToManager(r, time.Unix(gone.GetDeniedAt()+1, 0)) // of whole seconds
		slots, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
		exposed := slices.ContainsFunc(c.GetExposures(), func(e *pkipb.Exposure) bool { return e.GetNodeId() == id && !e.GetFormerRoot() })
		rotation = &controlpb.Rotation{KeysetEpoch: pki.KeysetEpoch(c), SlotEpoch: slots.GetSet().GetEpoch(), SlotsKept: keptSlots(slots.GetSet()), RootExposed: exposed}
		return nil
	})
	return services, known, rotation, err
}

// unlist takes a revoked node off the lists; it stays denied.
func (s *Server) unlist(ctx context.Context, id string) error {
	return s.update(ctx, func(tx *raftstore.Tx) error {
		n, ok := pkistore.Nodes.Get(tx, id)
		if !ok || !n.GetRevoked() {
			return nil
		}
		n = proto.CloneOf(n)
		n.Revoked = false
		return pkistore.Nodes.Put(tx, n)
	})
}
