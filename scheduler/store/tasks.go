package store

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Short names of the states that the scheduler compares.
const (
	Pending  = schedulerpb.TaskState_TASK_STATE_PENDING
	Assigned = schedulerpb.TaskState_TASK_STATE_ASSIGNED
	Running  = schedulerpb.TaskState_TASK_STATE_RUNNING
	Shutdown = schedulerpb.TaskState_TASK_STATE_SHUTDOWN
	Failed   = schedulerpb.TaskState_TASK_STATE_FAILED
	Rejected = schedulerpb.TaskState_TASK_STATE_REJECTED
	Complete = schedulerpb.TaskState_TASK_STATE_COMPLETE
	Remove   = schedulerpb.TaskState_TASK_STATE_REMOVE
	Orphaned = schedulerpb.TaskState_TASK_STATE_ORPHANED
)

// ErrNotYours: the task is not assigned to the node that reports on it.
var ErrNotYours = errors.New("the task is not assigned to this node")

// State is how far the task came.
func State(t *schedulerpb.Task) schedulerpb.TaskState { return t.GetStatus().GetState() }

// Live reports whether the task may have a container now or later: it has not
// ended and its node is not lost.
func Live(t *schedulerpb.Task) bool { return State(t) <= Running }

// Wanted reports whether the task is live and not asked to stop.
func Wanted(t *schedulerpb.Task) bool { return Live(t) && t.GetDesired() <= Running }

// CheckGrowth returns an error where the change from old to new is not one a
// task can make.
func CheckGrowth(old, new *schedulerpb.Task) error {
	switch {
	case State(new) < State(old):
		return fmt.Errorf("task %s: state cannot go back from %s to %s", old.GetId(), StateName(State(old)), StateName(State(new)))
	case new.GetDesired() < old.GetDesired():
		return fmt.Errorf("task %s: desired state cannot go back from %s to %s", old.GetId(), StateName(old.GetDesired()), StateName(new.GetDesired()))
	case old.GetNodeId() != "" && new.GetNodeId() != old.GetNodeId():
		return fmt.Errorf("task %s: a task never moves from its node", old.GetId())
	case old.GetServiceId() != new.GetServiceId() || old.GetSlot() != new.GetSlot() ||
		old.GetTargetNodeId() != new.GetTargetNodeId() || old.GetRevision() != new.GetRevision() || old.GetIteration() != new.GetIteration():
		return fmt.Errorf("task %s: service, slot, run and revision of a task never change", old.GetId())
	}
	return checkShape(new)
}

// checkShape holds for every stored task: node known exactly from ASSIGNED on,
// but for those that ended before they had one.
func checkShape(t *schedulerpb.Task) error {
	st := State(t)
	switch {
	case t.GetNodeId() == "" && st >= Assigned && st <= Running:
		return fmt.Errorf("task %s: it is %s without a node", t.GetId(), StateName(st))
	case t.GetNodeId() != "" && st < Assigned:
		return fmt.Errorf("task %s: it has a node but is %s", t.GetId(), StateName(st))
	}
	return nil
}

// PutTask writes a task and refuses one that breaks a rule of tasks.
func PutTask(tx *raftstore.Tx, t *schedulerpb.Task) error {
	if old, ok := Tasks.Get(tx, t.GetId()); ok {
		if err := CheckGrowth(old, t); err != nil {
			return err
		}
	} else if err := checkShape(t); err != nil {
		return err
	}
	return Tasks.Put(tx, t)
}

// AdvanceTask records what a node says of one of its tasks. A report that is
// older than what is known, or the same, changes nothing and is no error; nor
// is one of a task that is gone. A report of a task of another node gives
// ErrNotYours. A node can neither orphan nor unassign a task. One that was to be
// stopped and forgotten is forgotten when it has ended: that it did is then in
// the log as one entry and not as two.
func AdvanceTask(tx *raftstore.Tx, nodeID, taskID string, st *schedulerpb.TaskStatus) error {
	old, ok := Tasks.Get(tx, taskID)
	if !ok {
		return nil
	}
	if nodeID == "" || old.GetNodeId() != nodeID {
		return ErrNotYours
	}
	if (st.GetUnhealthy() || len(st.GetLocal()) > 0) && tx.Level() < meshstore.Level {
		st = proto.CloneOf(st)
		st.Unhealthy, st.Local = false, nil // nothing leads to tasks yet
	}
	next, changed := Advance(old, st)
	switch {
	case !changed:
		return nil
	case next.GetDesired() >= Remove && !Live(next):
		return Tasks.Delete(tx, taskID)
	}
	if State(next) == Running && State(old) < Running && tx.Level() >= meshstore.Level {
		next.RunningAt = tx.Now().UnixNano()
	}
	return Tasks.Put(tx, next)
}

// Advance returns a copy of t with the status st where that is news from a
// node: a state that exists for nodes to report and is not behind.
func Advance(t *schedulerpb.Task, st *schedulerpb.TaskStatus) (*schedulerpb.Task, bool) {
	if !IsNews(t, st) {
		return t, false
	}
	next := proto.CloneOf(t)
	next.Status = cleanStatus(t, st)
	return next, true
}

// IsNews reports whether Advance would change anything. When a node says the
// same again, at another time, that is no news.
func IsNews(t *schedulerpb.Task, st *schedulerpb.TaskStatus) bool {
	switch s := st.GetState(); {
	case s < State(t), !reportable(s):
		return false
	case s > State(t):
		return true
	case s > Running:
		return false // how it ended was said once
	}
	return !sameWords(cleanStatus(t, st), t.GetStatus())
}

// sameWords compares but for the time.
func sameWords(a, b *schedulerpb.TaskStatus) bool {
	c := proto.CloneOf(a)
	c.At = b.GetAt()
	return proto.Equal(c, b)
}

func reportable(s schedulerpb.TaskState) bool {
	switch s {
	case schedulerpb.TaskState_TASK_STATE_ACCEPTED, schedulerpb.TaskState_TASK_STATE_PREPARING,
		schedulerpb.TaskState_TASK_STATE_READY, schedulerpb.TaskState_TASK_STATE_STARTING,
		Running, Complete, Shutdown, Failed, Rejected:
		return true
	}
	return false
}

// StateName is the state as people read it: "running".
func StateName(s schedulerpb.TaskState) string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return fmt.Sprintf("state %d", int32(s))
}

var stateNames = map[schedulerpb.TaskState]string{
	schedulerpb.TaskState_TASK_STATE_UNSPECIFIED: "unknown",
	schedulerpb.TaskState_TASK_STATE_NEW:         "new",
	schedulerpb.TaskState_TASK_STATE_ACCEPTED:    "accepted",
	schedulerpb.TaskState_TASK_STATE_PREPARING:   "preparing",
	schedulerpb.TaskState_TASK_STATE_READY:       "ready",
	schedulerpb.TaskState_TASK_STATE_STARTING:    "starting",
	Pending: "pending", Assigned: "assigned", Running: "running", Complete: "complete",
	Shutdown: "shutdown", Failed: "failed", Rejected: "rejected", Remove: "remove", Orphaned: "orphaned",
}
