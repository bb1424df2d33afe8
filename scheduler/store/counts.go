package store

import (
	"iter"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Names of the sums that are kept of tasks.
const (
	sumService = "service"
	sumNode    = "node"
)

// Count is how many tasks of a service there are, as people ask for it.
type Count struct {
	// Wanted are live and not asked to stop; Running are those of them that run,
	// whatever their revision; Waiting those that no node was found for.
	Wanted, Running, Waiting uint64
}

// Add counts one task.
func (c *Count) Add(t *schedulerpb.Task) {
	if !Wanted(t) {
		return
	}
	c.Wanted++
	switch {
	case State(t) == Running:
		c.Running++
	case t.GetNodeId() == "" && t.GetNotBefore() == 0:
		c.Waiting++
	}
}

// CountOf counts the tasks of a service, at the same cost however many they are.
func CountOf(r *raftstore.ReadTx, serviceID string) Count {
	n := Tasks.Total(r, sumService, serviceID)
	return Count{uint64(n[0]), uint64(n[1]), uint64(n[2])}
}

func countByService(t *schedulerpb.Task) (string, raftstore.Amounts) {
	var c Count
	c.Add(t)
	return t.GetServiceId(), raftstore.Amounts{int64(c.Wanted), int64(c.Running), int64(c.Waiting)}
}

// LiveOn yields the ids of the revisions that a node has live tasks of, and how
// many of each.
func LiveOn(r *raftstore.ReadTx, nodeID string) iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for key, n := range Tasks.Totals(r, sumNode, nodeID+" ") {
			if !yield(key[len(nodeID)+1:], uint64(n[0])) {
				return
			}
		}
	}
}

func countByNode(t *schedulerpb.Task) (string, raftstore.Amounts) {
	if t.GetNodeId() == "" || !Live(t) {
		return "", raftstore.Amounts{}
	}
	return t.GetNodeId() + " " + RevisionID(t.GetServiceId(), t.GetRevision()), raftstore.Amounts{1}
}
