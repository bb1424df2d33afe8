package clitest

import (
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// storeKeys are the managers with their keys; own is this one's.
func (n *Node) storeKeys(wanted uint32, own *schedulerpb.StoreKeyState) []*controlpb.StoreKeyProgress {
	own.MadeAt = time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC).Unix()
	out := []*controlpb.StoreKeyProgress{{NodeId: n.id, Name: "manager-1", Reachable: true, Wanted: wanted, Key: own}}
	if n.away || n.dying {
		out = append(out, &controlpb.StoreKeyProgress{NodeId: ident.New(), Name: "manager-2", Wanted: wanted, Key: &schedulerpb.StoreKeyState{Epoch: 1}})
	}
	return out
}

// RotateStoreKeys implements Control.
func (n *Node) RotateStoreKeys(r *controlpb.RotateStoreKeysRequest, s grpc.ServerStreamingServer[controlpb.RotateStoreKeysResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return err
	}
	for _, name := range r.Nodes {
		if name != "manager-1" && name != "manager-2" {
			return apierr.NotFound("see `redoubt node ls`", "no node %q", name)
		}
	}
	if r.Watch {
		return s.Send(&controlpb.RotateStoreKeysResponse{Done: true, Managers: n.storeKeys(0, &schedulerpb.StoreKeyState{Epoch: 1, Trouble: "the disk\x1b is full"})})
	}
	err := errors.Join(
		s.Send(&controlpb.RotateStoreKeysResponse{Managers: n.storeKeys(2, &schedulerpb.StoreKeyState{Epoch: 2, FormerEpoch: 1})}),
		s.Send(&controlpb.RotateStoreKeysResponse{Managers: n.storeKeys(2, &schedulerpb.StoreKeyState{Epoch: 2}), Done: !n.away}))
	if err == nil && n.away {
		<-s.Context().Done()
		err = s.Context().Err()
	}
	return err
}
