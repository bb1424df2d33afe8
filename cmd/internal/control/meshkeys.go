package control

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// MeshSource asks a node for its end of the tunnels: a *dispatcher.Dispatcher.
type MeshSource interface {
	Mesh(ctx context.Context, node string, rotate bool) (*schedulerpb.MeshState, error)
}

// RotateMeshKey has a node change its WireGuard key, and waits until it has. What
// goes through its tunnels goes on meanwhile.
func (s *Server) RotateMeshKey(ctx context.Context, req *controlpb.RotateMeshKeyRequest) (*controlpb.RotateMeshKeyResponse, error) {
	var id, name string
	if err := s.view(ctx, func(r *raftstore.ReadTx) error {
		n, err := resolveNode(r, req.GetNode())
		id, name = n.GetId(), n.GetName()
		return err
	}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, meshKeyTimeout)
	defer cancel()
	// A node that cannot do it is not asked, and nothing is noted of it.
	before, err := s.c.Mesh.Mesh(ctx, id, false)
	if err != nil {
		return nil, meshRefusal(name, err)
	}
	if err := s.update(ctx, func(tx *raftstore.Tx) error { return meshstore.AskKey(tx, id) }); err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "another WireGuard key asked for", "node", id)
	now, err := s.c.Mesh.Mesh(ctx, id, true)
	if err != nil {
		return nil, meshRefusal(name, err)
	}
	tick := time.NewTicker(meshKeyPoll)
	defer tick.Stop()
	for bytes.Equal(now.GetPublicKey(), before.GetPublicKey()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, apierr.New(apierr.ReasonTimeout, "see `redoubt node inspect`: peers that do not confirm it are left out or it is given up, and tried again",
				"node %s has begun to change its WireGuard key and is not done yet", name)
		}
		if next, err := s.c.Mesh.Mesh(ctx, id, false); err == nil {
			now = next
		}
	}
	return &controlpb.RotateMeshKeyResponse{Id: id, PublicKey: now.GetPublicKey()}, nil
}

func meshRefusal(name string, err error) error {
	switch {
	case errors.Is(err, dispatcher.ErrAway):
		return apierr.State("a node makes a new key at each start by itself", "node %s is away", name)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierr.New(apierr.ReasonTimeout, "", "node %s: %v", name, err)
	}
	return apierr.State("", "node %s: %v", name, err)
}

// addMesh asks the nodes for their end of the tunnels, side by side.
func (s *Server) addMesh(ctx context.Context, views []*controlpb.NodeView) {
	var all sync.WaitGroup
	for _, v := range views {
		if v.MeshAddress == "" {
			continue
		}
		all.Go(func() {
			state, err := s.c.Mesh.Mesh(ctx, v.Id, false)
			if v.Mesh = state; err != nil {
				v.MeshError = err.Error()
			}
		})
	}
	all.Wait()
}
