package agent

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// onNetworks is what the machine knows of a task on networks.
type onNetworks struct {
	// last is its last assignment: what it has on networks is known while it
	// stops, too. nil: it never had one in this process.
	last *schedulerpb.Assignment

	described bool // somebody said which networks there are
	bridge    bridging
	ready     bool   // its places on networks and its names are as declared
	waiting   string // for what it is not; may be empty
	warning   string // which of its published ports this node does not answer on, and why
	held      bool   // netd may have it on a network

	judged bool      // serving was looked at
	served bool      // names and virtual addresses lead to it
	leftAt time.Time // when they ceased to
}

// bridging is whether a task is on the node's bridge as well: unless all of its
// networks are internal. It is decided once: networks do not change.
type bridging uint8

const (
	bridgeUnknown bridging = iota
	bridgeYes
	bridgeNo
)

func (n *onNetworks) waits() string { return cmp.Or(n.waiting, "waiting for its networks") }

// networked reports whether others are to come to the task: it is on networks, or
// has published ports that every node answers on.
func (t *task) networked() bool {
	return t.onOverlays() || len(t.nets.last.GetAttachments()) > 0 || publishes(t.nets.last.GetSpec()) || publishes(t.actual.GetSpec())
}

// onOverlays reports whether the task is to be on networks of its own.
func (t *task) onOverlays() bool {
	return len(t.nets.last.GetSpec().GetNetworks()) > 0 || len(t.actual.GetSpec().GetNetworks()) > 0
}

// onBridge reports whether the task is to be on the node's bridge.
func (t *task) onBridge() bool { return !t.onOverlays() || t.nets.bridge == bridgeYes }

// connected reports whether the task is wherever it should be.
func (t *task) connected() bool {
	return (!t.networked() || t.nets.ready) && (t.onBridge() && t.attached || t.onOverlays() && t.nets.bridge == bridgeNo)
}

// bridged reports whether the task has its interface on the node's bridge, or is to
// have none. One that was started, by an earlier agent perhaps, had it then.
func (t *task) bridged() bool {
	return t.started || t.onBridge() && t.attached || t.onOverlays() && t.nets.bridge == bridgeNo
}

func (t *task) waits() string {
	if t.networked() && !t.nets.ready {
		return t.nets.waits()
	}
	return "waiting for its network"
}

// sandboxed reports whether the task has a sandbox and may use it.
func sandboxed(t *task) bool {
	a := t.actual
	return a != nil && a.Netns != "" && a.Phase >= rundpb.Phase_PHASE_CREATED && !finished(a)
}

// sound: its process runs, and its healthcheck says nothing against it.
func sound(a *rundpb.TaskActual) bool {
	return a.GetPhase() == rundpb.Phase_PHASE_RUNNING &&
		(a.Health == rundpb.Health_HEALTH_UNSPECIFIED || a.Health == rundpb.Health_HEALTH_HEALTHY)
}

// sandboxes are all that there are, and whether what runs in them is sound.
func (m *machine) sandboxes() map[string]bool {
	out := map[string]bool{}
	for id, t := range m.tasks {
		if sandboxed(t) {
			out[id] = sound(t.actual)
		}
	}
	return out
}

// judge decides whether names and virtual addresses lead to a task. One that
// they led to stays so while its networks are mended.
func (m *machine) judge(t *task, now time.Time) {
	n := &t.nets
	if t.actual == nil || !t.networked() {
		return
	}
	if !n.judged { // an earlier agent may have had it serve
		n.judged, n.served = true, sound(t.actual)
	}
	serves := sound(t.actual) && m.relaying(t) == "" && wanted(t) && t.assignment.Desired == schedulerpb.TaskState_TASK_STATE_RUNNING && (n.served || t.connected())
	if n.served && !serves {
		n.leftAt = now
	}
	n.served = serves
}

// leaves is when a task that is to end may be: not before others ceased to come
// to it, unless there is no time for that. Zero: at once.
func (t *task) leaves() time.Time {
	phase := t.actual.GetPhase()
	if t.nets.leftAt.IsZero() || wanted(t) || phase != rundpb.Phase_PHASE_STARTING && phase != rundpb.Phase_PHASE_RUNNING {
		return time.Time{}
	}
	hold := withdrawTime
	if d := time.Duration(t.nets.last.GetWithdrawNs()); d > 0 {
		hold = min(d, maxWithdraw)
	}
	at := t.nets.leftAt.Add(hold)
	if kill := t.nets.last.GetKillAt(); kill != 0 && time.Unix(0, kill).Before(at) {
		return time.Unix(0, kill)
	}
	return at
}

// onNetworks gives the tasks that are on networks and have a sandbox.
func (m *machine) onNetworks() []overlay.Task {
	var out []overlay.Task
	for _, t := range m.tasks {
		a := t.nets.last
		if !sandboxed(t) || len(a.GetAttachments()) == 0 {
			continue
		}
		o := overlay.Task{ID: t.id, ServiceID: a.ServiceId, ServiceName: a.ServiceName, Slot: a.Slot, Netns: t.actual.Netns, Hostname: t.id[:12], Serving: t.nets.served, Bridged: t.bridged()}
		if h := t.actual.GetHostname(); h != "" {
			o.Hostname = h
		}
		own := t.actual.GetSpec().GetContainer().GetDns()
		o.Resolvers, o.Search = own.GetServers(), own.GetSearch()
		for _, at := range a.Attachments {
			addrs, _ := overlay.ParseAddrs(at.Addresses) // assign has refused what does not parse
			o.Attachments = append(o.Attachments, attached(t.actual, overlay.Attachment{Network: at.NetworkId, Addrs: addrs}))
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b overlay.Task) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// placing is told right before the networks are: from then on netd may have the tasks.
func (m *machine) placing(tasks []overlay.Task) {
	for _, o := range tasks {
		m.tasks[o.ID].nets.held = true
	}
}

// networked takes how far tasks are on their networks; settled: netd has what it
// should, and nothing of a former agent.
func (m *machine) networked(now time.Time, states map[string]overlay.State, settled bool) {
	m.settled = settled
	for id, t := range m.tasks {
		s, ok := states[id]
		n := &t.nets
		n.held, n.ready, n.waiting, n.warning = s.Held || !settled && t.networked(), ok && s.Waiting == "", s.Waiting, s.Unpublished
		n.described = n.described || s.Described
		switch {
		case n.bridge != bridgeUnknown || !s.Known:
		case s.Internal:
			n.bridge = bridgeNo
		default:
			n.bridge = bridgeYes
		}
	}
	m.stepAll(now)
}

// described reports whether enough is known of networks to tell netd who is on
// the bridge: before, those that are both there and on a network would be taken
// off it.
func (m *machine) described() bool {
	for _, t := range m.tasks {
		if t.started && sandboxed(t) && t.onOverlays() && len(t.nets.last.GetAttachments()) > 0 && !t.nets.described {
			return false
		}
	}
	return true
}

// checkAttachments refuses places on networks that cannot be.
func checkAttachments(a *schedulerpb.Assignment) error {
	seen := map[string]bool{}
	for _, at := range a.Attachments {
		if _, err := overlay.ParseAddrs(at.GetAddresses()); err != nil {
			return err
		}
		if !ident.Valid(at.GetNetworkId()) || seen[at.GetNetworkId()] {
			return errors.New("it is on a network without an id, or twice")
		}
		seen[at.GetNetworkId()] = true
	}
	return nil
}
