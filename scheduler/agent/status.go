package agent

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/docker/go-units"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/protobuf/proto"
)

func (m *machine) stepAll(now time.Time) {
	for _, t := range m.tasks {
		m.step(t, now)
	}
}

// step brings a task's account and status up to date after an input. Nothing
// is concluded before both sides were heard in full: a task that rund has not
// named yet may be running.
func (m *machine) step(t *task, now time.Time) {
	if t == nil || !m.ready() {
		return
	}
	m.judge(t, now)
	m.again = m.again || sandboxed(t) && !m.relayed(t)
	if t.actual != nil && finished(t.actual) || t.actual == nil && !wanted(t) {
		m.releaseEndpoint(t)
	}
	if t.assignment == nil {
		if t.actual == nil && !t.inNet && !t.nets.held {
			delete(m.tasks, t.id)
		}
		return
	}
	if t.ended {
		return
	}
	if t.assignment.Desired > schedulerpb.TaskState_TASK_STATE_RUNNING {
		if t.actual == nil || finished(t.actual) {
			m.end(t, now, schedulerpb.TaskState_TASK_STATE_SHUTDOWN, "")
			m.releaseEndpoint(t)
		}
		return
	}
	if t.actual == nil {
		m.begin(t, now)
		return
	}
	m.follow(t, now)
}

// releaseEndpoint gives back what a dead task held, once netd let go of it.
func (m *machine) releaseEndpoint(t *task) {
	if t.endpoint != nil && !t.inNet {
		m.network.Release(t.id)
		t.endpoint = nil
	}
}

// begin looks at a wanted task of which rund has nothing.
func (m *machine) begin(t *task, now time.Time) {
	switch {
	case t.started || t.assignment.Observed >= schedulerpb.TaskState_TASK_STATE_STARTING:
		m.end(t, now, schedulerpb.TaskState_TASK_STATE_FAILED,
			"the container is gone: the node restarted or somebody removed it")
		return
	case !m.probed:
		m.set(t, now, schedulerpb.TaskState_TASK_STATE_ACCEPTED, "waiting for the node's rund and netd")
		return
	case m.refusal != "":
		m.end(t, now, schedulerpb.TaskState_TASK_STATE_REJECTED, m.refusal)
		return
	}
	if t.networked() && !m.overlay {
		m.end(t, now, schedulerpb.TaskState_TASK_STATE_REJECTED, "this node cannot put tasks on networks")
		return
	}
	if len(t.assignment.Attachments) != places(t.assignment.Spec) {
		m.end(t, now, schedulerpb.TaskState_TASK_STATE_REJECTED, errPlaces.Error())
		return
	}
	if err := checkPorts(t.assignment.Spec); err != nil {
		m.end(t, now, schedulerpb.TaskState_TASK_STATE_REJECTED, err.Error())
		return
	}
	if m.reserve(t, now) {
		m.set(t, now, schedulerpb.TaskState_TASK_STATE_PREPARING, m.unknown(t))
	}
}

// reserve sees that the task has an endpoint, or ends it.
func (m *machine) reserve(t *task, now time.Time) bool {
	if t.endpoint != nil {
		return true
	}
	e, err := m.network.Reserve(t.id)
	if err != nil {
		m.end(t, now, schedulerpb.TaskState_TASK_STATE_REJECTED, err.Error())
		return false
	}
	t.endpoint = &e
	return true
}

// follow maps what rund says of a wanted task to its status.
func (m *machine) follow(t *task, now time.Time) {
	if t.endpoint == nil && !finished(t.actual) {
		if t.started {
			t.unfit = true
			m.end(t, now, schedulerpb.TaskState_TASK_STATE_FAILED, "the container has no recorded address")
			return
		}
		if !m.reserve(t, now) {
			return
		}
	}
	switch t.actual.Phase {
	case rundpb.Phase_PHASE_PREPARING:
		m.set(t, now, schedulerpb.TaskState_TASK_STATE_PREPARING, cmp.Or(t.waitsForFiles(), t.actual.Message))
	case rundpb.Phase_PHASE_CREATED:
		switch {
		case t.nets.bridge == bridgeNo && len(portsOf(t)) > 0:
			m.end(t, now, schedulerpb.TaskState_TASK_STATE_REJECTED, "it publishes ports of this node, and all of its networks are internal or made by plugins: drop the ports, or add a network that is neither")
		case t.networked() && !t.nets.ready:
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_PREPARING, t.nets.waits())
		case t.connected():
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_STARTING, "")
		case now.UnixNano() < t.assignment.NotBefore:
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_READY, "waiting for the restart delay")
		default:
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_READY, "")
		}
	case rundpb.Phase_PHASE_STARTING:
		m.set(t, now, schedulerpb.TaskState_TASK_STATE_STARTING, t.actual.Message)
	case rundpb.Phase_PHASE_RUNNING:
		// Running is said only of what also answers on its address, and passed
		// its healthcheck, if it has one.
		relaying := m.relaying(t)
		switch {
		case !t.connected() && t.status.GetState() == schedulerpb.TaskState_TASK_STATE_RUNNING:
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_RUNNING, t.waits())
		case !t.connected():
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_STARTING, t.waits())
		case relaying != "" && t.status.GetState() == schedulerpb.TaskState_TASK_STATE_RUNNING:
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_RUNNING, relaying)
		case relaying != "":
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_STARTING, relaying)
		case t.actual.Health == rundpb.Health_HEALTH_UNHEALTHY && t.status.GetState() == schedulerpb.TaskState_TASK_STATE_RUNNING:
			m.record(t, now, &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_RUNNING, Message: oneline.Text(t.actual.Message, maxText), Unhealthy: true})
		case t.actual.Health == rundpb.Health_HEALTH_STARTING, t.actual.Health == rundpb.Health_HEALTH_UNHEALTHY:
			// One that did run goes on being said to, until rund has ended it.
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_STARTING, cmp.Or(t.actual.Message, "waiting for its healthcheck to pass"))
		default:
			m.set(t, now, schedulerpb.TaskState_TASK_STATE_RUNNING, cmp.Or(t.nets.warning, t.staleFiles()))
		}
	case rundpb.Phase_PHASE_EXITED:
		switch {
		case t.actual.OomKilled:
			m.end(t, now, schedulerpb.TaskState_TASK_STATE_FAILED, outOfMemory(t))
		case t.actual.ExitCode == 0 && t.actual.Error == "":
			m.end(t, now, schedulerpb.TaskState_TASK_STATE_COMPLETE, "")
		default:
			text := t.actual.Error
			if text == "" {
				text = fmt.Sprintf("exit code %d", t.actual.ExitCode)
			}
			m.end(t, now, schedulerpb.TaskState_TASK_STATE_FAILED, text)
		}
	case rundpb.Phase_PHASE_FAILED:
		state := schedulerpb.TaskState_TASK_STATE_FAILED
		if t.actual.Rejected {
			state = schedulerpb.TaskState_TASK_STATE_REJECTED
		}
		m.end(t, now, state, t.actual.Error)
	}
}

func outOfMemory(t *task) string {
	limit := t.assignment.Spec.GetLimits().GetMemoryBytes()
	if limit <= 0 {
		return "out of memory: the node had no memory left"
	}
	return "out of memory: container exceeded its limit of " + units.BytesSize(float64(limit))
}

// set records a status unless the task has come further already.
func (m *machine) set(t *task, now time.Time, state schedulerpb.TaskState, message string) {
	m.record(t, now, &schedulerpb.TaskStatus{State: state, Message: oneline.Text(message, maxText)})
}

// end records the last status a task will have.
func (m *machine) end(t *task, now time.Time, state schedulerpb.TaskState, text string) {
	if t.ended {
		return
	}
	s := &schedulerpb.TaskStatus{State: state, Error: oneline.Text(text, maxText)}
	if a := t.actual; a.GetPhase() == rundpb.Phase_PHASE_EXITED {
		s.ExitCode, s.OomKilled = a.ExitCode, a.OomKilled
	}
	t.ended = true
	m.record(t, now, s)
}

func (m *machine) record(t *task, now time.Time, s *schedulerpb.TaskStatus) {
	s.ContainerId = t.actual.GetContainerId()
	s.Local = localOf(t.actual)
	s.Files = t.actual.GetFiles()
	if t.endpoint != nil {
		s.Address = t.endpoint.Address.Addr().String()
	}
	if old := t.status; old != nil {
		s.At = old.At
		s.ContainerId = cmp.Or(s.ContainerId, old.ContainerId)
		s.Address = cmp.Or(s.Address, old.Address)
		if s.State < old.State || proto.Equal(s, old) {
			return
		}
	}
	s.At = now.UnixNano()
	t.status, t.dirty = s, true
}

// portsOf lists what the task publishes on the node.
func portsOf(t *task) []mesh.Port {
	spec := t.assignment.GetSpec()
	if spec == nil {
		spec = t.actual.GetSpec()
	}
	var out []mesh.Port
	for _, p := range spec.GetPorts() {
		if p.Mode != taskpb.Port_MODE_HOST {
			continue
		}
		q := mesh.Port{Published: uint16(p.Published), Target: uint16(p.Target), UDP: p.Protocol == taskpb.Port_PROTOCOL_UDP}
		q.HostIP, _ = netip.ParseAddr(p.HostIp)
		out = append(out, q)
	}
	return out
}

// checkPorts refuses what portsOf could not express.
func checkPorts(spec *taskpb.TaskSpec) error {
	for _, p := range spec.GetPorts() {
		if p.Published == 0 || p.Published > 65535 || p.Target == 0 || p.Target > 65535 {
			return fmt.Errorf("published port %d:%d is out of range", p.Published, p.Target)
		}
		if p.Mode != taskpb.Port_MODE_HOST && p.Mode != taskpb.Port_MODE_INGRESS {
			return fmt.Errorf("port %d: this node does not know how to publish it", p.Published)
		}
		if p.ProxyProtocol && (p.Mode != taskpb.Port_MODE_INGRESS || p.Protocol == taskpb.Port_PROTOCOL_UDP) {
			return fmt.Errorf("port %d: the PROXY protocol is for TCP and mode ingress", p.Published)
		}
		if p.HostIp != "" {
			if _, err := netip.ParseAddr(p.HostIp); err != nil {
				return fmt.Errorf("port %d: host address %q is not an IP address", p.Published, p.HostIp)
			}
		}
	}
	return nil
}

// endpointTo is what a container is made with. On networks its name is its
// addresses there, and the node's named tells it names; elsewhere it asks its own
// servers, or the node's resolvers, and needs no daemon of ours for it.
func endpointTo(e mesh.Endpoint, networks []*taskpb.Attachment, servers []string) *rundpb.Endpoint {
	out := &rundpb.Endpoint{Mac: e.MAC.String(), Address: e.Address.String(), Gateway: e.Gateway.String()}
	for _, n := range networks {
		out.Hosts = append(out.Hosts, n.GetAddresses()...)
	}
	if len(networks) > 0 {
		out.Dns = []string{overlay.Resolver}
		return out
	}
	if len(servers) > 0 {
		out.Dns = servers
		return out
	}
	for _, d := range e.DNS {
		out.Dns = append(out.Dns, d.String())
	}
	return out
}

func endpointFrom(p *rundpb.Endpoint) (mesh.Endpoint, error) {
	mac, err := net.ParseMAC(p.Mac)
	if err != nil {
		return mesh.Endpoint{}, fmt.Errorf("recorded endpoint: %w", err)
	}
	addr, err := netip.ParsePrefix(p.Address)
	if err != nil {
		return mesh.Endpoint{}, fmt.Errorf("recorded endpoint: %w", err)
	}
	return mesh.Endpoint{MAC: mac, Address: addr}, nil
}

// reports takes up to n statuses that the manager has not heard.
func (m *machine) reports(n int) []*schedulerpb.TaskReport {
	var out []*schedulerpb.TaskReport
	for _, t := range m.tasks {
		if t.dirty && t.assignment != nil && len(out) < n {
			out = append(out, &schedulerpb.TaskReport{TaskId: t.id, Status: proto.CloneOf(t.status)})
			t.dirty = false
		}
	}
	return out
}

// reportAll makes every status unreported: a new session begins.
func (m *machine) reportAll() {
	for _, t := range m.tasks {
		t.dirty = t.status != nil
	}
}
