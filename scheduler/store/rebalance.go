package store

import (
	"context"

	"google.golang.org/protobuf/proto"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// Rebalance has the leader move tasks of a service to where they would be placed now. One
// that is moved already goes on as it is.
func Rebalance(ctx context.Context, s *raftstore.Store, id string) error {
	return meshstore.Retry(ctx, s, func(tx *raftstore.Tx) error {
		old, ok := Services.Get(tx, id)
		switch {
		case !ok:
			return &resolve.Error{Kind: "service", Ref: id}
		case tx.Level() < meshstore.Level:
			return refuse("some managers are of a version that moves no tasks: upgrade them first")
		case spec.IsJob(old.GetSpec()):
			return refuse("%s is a job, whose tasks come to their end: there is nothing to rebalance", old.GetSpec().GetName())
		case old.GetSpec().GetReplicated() == nil:
			return refuse("%s runs once on every node: there is nothing to rebalance", old.GetSpec().GetName())
		case old.GetRebalanceStatus().GetState() == Moving:
			return nil
		}
		next := proto.CloneOf(old)
		next.RebalanceStatus = &schedulerpb.RebalanceStatus{State: Moving, StartedAt: tx.Now().UnixNano(), Message: "looking for tasks to move"}
		return Services.Put(tx, next)
	})
}

// StopRebalance has no more tasks of a service moved. One that is on its way stays beside
// the other until that runs.
func StopRebalance(ctx context.Context, s *raftstore.Store, id string) error {
	return meshstore.Retry(ctx, s, func(tx *raftstore.Tx) error {
		old, ok := Services.Get(tx, id)
		switch {
		case !ok:
			return &resolve.Error{Kind: "service", Ref: id}
		case old.GetRebalanceStatus().GetState() != Moving:
			return refuse("no task of %s is being moved", old.GetSpec().GetName())
		}
		next := proto.CloneOf(old)
		st := next.RebalanceStatus
		st.State, st.Message, st.CompletedAt = MovingStopped, "stopped on request", tx.Now().UnixNano()
		return Services.Put(tx, next)
	})
}
