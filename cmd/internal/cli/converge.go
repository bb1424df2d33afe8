package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// convergence decides when a service is where it was asked to be. It does no
// I/O: what the cluster says of the service goes in with the time, and out come
// lines that say what changed. Each message costs what is in it, however many
// tasks there are. Converged means that the wanted number of tasks of the
// newest revision has been running, or has ended well where the restart policy lets
// it, and nothing else of it, for stableFor without one of them failing, and that no
// update is on its way. A job is there when its run has ended.
type convergence struct {
	follows follows
	run     uint64 // of a job, to be waited for; 0: the newest, if it has no schedule
	updated bool   // an update or a rollback was on its way while it was followed

	service *controlpb.ServiceView
	tasks   map[string]*controlpb.TaskView
	slots   map[place][]*controlpb.TaskView // the tasks of each, in no order
	order   []place                         // of slots, sorted; nil: not known
	running map[uint64]map[string]bool      // ids of those that run and should, by revision
	ended   map[uint64]map[string]bool      // ids of those that ended well for good, by revision
	leaving map[string]bool                 // ids of those that run and should not
	trouble map[string]bool                 // ids of those that do not run and say why

	seen    map[string]string // task id → the line last shown for it
	touched map[place]bool    // since lines were last shown
	was     map[string]bool   // of tasks that were told of since the last whole state: did it run then

	since time.Time // start of the present spell of all being well
	well  bool
}

// follows is what somebody waits for.
type follows int

const (
	// followsTasks: that the tasks run.
	followsTasks follows = iota
	// followsUpdate: that an update is not rolled back, besides.
	followsUpdate
	// followsRollback: that it is rolled back.
	followsRollback
	// followsMoves: that none of its tasks is moved any more, and nothing else.
	followsMoves
)

// given returns an error where it was given up to get there: somebody has to decide, or
// the cluster did.
func (c *convergence) given() error {
	if c.job() {
		return c.failedRun()
	}
	svc := c.service.GetService()
	st, name := svc.GetUpdateStatus(), printable(svc.GetSpec().GetName())
	switch st.GetState() {
	case stateUpdating, stateRollingBack:
		c.updated = true
	case statePaused, stateRollbackPaused:
		return failf(ExitNotConverged, "%s: `redoubt service update %s` goes on, `redoubt service rollback %[2]s` goes back", printable(st.GetMessage()), name)
	case stateRolledBack:
		if c.follows == followsUpdate && c.updated {
			return failf(ExitNotConverged, "%s: see `redoubt service history %s`", printable(st.GetMessage()), name)
		}
	}
	if st := svc.GetRebalanceStatus(); c.follows == followsMoves && st.GetState() == stateMovesStopped {
		return failf(ExitNotConverged, "%s after %s: %s", name, plural(int(st.GetMoves()), "move"), printable(st.GetMessage()))
	}
	return nil
}

// underWay says what an update still waits for.
func (c *convergence) underWay() string {
	switch c.service.GetService().GetUpdateStatus().GetState() {
	case stateUpdating:
		return "the update goes on"
	case stateRollingBack:
		return "the rollback goes on"
	}
	return ""
}

// place is where a task belongs: a slot, or a node where slot is 0, of a run where it is
// a job's.
type place struct {
	slot uint32
	node string
	run  uint64
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.run, q.run), cmp.Compare(p.slot, q.slot), strings.Compare(p.node, q.node))
}

func placeOf(v *controlpb.TaskView) place {
	run := v.GetTask().GetIteration()
	if slot := v.GetTask().GetSlot(); slot != 0 {
		return place{slot: slot, run: run}
	}
	return place{node: cmp.Or(v.GetTask().GetNodeId(), v.GetTask().GetTargetNodeId()), run: run}
}

// observe takes a message and returns the tasks whose line changed, once it has
// all that belongs together.
func (c *convergence) observe(m *controlpb.WatchServiceResponse, now time.Time) []taskLine {
	if !m.GetChanges() {
		c.restart()
	}
	for _, id := range m.GetGone() {
		c.set(id, nil)
		delete(c.seen, id)
	}
	for _, v := range m.GetTasks() {
		c.set(v.GetTask().GetId(), v)
	}
	if m.GetMore() {
		return nil
	}
	c.service = m.GetService()
	// One that failed and was replaced between two messages starts a new spell.
	flipped := false
	for id, ran := range c.was {
		flipped = flipped || ran != c.runs(id)
	}
	clear(c.was)
	well, _ := c.standing()
	if well && (!c.well || flipped) {
		c.since = now
	}
	c.well = well
	return c.changedLines()
}

// restart forgets all but what was shown and what ran.
func (c *convergence) restart() {
	was := c.was
	if was == nil {
		was = map[string]bool{}
	}
	for id := range c.tasks {
		if _, noted := was[id]; !noted {
			was[id] = c.runs(id)
		}
	}
	seen := c.seen
	if seen == nil {
		seen = map[string]string{}
	}
	*c = convergence{follows: c.follows, run: c.run, updated: c.updated, service: c.service, since: c.since, well: c.well, seen: seen, was: was,
		tasks: map[string]*controlpb.TaskView{}, slots: map[place][]*controlpb.TaskView{}, touched: map[place]bool{},
		running: map[uint64]map[string]bool{}, ended: map[uint64]map[string]bool{}, leaving: map[string]bool{}, trouble: map[string]bool{}}
}

// runs reports whether the task does, whatever it should.
func (c *convergence) runs(id string) bool {
	return c.tasks[id].GetTask().GetStatus().GetState() == schedulerpb.TaskState_TASK_STATE_RUNNING
}

// set puts a task in place of what was known of it; nil: it is no more.
func (c *convergence) set(id string, v *controlpb.TaskView) {
	if _, noted := c.was[id]; !noted {
		c.was[id] = c.runs(id)
	}
	old := c.tasks[id]
	delete(c.leaving, id)
	delete(c.trouble, id)
	delete(c.running[old.GetTask().GetRevision()], id)
	delete(c.ended[old.GetTask().GetRevision()], id)
	if old != nil {
		p := placeOf(old)
		c.touched[p] = true
		c.slots[p] = slices.DeleteFunc(c.slots[p], func(o *controlpb.TaskView) bool { return o == old })
		if len(c.slots[p]) == 0 && (v == nil || placeOf(v) != p) {
			delete(c.slots, p)
			c.order = nil
		}
	}
	if v == nil {
		delete(c.tasks, id)
		return
	}
	c.tasks[id] = v
	c.classify(id, v)
	p := placeOf(v)
	c.touched[p] = true
	if c.slots[p] == nil {
		c.order = nil
	}
	c.slots[p] = append(c.slots[p], v)
}

func (c *convergence) classify(id string, v *controlpb.TaskView) {
	const running = schedulerpb.TaskState_TASK_STATE_RUNNING
	t := v.GetTask()
	switch state := t.GetStatus().GetState(); {
	case state == running && t.GetDesired() <= running:
		noted(c.running, t.GetRevision(), id)
	case state == schedulerpb.TaskState_TASK_STATE_COMPLETE && t.GetSettled():
		noted(c.ended, t.GetRevision(), id)
	case state == running:
		c.leaving[id] = true
	case t.GetDesired() <= running || state >= schedulerpb.TaskState_TASK_STATE_FAILED:
		if taskTrouble(v) != "" {
			c.trouble[id] = true
		}
	}
}

func noted(ids map[uint64]map[string]bool, revision uint64, id string) {
	if ids[revision] == nil {
		ids[revision] = map[string]bool{}
	}
	ids[revision][id] = true
}

// remaining is how long the present state must still hold; ok is false while
// it is not the wanted one.
func (c *convergence) remaining(now time.Time) (d time.Duration, ok bool) {
	if !c.well || c.job() {
		return 0, c.well // what has ended stays so
	}
	if c.follows == followsMoves { // the cluster has seen that all serve
		return 0, true
	}
	return max(0, stableFor-now.Sub(c.since)), true
}

// standing says whether this is the wanted state, and if not, why.
func (c *convergence) standing() (bool, string) {
	if c.service == nil {
		return false, "no word from the cluster yet"
	}
	if c.job() {
		return c.ran()
	}
	if c.follows == followsMoves {
		st := c.service.GetService().GetRebalanceStatus()
		if st.GetState() == stateMoving {
			return false, plural(int(st.GetMoves()), "move") + " so far: " + printable(st.GetMessage())
		}
		return true, ""
	}
	revision := c.service.GetService().GetRevision()
	wanted, current := c.service.GetWanted(), uint64(len(c.running[revision]))
	old := uint64(len(c.leaving))
	for _, ids := range c.running {
		old += uint64(len(ids))
	}
	old -= current
	goesOn := c.underWay()
	if current <= wanted && current+uint64(len(c.ended[revision])) >= wanted && old == 0 {
		return goesOn == "", goesOn
	}
	left := fmt.Sprintf("%d of %d tasks running", current, wanted)
	if old > 0 {
		left += fmt.Sprintf(", %d to stop", old)
	}
	if goesOn != "" {
		left += ", " + goesOn
	}
	return false, left + c.reason()
}

// reason is the newest error of those that do not run, or where there is none
// the last message: one that waits to be started again hides why it must be.
func (c *convergence) reason() string {
	var worst *controlpb.TaskView
	for id := range c.trouble {
		if v := c.tasks[id]; !c.shown(placeOf(v)) {
			continue
		} else if worst == nil || compareTrouble(v.GetTask(), worst.GetTask()) > 0 {
			worst = v
		}
	}
	if worst == nil {
		return ""
	}
	return ": " + taskTrouble(worst)
}

func compareTrouble(a, b *schedulerpb.Task) int {
	hasError := func(t *schedulerpb.Task) int { return min(1, len(t.GetStatus().GetError())) }
	return cmp.Or(cmp.Compare(hasError(a), hasError(b)), cmp.Compare(a.GetMeta().GetCreatedAt(), b.GetMeta().GetCreatedAt()),
		cmp.Compare(a.GetSlot(), b.GetSlot()), strings.Compare(a.GetId(), b.GetId()))
}

func taskTrouble(v *controlpb.TaskView) string {
	return cmp.Or(v.GetTask().GetStatus().GetError(), v.GetTask().GetStatus().GetMessage())
}

// taskLine is one task's progress.
type taskLine struct {
	id, name, text string
	slot           uint32
}

func (l taskLine) compare(o taskLine) int {
	return cmp.Or(cmp.Compare(l.slot, o.slot), strings.Compare(l.name, o.name), strings.Compare(l.id, o.id))
}

// line is that of the newest task of a place.
func (c *convergence) line(p place) taskLine {
	var newest *controlpb.TaskView
	for _, v := range c.slots[p] {
		if newest == nil || cmp.Or(cmp.Compare(v.GetTask().GetMeta().GetCreatedAt(), newest.GetTask().GetMeta().GetCreatedAt()),
			strings.Compare(v.GetTask().GetId(), newest.GetTask().GetId())) > 0 {
			newest = v
		}
	}
	return taskLine{newest.GetTask().GetId(), taskName(newest), taskText(newest), newest.GetTask().GetSlot()}
}

// changedLines are those not shown yet, in order.
func (c *convergence) changedLines() (out []taskLine) {
	for p := range c.touched {
		if len(c.slots[p]) == 0 || !c.shown(p) {
			continue
		}
		if l := c.line(p); c.seen[l.id] != l.text {
			c.seen[l.id] = l.text
			out = append(out, l)
		}
	}
	clear(c.touched)
	slices.SortFunc(out, taskLine.compare)
	return out
}

// lines are the first n of the present state.
func (c *convergence) lines(n int) (out []taskLine) {
	if c.order == nil {
		c.order = slices.DeleteFunc(slices.SortedFunc(maps.Keys(c.slots), place.compare), func(p place) bool { return !c.shown(p) })
	}
	for _, p := range c.order[:min(n, len(c.order))] {
		out = append(out, c.line(p))
	}
	return out
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
