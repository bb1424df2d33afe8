package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// placement says how nodes are chosen beyond whether they could: over what tasks are
// spread, whose place is taken, and what would be moved. Tasks of other services go by
// their ids: who asks may not see what these are called. fit is how many nodes could run
// one more.
func (e *explainer) placement(fit int) (out []string) {
	for i, over := range e.req.Levels() {
		out = append(out, fmt.Sprintf("spread over %s: %s", over, e.spread(i)))
	}
	if e.cluster.Packs(e.req) {
		out = append(out, "nodes are filled one after the other, by what is reserved (bin-pack)")
	}
	if e.task != nil && e.task.GetPreemptedBy() != "" {
		out = append(out, "it ended so that task "+e.task.GetPreemptedBy()+", which has a higher priority, has its place")
	}
	if e.task == nil {
		out = append(out, e.gaveWay()...)
		out = append(out, e.moves()...)
	}
	if p := e.req.Priority; p > 0 && fit == 0 && e.wants() {
		out = append(out, e.takes(p))
	}
	return out
}

// wants reports whether something waits for a node.
func (e *explainer) wants() bool {
	if e.task != nil {
		return schedstore.Wanted(e.task) && e.task.GetNodeId() == ""
	}
	return e.view.GetRunning() < e.view.GetWanted()
}

// spread counts tasks at one level, in each branch of those above it.
func (e *explainer) spread(level int) string {
	count := map[string]int{}
	for _, v := range e.verdicts {
		path := make([]string, 0, level+1)
		for _, value := range v.Values[:level+1] {
			path = append(path, cmp.Or(value, "(none)"))
		}
		count[strings.Join(path, "/")] += v.ServiceTasks
	}
	parts := slices.Sorted(maps.Keys(count))
	rest := len(parts) - maxExplained
	for i, path := range parts {
		parts[i] = fmt.Sprintf("%s %d", path, count[path])
	}
	if rest > 0 {
		parts = append(parts[:maxExplained], fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(parts, ", ")
}

// takes says whose place one more task would take.
func (e *explainer) takes(priority uint32) string {
	p, ok := e.cluster.Preempt(e.req, "", e.now)
	on := nodeName(e.r, p.NodeID)
	switch {
	case !ok:
		return fmt.Sprintf("its priority is %d, and no node has tasks of lower ones that would make room enough", priority)
	case len(p.Victims) == 0:
		return "there will be room on " + on + " when what is being stopped there has ended"
	}
	return fmt.Sprintf("by its priority of %d one more takes the place of %d of lower ones on %s: %s", priority, len(p.Victims), on, strings.Join(p.Victims, ", "))
}

// gaveWay counts tasks that ended for others, and are remembered.
func (e *explainer) gaveWay() []string {
	n, last := 0, (*schedulerpb.Task)(nil)
	for t := range schedstore.OfService(e.r, e.svc.GetId()) {
		if t.GetPreemptedBy() != "" {
			if n++; last == nil || schedstore.Newer(t, last) {
				last = t
			}
		}
	}
	if n == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d ended so that tasks of a higher priority have their place, the last for task %s", n, last.GetPreemptedBy())}
}

// moves says what is moved, or would be.
func (e *explainer) moves() (out []string) {
	switch st := e.svc.GetRebalanceStatus(); st.GetState() {
	case schedstore.Moving:
		return []string{after("its tasks are being moved", st.GetMessage())}
	case schedstore.MovingStopped:
		out = append(out, after("its tasks are moved no more", st.GetMessage()))
	}
	if s, ok := e.surplus(); ok {
		out = append(out, fmt.Sprintf("one would be on %s and not on %s if it were placed now: %s", nodeName(e.r, s.To), nodeName(e.r, s.From), s.Why))
	}
	return out
}

// surplus is a task that would be elsewhere if it were placed now, where all run that
// should.
func (e *explainer) surplus() (placement.Surplus, bool) {
	if e.svc.GetSpec().GetReplicated() == nil || e.view.GetRunning() < e.view.GetWanted() {
		return placement.Surplus{}, false
	}
	return e.cluster.Surplus(e.req, e.now)
}

// movable reports whether a task would be moved if somebody asked for it.
func (e *explainer) movable() bool {
	if e.task != nil || e.svc.GetRebalanceStatus().GetState() == schedstore.Moving {
		return false
	}
	_, ok := e.surplus()
	return ok
}
