package store_test

import (
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// TestCountsAreThoseOfTheTasks lets tasks come, change and go at random: what is
// kept by sums is what counting them gives.
func TestCountsAreThoseOfTheTasks(t *testing.T) {
	s := schedulertest.NewStore(t)
	services, nodes := []string{"a", "ab"}, []string{"", "n", "n2"}
	rapid.Check(t, func(rt *rapid.T) {
		var ids []string
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			task := &schedulerpb.Task{Id: ident.New(), ServiceId: rapid.SampledFrom(services).Draw(rt, "service"), Slot: 1, Revision: rapid.Uint64Range(1, 2).Draw(rt, "revision")}
			schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
				if len(ids) > 0 && rapid.IntRange(0, 3).Draw(rt, "what") == 0 {
					i := rapid.IntRange(0, len(ids)-1).Draw(rt, "which")
					id := ids[i]
					ids = append(ids[:i], ids[i+1:]...)
					return store.Tasks.Delete(tx, id)
				}
				if len(ids) > 0 && rapid.Bool().Draw(rt, "change") {
					old, _ := store.Tasks.Get(tx, rapid.SampledFrom(ids).Draw(rt, "of"))
					task.Id, task.Meta, task.ServiceId = old.Id, old.Meta, old.ServiceId
				} else {
					ids = append(ids, task.Id)
				}
				task.Desired = rapid.SampledFrom([]schedulerpb.TaskState{store.Running, store.Shutdown}).Draw(rt, "desired")
				task.NotBefore = int64(rapid.IntRange(0, 1).Draw(rt, "wait"))
				state := store.Pending
				if task.NodeId = rapid.SampledFrom(nodes).Draw(rt, "node"); task.NodeId != "" {
					state = rapid.SampledFrom([]schedulerpb.TaskState{store.Assigned, store.Running, store.Failed}).Draw(rt, "state")
				}
				task.Status = &schedulerpb.TaskStatus{State: state}
				return store.Tasks.Put(tx, task)
			})
		}
		err := s.View(func(r *raftstore.ReadTx) error {
			for _, id := range services {
				var want store.Count
				for task := range store.OfService(r, id) {
					want.Add(task)
				}
				if got := store.CountOf(r, id); got != want {
					rt.Errorf("service %s has %+v, want %+v", id, got, want)
				}
			}
			for _, id := range nodes[1:] {
				want := map[string]uint64{}
				for task := range store.Tasks.By(r, "node", id) {
					if store.Live(task) {
						want[store.RevisionID(task.ServiceId, task.Revision)]++
					}
				}
				if got := maps.Collect(store.LiveOn(r, id)); !maps.Equal(got, want) {
					rt.Errorf("node %s has %v, want %v", id, got, want)
				}
			}
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			for _, id := range ids {
				if err := store.Tasks.Delete(tx, id); err != nil {
					return err
				}
			}
			return nil
		})
	})
}
