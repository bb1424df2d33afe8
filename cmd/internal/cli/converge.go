package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// convergence decides when a service is where it was asked to be. It does no
// I/O: views of the service go in with the time, and out come lines that say
// what changed. Converged means that the wanted number of tasks of the newest
// revision has been running, and nothing else of it, for stableFor without
// one of them failing.
type convergence struct {
	seen  map[string]string // task id → the line last shown for it
	since time.Time         // start of the present spell of all being well
	well  bool
	ran   string // ids of the tasks that ran in the last view
	left  string // why not yet, for the timeout's message
}

// observe takes a view and returns the tasks whose line changed.
func (c *convergence) observe(v *controlpb.WatchServiceResponse, now time.Time) []taskLine {
	if c.seen == nil {
		c.seen = map[string]string{}
	}
	var changed []taskLine
	for _, l := range taskLines(v) {
		if c.seen[l.id] != l.text {
			c.seen[l.id] = l.text
			changed = append(changed, l)
		}
	}
	well, left := standing(v)
	// One that failed and was replaced between two views starts a new spell.
	ran := runningIDs(v)
	if well && (!c.well || ran != c.ran) {
		c.since = now
	}
	c.well, c.left, c.ran = well, left, ran
	return changed
}

func runningIDs(v *controlpb.WatchServiceResponse) string {
	var ids []string
	for _, t := range v.Tasks {
		if t.Task.GetStatus().GetState() == schedulerpb.TaskState_TASK_STATE_RUNNING {
			ids = append(ids, t.Task.GetId())
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

// remaining is how long the present state must still hold; ok is false while
// it is not the wanted one.
func (c *convergence) remaining(now time.Time) (d time.Duration, ok bool) {
	if !c.well {
		return 0, false
	}
	return max(0, stableFor-now.Sub(c.since)), true
}

// standing says whether v is the wanted state, and if not, why.
func standing(v *controlpb.WatchServiceResponse) (bool, string) {
	svc := v.GetService().GetService()
	wanted := v.GetService().GetWanted()
	var current, old uint64
	reason := ""
	for _, t := range v.Tasks {
		k := t.Task
		state := k.GetStatus().GetState()
		switch {
		case state == schedulerpb.TaskState_TASK_STATE_RUNNING && k.Revision == svc.GetRevision() && k.Desired <= schedulerpb.TaskState_TASK_STATE_RUNNING:
			current++
		case state == schedulerpb.TaskState_TASK_STATE_RUNNING:
			old++
		case k.Desired <= schedulerpb.TaskState_TASK_STATE_RUNNING || state >= schedulerpb.TaskState_TASK_STATE_FAILED:
			if m := cmp.Or(k.GetStatus().GetError(), k.GetStatus().GetMessage()); m != "" {
				reason = ": " + m
			}
		}
	}
	if current == wanted && old == 0 {
		return true, ""
	}
	left := fmt.Sprintf("%d of %d tasks running", current, wanted)
	if old > 0 {
		left += fmt.Sprintf(", %d to stop", old)
	}
	return false, left + reason
}

// taskLine is one task's progress.
type taskLine struct {
	id, name, text string
	slot           uint32
}

// taskLines gives the newest task of every slot (or node), in order.
func taskLines(v *controlpb.WatchServiceResponse) []taskLine {
	newest := map[string]*controlpb.TaskView{}
	for _, t := range v.Tasks {
		key := fmt.Sprintf("%d/", t.Task.GetSlot())
		if t.Task.GetSlot() == 0 {
			key += t.Task.GetNodeId()
		}
		if old := newest[key]; old == nil || t.Task.GetMeta().GetCreatedAt() >= old.Task.GetMeta().GetCreatedAt() {
			newest[key] = t
		}
	}
	var lines []taskLine
	for _, t := range newest {
		lines = append(lines, taskLine{t.Task.Id, taskName(t), taskText(t), t.Task.GetSlot()})
	}
	slices.SortFunc(lines, func(a, b taskLine) int {
		return cmp.Or(cmp.Compare(a.slot, b.slot), strings.Compare(a.name, b.name), strings.Compare(a.id, b.id))
	})
	return lines
}

// taskName is web.5, or web.<node> for a task of a global service.
func taskName(t *controlpb.TaskView) string {
	if t.Task.GetSlot() == 0 {
		return t.ServiceName + "." + nodeLabel(t.NodeName, t.Task.GetNodeId())
	}
	return fmt.Sprintf("%s.%d", t.ServiceName, t.Task.GetSlot())
}

func taskText(t *controlpb.TaskView) string {
	s := t.Task.GetStatus()
	text := enumName(s.GetState(), "TASK_STATE_")
	if t.NodeName != "" {
		text += " on " + t.NodeName
	}
	switch m := cmp.Or(s.GetError(), s.GetMessage()); {
	case s.GetState() == schedulerpb.TaskState_TASK_STATE_RUNNING:
	case m != "":
		text += ": " + m
	}
	return printable(text)
}
