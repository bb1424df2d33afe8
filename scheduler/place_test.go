package scheduler_test

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestPlaceLine measures what is between a service in the store and all of its
// tasks in the store with a node: reading, planning, placing, and the sealed and
// synced transactions. `make bench-place` chooses the sizes; without them it
// checks that a small cluster is filled evenly.
func TestPlaceLine(t *testing.T) {
	size := func(name string, other int) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			return other
		}
		return n
	}
	nodes, tasks := size("PLACE_NODES", 50), size("PLACE_TASKS", 1000)
	s := schedulertest.NewStore(t)
	addNodes(t, s, nodes)
	id := create(t, s, schedulertest.Spec("web", uint64(tasks)))

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	stop := schedulertest.Run(t, s)
	schedulertest.AwaitTasks(t, s, tasks, func(task *schedulerpb.Task) bool { return task.GetNodeId() != "" })
	took := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	stop()

	// The decisions alone, on the same nodes while they are empty.
	least, most, place, err := scheduler.PlaceOnly(scheduler.Config{Store: s, Logger: slog.New(slog.DiscardHandler)}, id, tasks)
	if err != nil {
		t.Fatal(err)
	}
	if want := tasks / nodes; least < want || most > (tasks+nodes-1)/nodes {
		t.Errorf("nodes have %d to %d tasks, %d wanted", least, most, want)
	}
	fmt.Printf("nodes=%d tasks=%d place=%.3fs all=%.2fs (from the stored service to every task stored with its node) memory %.2f KiB a task\n",
		nodes, tasks, place.Seconds(), took.Seconds(), float64(after.HeapAlloc-before.HeapAlloc)/1024/float64(tasks))
}

func addNodes(t testing.TB, s *raftstore.Store, n int) {
	t.Helper()
	for n > 0 {
		batch := min(n, 1000)
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			for range batch {
				node := &schedulerpb.Node{
					Id: ident.New(), Availability: store.Active, State: schedulerpb.NodeState_NODE_STATE_READY,
					Description: &schedulerpb.NodeDescription{
						Hostname: "host", Os: "linux", Arch: "amd64",
						Resources: &taskpb.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30},
					},
				}
				if err := store.Nodes.Put(tx, node); err != nil {
					return err
				}
			}
			return nil
		})
		n -= batch
	}
}
