package dispatcher

import (
	"slices"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// nextVolumes are the volumes whose data the node is to delete, where it was not told so
// yet: all of them, by what it says that it has. What nobody knows stays: a cluster that
// was restored from a backup does not know what was made since.
func (s *session) nextVolumes() (*schedulerpb.ManagerMessage, error) {
	var ids []string
	err := s.d.config.Store.View(func(r *raftstore.ReadTx) error {
		if n, ok := store.Nodes.Get(r, s.node); ok {
			ids = store.ToRemove(r, n)
		}
		return nil
	})
	if err != nil || slices.Equal(ids, s.volumes) {
		return nil, err
	}
	s.volumes = ids
	return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_RemoveVolumes{RemoveVolumes: &schedulerpb.RemoveVolumes{Ids: ids}}}, nil
}
