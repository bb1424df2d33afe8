// Package agenttest has the parts that tests of agents and of what speaks to
// them need: a rund, a netd and a manager that keep everything in memory, hold
// the other side to the contract and can be killed at any moment. Time is that
// of the caller, so they work under testing/synctest.
package agenttest

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Manager stands in for the managers: it serves sessions as the dispatcher
// does, from a set of assignments that the test changes.
type Manager struct {
	mu       sync.Mutex
	tasks    map[string]*schedulerpb.Assignment
	status   map[string]*schedulerpb.TaskStatus
	sessions map[*stream]struct{}
	down     bool
	mute     bool
	opened   int
	hello    *schedulerpb.NodeDescription
	backward []string
	logs     []*schedulerpb.LogChunk
	networks *schedulerpb.NetworkSet // nil: nothing is said of networks
}

// NewManager returns one that assigns nothing.
func NewManager() *Manager {
	return &Manager{
		tasks:    map[string]*schedulerpb.Assignment{},
		status:   map[string]*schedulerpb.TaskStatus{},
		sessions: map[*stream]struct{}{},
	}
}

// Dial is for agent.Config.
func (m *Manager) Dial(context.Context) (grpc.ClientConnInterface, io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, nil, errors.New("no manager is reachable")
	}
	return conn{m}, conn{m}, nil
}

// SetDown ends every session and refuses others, or accepts them again.
func (m *Manager) SetDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
	if down {
		for s := range m.sessions {
			s.end()
		}
	}
}

// SetMute makes the manager say nothing though its sessions stand.
func (m *Manager) SetMute(mute bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mute = mute
}

// Assign adds a task or changes what is desired of it.
func (m *Manager) Assign(a *schedulerpb.Assignment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a = proto.CloneOf(a)
	a.Observed = m.status[a.TaskId].GetState()
	m.tasks[a.TaskId] = a
	m.each(func(s *stream) { s.assign(&schedulerpb.Assignments{Update: []*schedulerpb.Assignment{a}}) })
}

// Remove takes a task away.
func (m *Manager) Remove(task string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.tasks, task)
	m.each(func(s *stream) { s.assign(&schedulerpb.Assignments{Remove: []string{task}}) })
}

// SetNetworks is what nodes are told of networks, complete, from now on.
func (m *Manager) SetNetworks(n *schedulerpb.NetworkSet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.networks = n
	m.each(func(s *stream) { s.tell(n) })
}

// Send passes any message to the agent.
func (m *Manager) Send(msg *schedulerpb.ManagerMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.each(func(s *stream) { s.push(msg) })
}

// Status is the furthest that was reported of a task, or nil.
func (m *Manager) Status(task string) *schedulerpb.TaskStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status[task]
}

// Hello is the agent's last description.
func (m *Manager) Hello() *schedulerpb.NodeDescription {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hello
}

// Logs are the chunks the agent sent.
func (m *Manager) Logs() []*schedulerpb.LogChunk {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logs
}

// Opened counts sessions.
func (m *Manager) Opened() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened
}

// Ended lists tasks whose end was reported twice and differently in one
// session.
func (m *Manager) Ended() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.backward
}

func (m *Manager) each(f func(*stream)) {
	for s := range m.sessions {
		f(s)
	}
}

func (m *Manager) hear(s *stream, msg *schedulerpb.AgentMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch v := msg.Message.(type) {
	case *schedulerpb.AgentMessage_Hello:
		m.hello = v.Hello.Description
		if !s.greeted {
			s.greeted = true
			all := &schedulerpb.Assignments{Complete: true}
			for _, a := range m.tasks {
				a = proto.CloneOf(a)
				a.Observed = m.status[a.TaskId].GetState()
				if a.Observed > schedulerpb.TaskState_TASK_STATE_RUNNING {
					a.Desired = max(a.Desired, schedulerpb.TaskState_TASK_STATE_SHUTDOWN)
				}
				all.Update = append(all.Update, a)
			}
			s.assign(all)
			m.sessions[s] = struct{}{}
			s.tell(m.networks)
		}
	case *schedulerpb.AgentMessage_Heartbeat:
		s.push(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Settings{
			Settings: &schedulerpb.Settings{HeartbeatNs: 5e9}}})
	case *schedulerpb.AgentMessage_Log:
		m.logs = append(m.logs, v.Log)
	case *schedulerpb.AgentMessage_Status:
		for _, r := range v.Status.Reports {
			old := m.status[r.TaskId]
			if m.tasks[r.TaskId] == nil || r.Status.State < old.GetState() {
				continue
			}
			if old.GetState() == r.Status.State && old.GetState() > schedulerpb.TaskState_TASK_STATE_RUNNING {
				continue
			}
			if old.GetState() > schedulerpb.TaskState_TASK_STATE_RUNNING && s.reported[r.TaskId] {
				m.backward = append(m.backward, r.TaskId)
			}
			s.reported[r.TaskId] = true
			m.status[r.TaskId] = r.Status
		}
	}
}

type conn struct{ m *Manager }

func (c conn) Close() error { return nil }

func (c conn) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return errors.New("agenttest: only sessions are served")
}

func (c conn) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.opened++
	return &stream{m: c.m, ctx: ctx, ready: make(chan struct{}, 1), gone: make(chan struct{}), reported: map[string]bool{}}, nil
}

// stream is the agent's end of a session. The manager's mu guards sequence,
// greeted and reported; push is called with it held.
type stream struct {
	m        *Manager
	ctx      context.Context
	sequence uint64
	told     uint64 // sequence of networks
	greeted  bool
	reported map[string]bool
	ready    chan struct{}
	gone     chan struct{}

	mu    sync.Mutex
	queue []*schedulerpb.ManagerMessage
	over  bool
}

func (s *stream) assign(a *schedulerpb.Assignments) {
	s.sequence++
	a.Sequence = s.sequence
	s.push(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Assignments{Assignments: a}})
}

func (s *stream) tell(n *schedulerpb.NetworkSet) {
	if n == nil {
		return
	}
	n = proto.CloneOf(n)
	s.told++
	n.Complete, n.Sequence = true, s.told
	s.push(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Networks{Networks: n}})
}

func (s *stream) push(m *schedulerpb.ManagerMessage) {
	if s.m.mute {
		return
	}
	s.mu.Lock()
	s.queue = append(s.queue, proto.CloneOf(m))
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *stream) end() {
	delete(s.m.sessions, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		close(s.gone)
	}
}

func (s *stream) Header() (metadata.MD, error) { return nil, nil }
func (s *stream) Trailer() metadata.MD         { return nil }
func (s *stream) CloseSend() error             { return nil }
func (s *stream) Context() context.Context     { return s.ctx }

func (s *stream) SendMsg(m any) error {
	select {
	case <-s.gone:
		return io.EOF
	case <-s.ctx.Done():
		return io.EOF
	default:
	}
	s.m.hear(s, proto.CloneOf(m.(*schedulerpb.AgentMessage)))
	return nil
}

func (s *stream) RecvMsg(m any) error {
	for {
		s.mu.Lock()
		if len(s.queue) > 0 && !s.over {
			proto.Merge(m.(*schedulerpb.ManagerMessage), s.queue[0])
			s.queue = s.queue[1:]
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-s.ready:
		case <-s.gone:
			return errors.New("the session was cut")
		case <-s.ctx.Done():
			s.m.mu.Lock()
			s.end()
			s.m.mu.Unlock()
			return s.ctx.Err()
		}
	}
}
