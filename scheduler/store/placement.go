package store

import (
	"context"

	"google.golang.org/protobuf/proto"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// placementID is the id of the one record in PlacementConfigs.
const placementID = "cluster"

// PlacementConfigs has at most one, and no index but the id.
var PlacementConfigs = raftstore.NewTable[*schedulerpb.PlacementConfig]("placement")

// SetStrategy says how nodes are chosen for services that do not say themselves. Tasks
// that are there stay.
func SetStrategy(ctx context.Context, s *raftstore.Store, strategy taskpb.Strategy) error {
	if strategy != spec.Spread && strategy != spec.BinPack {
		return refuse("the placement strategy is unknown: use spread or bin-pack")
	}
	return meshstore.Retry(ctx, s, func(tx *raftstore.Tx) error {
		if tx.Level() < meshstore.Level {
			return refuse("some managers are of a version that knows no placement strategies: upgrade them first")
		}
		next := &schedulerpb.PlacementConfig{Id: placementID}
		if old, ok := PlacementConfigs.Get(tx, placementID); ok {
			next = proto.CloneOf(old)
		}
		next.Strategy = strategy
		return PlacementConfigs.Put(tx, next)
	})
}

// Strategy is that of services that do not say themselves.
func Strategy(r raftstore.Reader) taskpb.Strategy {
	c, ok := PlacementConfigs.Get(r, placementID)
	if !ok {
		return spec.Spread
	}
	return c.GetStrategy()
}
