package scheduler_test

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestVolumesAreLookedUpAnew: a leader that placed tasks of a revision before does not look
// for data that was removed since, but for what its volumes' names say now.
func TestVolumesAreLookedUpAnew(t *testing.T) {
	s := schedulertest.NewStore(t)
	sp := schedulertest.Spec("web", 1)
	sp.Task.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_VOLUME, Target: "/data", Volume: &taskpb.VolumeUse{Name: "db"}}}
	id, err := store.CreateService(t.Context(), s, sp)
	if err != nil {
		t.Fatal(err)
	}
	now := func(name string) (id string) {
		_ = s.View(func(r *raftstore.ReadTx) error { id = store.VolumeID(r, name); return nil })
		return id
	}
	cfg := scheduler.Config{Store: s}
	if before, after := scheduler.RequestsAround(cfg, id, 1, func() {}); before == nil || before != after || !after.Current(now) {
		t.Error("not remembered")
	}
	before, after := scheduler.RequestsAround(cfg, id, 1, func() {
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return store.Volumes.Delete(tx, store.VolumeID(tx, "db")) })
	})
	if before.Current(now) || !after.Current(now) {
		t.Error("a volume that was removed")
	}
	before, after = scheduler.RequestsAround(cfg, id, 1, func() {
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			return store.Volumes.Put(tx, &schedulerpb.Volume{Id: ident.New(), Spec: &taskpb.VolumeSpec{Name: "db", Driver: "local"}})
		})
	})
	if before.Current(now) || !after.Current(now) {
		t.Error("a volume that was made again")
	}
}
