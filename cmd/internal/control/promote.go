package control

import (
	"context"
	"errors"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// PromoteNode asks a worker to become a manager and waits until its record says
// that it is one. The worker hears it over its session.
func (s *Server) PromoteNode(ctx context.Context, req *controlpb.PromoteNodeRequest) (*controlpb.PromoteNodeResponse, error) {
	var id, name string
	connected := s.connected()
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		n, err := resolveNode(tx, req.GetNode())
		if err != nil {
			return err
		}
		id, name = n.GetId(), n.GetName()
		switch {
		case n.GetRole() == profilepb.Role_ROLE_MANAGER:
			return apierr.State("", "node %s is a manager already", name)
		case !connected[id]:
			return apierr.State("bring it back first", "node %s is away", name)
		}
		if err := pki.CheckManagerRoom(tx); err != nil {
			return err
		}
		return pki.WantPromotion(tx, id)
	})
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "promotion asked for", "node", id)
	ctx, cancel := context.WithTimeout(ctx, promoteTimeout)
	defer cancel()
	if err := s.awaitManager(ctx, id); err != nil {
		return nil, apierr.New(apierr.ReasonTimeout, "see `redoubt status` on it: it must know an address to be reached at (node.advertise)",
			"node %s has not become a manager yet", name)
	}
	return &controlpb.PromoteNodeResponse{Id: id}, nil
}

// awaitManager returns when the node's record says manager.
func (s *Server) awaitManager(ctx context.Context, id string) error {
	for {
		err := s.followRole(ctx, id)
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (s *Server) followRole(ctx context.Context, id string) error {
	w, err := s.c.Store.Watch(func(*raftstore.ReadTx) error { return nil }, pkistore.Nodes)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		done := false
		err := s.c.Store.View(func(r *raftstore.ReadTx) error {
			n, _ := pkistore.Nodes.Get(r, id)
			done = n.GetRole() == profilepb.Role_ROLE_MANAGER
			return nil
		})
		if err != nil || done {
			return err
		}
		if _, err := w.Next(ctx); err != nil {
			return err
		}
	}
}
