package rund

import (
	"fmt"
	"strconv"
	"sync"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/netns"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Most containers of a node share one range of host ids. A task that wants so has one
// for itself: what leaks of it, or to it, belongs to nobody there. It has it from when it
// is first heard of until nothing of it is left; its container says which.

const labelIDs = "redoubt.ids" // first of a task's own range

func (c *Config) validateRanges() error {
	t := c.UserNS.Tasks
	if t.Count == 0 {
		return nil
	}
	if t.Count > maxRanges {
		return fmt.Errorf("%d ranges: at most %d are possible", t.Count, maxRanges)
	}
	first, end := uint64(t.Base), uint64(t.Base)+uint64(t.Count)*uint64(c.UserNS.Size)
	last := netns.IDMap{Base: t.Base + (t.Count-1)*c.UserNS.Size, Size: c.UserNS.Size}
	if err := (netns.IDMap{Base: t.Base, Size: c.UserNS.Size}).Validate(); err != nil {
		return err
	}
	if err := last.Validate(); err != nil || end > 1<<31 {
		return fmt.Errorf("the %d ranges from %d must end below 2^31", t.Count, t.Base)
	}
	if shared := uint64(c.UserNS.Base); first < shared+uint64(c.UserNS.Size) && shared < end {
		return fmt.Errorf("they overlap the range of all containers, %d+%d", c.UserNS.Base, c.UserNS.Size)
	}
	return nil
}

// ranges are whose the ranges are. It is safe for concurrent use.
type ranges struct {
	shared netns.IDMap
	tasks  TaskRanges
	mu     sync.Mutex
	taken  map[string]uint32 // base by task. Guarded by mu
}

func newRanges(c Config) *ranges {
	return &ranges{shared: c.ids(), tasks: c.UserNS.Tasks, taken: map[string]uint32{}}
}

// of is the range of a task: its own, or that of all.
func (r *ranges) of(task string) netns.IDMap {
	r.mu.Lock()
	defer r.mu.Unlock()
	if base, ok := r.taken[task]; ok {
		return netns.IDMap{Base: base, Size: r.shared.Size}
	}
	return r.shared
}

// take gives the task a range that no other has, unless it has one.
func (r *ranges) take(task string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.taken[task]; ok {
		return nil
	}
	for n := range r.tasks.Count {
		if base := r.tasks.Base + n*r.shared.Size; r.holder(base, task) == "" {
			r.taken[task] = base
			return nil
		}
	}
	return fmt.Errorf("all %d ranges of ids of this node are in use by tasks of isolation userns: raise rund.userns.tasks.count there", r.tasks.Count)
}

// recall is take for a task whose container says which it has.
func (r *ranges) recall(task, label string) error {
	base, err := strconv.ParseUint(label, 10, 32)
	if err != nil {
		return fmt.Errorf("the container says no range of ids: %w", err)
	}
	m := netns.IDMap{Base: uint32(base), Size: r.shared.Size}
	if err := m.Validate(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.holder(m.Base, task); other != "" {
		return fmt.Errorf("the range of ids from %d is of two tasks, %s also", m.Base, other)
	}
	r.taken[task] = m.Base
	return nil
}

// holder is the task but one that has ids of the range from base; empty: none. The
// configuration may have been another when it got them. Called with mu held.
func (r *ranges) holder(base uint32, but string) string {
	for other, has := range r.taken {
		if other != but && has < base+r.shared.Size && base < has+r.shared.Size {
			return other
		}
	}
	return ""
}

func (r *ranges) release(task string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.taken, task)
}

// alone reports whether a task wants a range for itself.
func alone(s *taskpb.TaskSpec) bool {
	return s.GetContainer().GetIsolation() == taskpb.Isolation_ISOLATION_USERNS
}

// ids is the range of a task's container.
func (s *Server) ids(task string) netns.IDMap { return s.ranges.of(task) }

// rangeLabel goes with the labels of a container that has a range for itself.
func (s *Server) rangeLabel(d *rundpb.TaskDesired, labels map[string]string) map[string]string {
	if alone(d.GetSpec()) {
		labels[labelIDs] = strconv.FormatUint(uint64(s.ids(d.GetTaskId()).Base), 10)
	}
	return labels
}

func (r *ranges) feature() *taskpb.Feature {
	f := &taskpb.Feature{Name: confine.UserNSFeature, Present: r.tasks.Count > 0}
	if !f.Present {
		f.Detail = "this node has no ranges of ids for tasks: set rund.userns.tasks.count there"
	}
	return f
}
