package agent

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"google.golang.org/protobuf/proto"
)

// machine knows every task of the node and decides what rund, netd and the
// manager are to be told. It does no I/O: inputs are what was heard (assign,
// observe, synced, probed), outputs are whole desired states computed from
// what is known now (phases, attachments) and statuses not yet reported. Any
// output may be lost and asked for again.
//
// It is not safe for concurrent use; Agent guards it.
type machine struct {
	network  Network
	overlay  bool // tasks can be on networks
	logger   *slog.Logger
	tasks    map[string]*task
	assigned bool // a complete set of assignments was heard in this process
	observed bool // rund named all its tasks in this process
	netKnown bool // netd took a declaration from this process
	settled  bool // and one of networks
	probed   bool
	again    bool          // rund is to be told the same phases once more
	refusal  string        // why no new task is taken; empty: they are
	view     *overlay.View // what managers last said of networks; nil: nothing
	policy   []byte        // the cluster's image policy, by managers' last word; empty: none
	// noVolumes are those whose data is to be deleted, by managers' last word.
	noVolumes []string
}

// task is one that the manager assigned, or that rund still has.
type task struct {
	id         string
	assignment *schedulerpb.Assignment // nil: not ours any more
	actual     *rundpb.TaskActual      // nil: rund has nothing of it
	endpoint   *mesh.Endpoint          // nil: none reserved

	nets   onNetworks
	relays *rundpb.Relays // that rund was told of last

	inNet    bool // netd may know it
	attached bool // netd said so
	unfit    bool // not to be attached again
	tries    int
	retryAt  time.Time

	started bool // rund was told to run it, or did
	files   filing
	ended   bool // status is final
	status  *schedulerpb.TaskStatus
	dirty   bool // status not yet reported
}

func newMachine(n Network, overlay bool, l *slog.Logger) *machine {
	return &machine{network: n, overlay: overlay, logger: l, tasks: map[string]*task{}}
}

// ready reports whether enough is known to declare anything: a declaration
// made earlier would stop containers that somebody still wants.
func (m *machine) ready() bool { return m.assigned && m.observed }

// assign takes what the manager wants of this node. A complete set replaces
// all; tasks it does not name are stopped and forgotten.
func (m *machine) assign(now time.Time, complete bool, update []*schedulerpb.Assignment, remove []string) error {
	for _, a := range update {
		switch {
		case !ident.Valid(a.TaskId):
			return fmt.Errorf("assignment names an invalid task id %q", a.TaskId)
		case a.Spec.GetContainer() == nil && a.Desired <= schedulerpb.TaskState_TASK_STATE_RUNNING:
			return fmt.Errorf("assignment of task %s has no container", a.TaskId)
		}
		if err := checkAttachments(a); err != nil {
			return fmt.Errorf("assignment of task %s: %w", a.TaskId, err)
		}
		if t := m.tasks[a.TaskId]; t != nil && another(t.nets.last, a) {
			return fmt.Errorf("assignment of task %s makes another task of it: a task is replaced by one with an id of its own", a.TaskId)
		}
	}
	if complete {
		named := make(map[string]bool, len(update))
		for _, a := range update {
			named[a.TaskId] = true
		}
		for id, t := range m.tasks {
			if !named[id] {
				t.assignment = nil
			}
		}
	}
	for _, a := range update {
		t := m.tasks[a.TaskId]
		if t == nil {
			if len(m.tasks) >= maxTasks {
				return fmt.Errorf("more than %d tasks assigned to this node", maxTasks)
			}
			t = &task{id: a.TaskId}
			m.tasks[a.TaskId] = t
		}
		if old := t.assignment; old != nil && old.Desired > a.Desired {
			a = proto.CloneOf(a)
			a.Desired = old.Desired // desired only grows
		}
		m.again = m.again || a.KillAt != t.assignment.GetKillAt() || !bytes.Equal(a.Signed, t.assignment.GetSigned())
		t.assignment, t.nets.last = a, a
	}
	for _, id := range remove {
		if t := m.tasks[id]; t != nil {
			t.assignment = nil
		}
	}
	if complete {
		m.assigned = true
		m.stepAll(now)
		return nil
	}
	for _, a := range update {
		m.step(m.tasks[a.TaskId], now)
	}
	for _, id := range remove {
		m.step(m.tasks[id], now)
	}
	return nil
}

// another reports whether two assignments of one id are of different tasks. One of a
// task that is to end may leave out what is gone.
func another(old, now *schedulerpb.Assignment) bool {
	if old == nil {
		return false
	}
	other := func(a, b string) bool { return a != "" && b != "" && a != b }
	return other(old.ServiceId, now.ServiceId) || other(old.ServiceName, now.ServiceName) || old.Slot != now.Slot ||
		old.Spec != nil && now.Spec != nil && !lock.Alike(old.Spec, now.Spec)
}

// observe takes what rund says there is.
func (m *machine) observe(now time.Time, r *rundpb.WatchResponse) {
	if r.Complete {
		named := make(map[string]bool, len(r.Tasks))
		for _, a := range r.Tasks {
			named[a.TaskId] = true
		}
		for id, t := range m.tasks {
			if !named[id] {
				t.actual = nil
			}
		}
	}
	for _, a := range r.Tasks {
		t := m.tasks[a.TaskId]
		if t == nil {
			t = &task{id: a.TaskId}
			m.tasks[a.TaskId] = t
		}
		if t.actual == nil {
			// A former agent may have left it attached, whether managers or rund named it
			// first to this one.
			t.inNet = t.inNet || !m.netKnown
			t.nets.held = t.nets.held || m.overlay && !m.settled && (len(a.GetSpec().GetNetworks()) > 0 || publishes(a.GetSpec()))
		}
		t.actual = a
		t.started = t.started || a.Phase >= rundpb.Phase_PHASE_STARTING && !finished(a)
		m.adopt(t, now)
	}
	for _, id := range r.Removed {
		if t := m.tasks[id]; t != nil {
			t.actual = nil
		}
	}
	if r.Complete {
		m.observed = true
		m.stepAll(now)
		return
	}
	for _, a := range r.Tasks {
		m.step(m.tasks[a.TaskId], now)
	}
	for _, id := range r.Removed {
		m.step(m.tasks[id], now)
	}
}

// adopt keeps the endpoint that a live container was created with.
func (m *machine) adopt(t *task, now time.Time) {
	if t.endpoint != nil || t.unfit || finished(t.actual) || t.actual.Endpoint == nil {
		return
	}
	e, err := endpointFrom(t.actual.Endpoint)
	if err == nil {
		err = m.network.Adopt(t.id, e)
	}
	if err != nil {
		m.logger.Error("a container's endpoint cannot be adopted, it will be replaced", "task", t.id, "error", err)
		t.unfit = true
		m.end(t, now, schedulerpb.TaskState_TASK_STATE_FAILED, err.Error())
		return
	}
	t.endpoint = &e
}

// setRefusal takes the outcome of a probe: with a reason, no new task is begun.
func (m *machine) setRefusal(now time.Time, reason string) {
	m.probed, m.refusal = true, reason
	m.stepAll(now)
}

// attachments gives what netd should have now, and remembers that it may.
func (m *machine) attachments(now time.Time) []mesh.Attachment {
	var out []mesh.Attachment
	for _, t := range m.tasks {
		if m.wantsNetwork(t, now) {
			out = append(out, mesh.Attachment{TaskID: t.id, Netns: t.actual.Netns, Ports: portsOf(t)})
		}
	}
	slices.SortFunc(out, func(a, b mesh.Attachment) int { return cmp.Compare(a.TaskID, b.TaskID) })
	return out
}

func (m *machine) wantsNetwork(t *task, now time.Time) bool {
	if !sandboxed(t) || t.endpoint == nil || t.unfit || !t.onBridge() {
		return false
	}
	return t.attached || t.started || m.mayStart(t, now) && !now.Before(t.retryAt)
}

// mayStart reports whether the manager wants the task to run by now.
func (m *machine) mayStart(t *task, now time.Time) bool {
	return wanted(t) && t.assignment.Desired == schedulerpb.TaskState_TASK_STATE_RUNNING &&
		now.UnixNano() >= t.assignment.NotBefore
}

// syncing is told right before netd is: from then on netd may know the tasks.
func (m *machine) syncing(sent []mesh.Attachment) {
	for _, a := range sent {
		if t := m.tasks[a.TaskID]; t != nil {
			t.inNet = true
		}
	}
}

// synced takes netd's answer to a declaration of sent.
func (m *machine) synced(now time.Time, sent []mesh.Attachment, failed map[string]error) {
	m.netKnown = true
	in := make(map[string]bool, len(sent))
	for _, a := range sent {
		in[a.TaskID] = true
	}
	for id, t := range m.tasks {
		if !in[id] {
			t.inNet, t.attached = false, false
		} else if err := failed[id]; err == nil {
			t.attached, t.tries, t.retryAt = true, 0, time.Time{}
		} else {
			t.attached = false
			t.tries++
			t.retryAt = now.Add(attachRetry)
			if t.tries >= attachTries {
				t.unfit = true
				m.end(t, now, schedulerpb.TaskState_TASK_STATE_FAILED, "network: "+err.Error())
			}
		}
	}
	m.stepAll(now)
}

// phases gives what rund should be told of each task; one that is not named
// is to be removed.
func (m *machine) phases(now time.Time) map[string]rundpb.Phase {
	out := make(map[string]rundpb.Phase, len(m.tasks))
	for id, t := range m.tasks {
		if p := m.phase(t, now); p != rundpb.Phase_PHASE_UNSPECIFIED {
			out[id] = p
		}
	}
	return out
}

func (m *machine) phase(t *task, now time.Time) rundpb.Phase {
	switch {
	case wanted(t) && t.actual == nil && (!m.probed || t.endpoint == nil), wanted(t) && t.actual.GetContainerId() == "" && !m.knows(t):
		return rundpb.Phase_PHASE_UNSPECIFIED // nothing is begun yet
	case wanted(t) && (t.started || t.connected() && m.mayStart(t, now)):
		return rundpb.Phase_PHASE_RUNNING
	case wanted(t):
		return rundpb.Phase_PHASE_CREATED
	case t.actual == nil:
		return rundpb.Phase_PHASE_UNSPECIFIED
	case finished(t.actual) && t.assignment == nil && !t.inNet && !t.nets.held:
		return rundpb.Phase_PHASE_UNSPECIFIED
	case now.Before(t.leaves()):
		return rundpb.Phase_PHASE_RUNNING
	default:
		// A finished task that is still assigned stays, for its logs.
		return stopped
	}
}

// declaration spells out phases for rund and remembers what was started.
func (m *machine) declaration(phases map[string]rundpb.Phase) []*rundpb.TaskDesired {
	out := make([]*rundpb.TaskDesired, 0, len(phases))
	for id, p := range phases {
		t := m.tasks[id]
		d := &rundpb.TaskDesired{TaskId: id, Phase: p}
		if a := t.assignment; a != nil {
			d.ServiceId, d.ServiceName, d.Slot, d.Spec, d.KillAt, d.Signed = a.ServiceId, a.ServiceName, a.Slot, a.Spec, a.KillAt, a.Signed
			d.Facts, d.Volumes = a.Facts, a.Volumes
		}
		if d.Spec == nil {
			d.Spec = t.actual.GetSpec()
		}
		// What the container was created with stays as it is.
		if d.Endpoint = t.actual.GetEndpoint(); d.Endpoint == nil && t.endpoint != nil {
			d.Endpoint = endpointTo(*t.endpoint, onOverlays(t.nets.last), d.GetSpec().GetContainer().GetDns().GetServers())
		}
		m.local(t, d)
		d.Relays = m.relays(t)
		t.relays = d.Relays
		t.started = t.started || p == rundpb.Phase_PHASE_RUNNING
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *rundpb.TaskDesired) int { return cmp.Compare(a.TaskId, b.TaskId) })
	return out
}

// wake is the next moment at which outputs change by time alone; zero: never.
func (m *machine) wake(now time.Time) time.Time {
	var at time.Time
	consider := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, t := range m.tasks {
		if wanted(t) && !t.started && t.assignment.NotBefore > 0 {
			consider(time.Unix(0, t.assignment.NotBefore))
		}
		if !t.unfit {
			consider(t.retryAt)
		}
		consider(t.leaves())
	}
	return at
}

// retryDue reports whether a live task that netd failed to attach should be
// asked for once more.
func (m *machine) retryDue(now time.Time) bool {
	for _, t := range m.tasks {
		if !t.retryAt.IsZero() && !t.attached && !now.Before(t.retryAt) && m.wantsNetwork(t, now) {
			return true
		}
	}
	return false
}

// holds is the digest of the assignments, once they were heard in full.
func (m *machine) holds() []byte {
	if !m.assigned {
		return nil
	}
	var set []*schedulerpb.Assignment
	for _, t := range m.tasks {
		if t.assignment != nil {
			set = append(set, t.assignment)
		}
	}
	d, err := schedulerpb.AssignmentsDigest(set)
	if err != nil {
		return nil // the manager says all of it again
	}
	return d
}

// has reports whether the task is assigned to this node.
func (m *machine) has(id string) bool {
	t := m.tasks[id]
	return t != nil && t.assignment != nil
}

// wanted: the manager wants it to run and nothing speaks against it.
func wanted(t *task) bool {
	return t.assignment != nil && t.assignment.Desired <= schedulerpb.TaskState_TASK_STATE_RUNNING && !t.ended
}

func finished(a *rundpb.TaskActual) bool {
	return a.GetPhase() == rundpb.Phase_PHASE_EXITED || a.GetPhase() == rundpb.Phase_PHASE_FAILED
}
