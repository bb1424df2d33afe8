package events

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedspec "github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

func watched() []raftstore.Registered {
	return []raftstore.Registered{pkistore.Nodes, pkistore.Cluster, pkistore.Tokens, pkistore.DeniedIdentities, pkistore.BreakGlasses, pkistore.AuditWitnesses, pkistore.AuditWitnessed, schedstore.Nodes, schedstore.Services, schedstore.ServiceRuns, schedstore.Tasks, schedstore.PlacementConfigs, autolockstore.Slots, autolockstore.Releases, secretstore.Configs, secretstore.Secrets, meshstore.Networks, meshstore.Policies, meshstore.Nodes, schedstore.Volumes}
}

// translate makes events of changes. r is from after them: it is only asked for
// names.
func translate(r *raftstore.ReadTx, changes []raftstore.Event) (out []*controlpb.Event) {
	for _, c := range changes {
		var e *controlpb.Event
		var meta *raftstorepb.Meta
		if old, now, ok := schedstore.Tasks.Event(c); ok {
			e, meta = task(r, old, now), now.GetMeta()
		} else if old, now, ok := schedstore.Services.Event(c); ok {
			e, meta = service(old, now), now.GetMeta()
		} else if old, now, ok := schedstore.ServiceRuns.Event(c); ok {
			e, meta = run(r, old, now), now.GetMeta()
		} else if old, now, ok := schedstore.Nodes.Event(c); ok {
			e, meta = machine(r, old, now), now.GetMeta()
		} else if old, now, ok := pkistore.Nodes.Event(c); ok {
			e, meta = member(old, now), now.GetMeta()
		} else if old, now, ok := pkistore.Cluster.Event(c); ok && old != nil && now != nil {
			if e, meta = admission(old.GetAdmission(), now.GetAdmission()), now.GetMeta(); e == nil {
				e = authority(r, old, now)
			}
		} else if old, now, ok := pkistore.DeniedIdentities.Event(c); ok {
			e, meta = identity(old, now), now.GetMeta()
		} else if old, now, ok := pkistore.BreakGlasses.Event(c); ok {
			e, meta = breakGlass(r, old, now), now.GetMeta()
		} else if old, now, ok := pkistore.AuditWitnesses.Event(c); ok {
			e, meta = witness(old, now), now.GetMeta()
		} else if old, now, ok := pkistore.AuditWitnessed.Event(c); ok {
			e, meta = witnessed(old, now), now.GetMeta()
		} else if old, now, ok := pkistore.Tokens.Event(c); ok {
			e, meta = token(old, now), now.GetMeta()
		} else if old, now, ok := secretstore.Configs.Event(c); ok {
			e, meta = config(old, now), now.GetMeta()
		} else if old, now, ok := secretstore.Secrets.Event(c); ok {
			e, meta = secret(old, now), now.GetMeta()
		} else if old, now, ok := meshstore.Networks.Event(c); ok {
			e, meta = network(old, now), now.GetMeta()
		} else if old, now, ok := schedstore.Volumes.Event(c); ok {
			e, meta = volume(old, now), now.GetMeta()
		} else if old, now, ok := meshstore.Policies.Event(c); ok {
			e, meta = policy(old, now), now.GetMeta()
		} else if old, now, ok := meshstore.Nodes.Event(c); ok {
			e, meta = meshKey(r, old, now), now.GetMeta()
		} else if old, now, ok := autolockstore.Slots.Event(c); ok && old != nil && now != nil {
			e, meta = slots(old.GetSet(), now.GetSet()), now.GetMeta()
		} else if old, now, ok := autolockstore.Releases.Event(c); ok && now != nil {
			e, meta = release(r, old, now), now.GetMeta()
		} else if _, now, ok := schedstore.PlacementConfigs.Event(c); ok && now != nil {
			e, meta = placement(now), now.GetMeta()
		}
		if e == nil {
			continue
		}
		if e.At = meta.GetUpdatedAt(); e.At == 0 { // removed
			e.At = r.Clock().UnixNano()
		}
		out = append(out, e)
	}
	return out
}

// described are the specs of what has labels.
type described interface {
	GetName() string
	GetLabels() map[string]string
}

// labelled is an event of what has labels: that it is of a stack is said with it.
func labelled(kind, action, id string, spec described) *controlpb.Event {
	e := event(kind, action, id, spec.GetName())
	set(e, "stack", spec.GetLabels()[schedspec.StackLabel])
	return e
}

func event(kind, action, id, name string) *controlpb.Event {
	return &controlpb.Event{Type: kind, Action: action, Id: id, Name: name, Attributes: map[string]string{}}
}

// breakGlass tells that local root of a manager made itself security-admin, ended that,
// and that somebody acknowledged it.
func breakGlass(r raftstore.Reader, old, now *pkipb.BreakGlass) *controlpb.Event {
	b, action := now, "begin"
	switch {
	case now == nil:
		b, action = old, "acknowledge"
	case old.GetTimes() == now.GetTimes():
		action = "end"
	}
	n, _ := pkistore.Nodes.Get(r, b.GetId())
	e := event("break-glass", action, b.GetId(), cmp.Or(n.GetName(), b.GetId()))
	set(e, "reason", b.GetReason())
	set(e, "until", time.Unix(0, b.GetUntil()).UTC().Format(time.RFC3339))
	return e
}

// release tells of a manager that was opened by the others, and of one that was refused
// although it showed its certificate and a ticket.
func release(r raftstore.Reader, old, now *autolockpb.Release) *controlpb.Event {
	node, _ := pkistore.Nodes.Get(r, now.GetId())
	e := event("unlock-key", "release", now.GetId(), node.GetName())
	e.Attributes["address"] = now.GetAddress()
	if now.GetRefused() != "" && old.GetGeneration() == now.GetGeneration() {
		e.Action, e.Attributes["address"] = "release-refused", now.GetRefused()
		set(e, "reason", now.GetReason())
	}
	return e
}

// slots tells what became of the unlock slots.
func slots(old, now *keydpb.SlotSet) *controlpb.Event {
	lacks := func(set *keydpb.SlotSet, id string) bool {
		return !slices.ContainsFunc(set.GetSlots(), func(s *keydpb.Slot) bool { return s.GetId() == id })
	}
	var added, removed []string
	for _, s := range now.GetSlots() {
		if lacks(old, s.GetId()) {
			added = append(added, autolock.SlotName(s))
		}
	}
	for _, s := range old.GetSlots() {
		if lacks(now, s.GetId()) {
			removed = append(removed, autolock.SlotName(s))
		}
	}
	e := event("unlock-key", "rotate", "", "")
	was, is := autolock.FileSlot(old) != nil, autolock.FileSlot(now) != nil
	switch {
	case is && !was:
		e.Action = "autolock-off"
	case was && !is:
		e.Action = "autolock-on"
	case len(added) > 0 && len(removed) == 0:
		e.Action, e.Name = "add", strings.Join(added, ", ")
	case len(removed) > 0 && len(added) == 0:
		e.Action, e.Name = "remove", strings.Join(removed, ", ")
	default:
		e.Name = strings.Join(added, ", ")
	}
	e.Attributes["epoch"] = fmt.Sprint(now.GetEpoch())
	return e
}

// task tells of new tasks, of each state that a node reported, and of tasks
// that are to stop. A task's way through the states before it starts is its own
// affair.
func task(r raftstore.Reader, old, now *schedulerpb.Task) *controlpb.Event {
	action := ""
	if now == nil {
		if old.GetNodeId() == "" || !schedstore.Live(old) {
			return nil // forgotten; its end was told
		}
		now, action = old, schedstore.StateName(schedstore.Shutdown) // forgotten as it ended
	}
	switch state := schedstore.State(now); {
	case action != "":
	case old == nil && !schedstore.Wanted(now):
		return nil
	case old == nil:
		action = "create"
	case state != schedstore.State(old):
		if schedstore.Live(now) && state != schedstore.Running {
			return nil
		}
		action = schedstore.StateName(state)
	case old.GetDesired() != now.GetDesired() && now.GetDesired() > schedstore.Running && schedstore.Live(now):
		action = "stop"
		if old.GetPreemptedBy() != now.GetPreemptedBy() {
			action = "preempt"
		}
	case old.GetMakesWayFor() == "" && now.GetMakesWayFor() != "":
		action = "move"
	default:
		return nil
	}
	svc, _ := schedstore.Services.Get(r, now.GetServiceId())
	e := event("task", action, now.GetId(), schedstore.TaskName(svc.GetSpec().GetName(), now))
	set(e, "service", svc.GetSpec().GetName())
	set(e, "stack", svc.GetSpec().GetLabels()[schedspec.StackLabel])
	node, _ := pkistore.Nodes.Get(r, now.GetNodeId())
	set(e, "node", node.GetName())
	switch action { // the other is told by its id: it may be of a service that not everybody sees
	case "preempt":
		set(e, "for", now.GetPreemptedBy())
	case "move":
		set(e, "for", now.GetMakesWayFor())
	}
	st := now.GetStatus()
	if !schedstore.Live(now) {
		set(e, "error", st.GetError())
		// Nobody knows how a container ended that was lost with its node.
		if s := schedstore.State(now); st.GetContainerId() != "" && (s == schedstore.Failed || s == schedstore.Complete) {
			set(e, "exit-code", fmt.Sprint(st.GetExitCode()))
		}
		if st.GetOomKilled() {
			set(e, "oom-killed", "true")
		}
	}
	return e
}

// machine tells of a node as the scheduler sees it.
func machine(r raftstore.Reader, old, now *schedulerpb.Node) *controlpb.Event {
	if old == nil || now == nil {
		return nil // the member's record tells
	}
	m, _ := pkistore.Nodes.Get(r, now.GetId())
	switch {
	case old.GetAddress() != now.GetAddress() && old.GetAddress() != "":
		e := event("node", "address", now.GetId(), m.GetName())
		set(e, "address", now.GetAddress())
		set(e, "was", old.GetAddress())
		// Maybe somebody has its key, or leads it by a host of his.
		set(e, "replaced", now.GetAddressBefore())
		if others := schedstore.NodesAt(r, now.GetAddress(), now.GetId()); len(others) > 0 {
			other, _ := pkistore.Nodes.Get(r, others[0])
			set(e, "also", other.GetName())
		}
		if old.GetState() != now.GetState() {
			set(e, "state", strings.ToLower(strings.TrimPrefix(now.GetState().String(), "NODE_STATE_")))
		}
		return e
	case old.GetState() != now.GetState():
		action := map[schedulerpb.NodeState]string{
			schedulerpb.NodeState_NODE_STATE_READY:     "ready",
			schedulerpb.NodeState_NODE_STATE_DOWN:      "down",
			schedulerpb.NodeState_NODE_STATE_NOT_READY: "not-ready",
		}[now.GetState()]
		if action == "" {
			return nil
		}
		e := event("node", action, now.GetId(), m.GetName())
		set(e, "message", now.GetMessage())
		return e
	case old.GetAvailability() != now.GetAvailability() || old.GetAutoDrained() != now.GetAutoDrained():
		e := event("node", "update", now.GetId(), m.GetName())
		set(e, "availability", availability(schedstore.Effective(now)))
		return e
	case !maps.Equal(old.GetLabels(), now.GetLabels()):
		return event("node", "update", now.GetId(), m.GetName())
	case schedstore.Meddled(now) != "" && schedstore.Meddled(now) != schedstore.Meddled(old):
		e := event("node", "rules-changed", now.GetId(), m.GetName())
		set(e, "message", schedstore.Meddled(now))
		return e
	}
	return nil
}

// meshKey tells that an operator asked for another WireGuard key.
func meshKey(r raftstore.Reader, old, now *meshpb.MeshNode) *controlpb.Event {
	if now.GetKeyAsked() == old.GetKeyAsked() || now == nil {
		return nil
	}
	m, _ := pkistore.Nodes.Get(r, now.GetId())
	return event("node", "rotate-mesh-key", now.GetId(), m.GetName())
}

func availability(a schedulerpb.Availability) string {
	return map[schedulerpb.Availability]string{schedstore.Active: "active", schedstore.Pause: "pause", schedstore.Drain: "drain"}[a]
}

// member tells of a node's identity.
func member(old, now *pkipb.Node) *controlpb.Event {
	switch {
	case now == nil:
		return nil
	case old == nil:
		e := event("node", "join", now.GetId(), now.GetName())
		set(e, "role", profile.RoleName(now.GetRole()))
		set(e, "token", now.GetTokenId())
		return e
	case !old.GetDenied() && now.GetDenied():
		if now.GetRevoked() {
			return event("node", "revoke", now.GetId(), now.GetName())
		}
		return event("node", "remove", now.GetId(), now.GetName())
	case old.GetRevoked() && !now.GetRevoked():
		return event("node", "remove", now.GetId(), now.GetName())
	case old.GetRole() != now.GetRole():
		e := event("node", "role", now.GetId(), now.GetName())
		set(e, "role", profile.RoleName(now.GetRole()))
		return e
	case !bytes.Equal(old.GetLeafSpki(), now.GetLeafSpki()):
		return event("node", "renew", now.GetId(), now.GetName())
	}
	return nil
}

func set(e *controlpb.Event, key, value string) {
	if value != "" {
		e.Attributes[key] = value
	}
}
