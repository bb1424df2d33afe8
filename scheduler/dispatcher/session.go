package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

type sessionStream = grpc.BidiStreamingServer[schedulerpb.AgentMessage, schedulerpb.ManagerMessage]

// session is one node's stream. write's goroutine is the only sender, read's
// the only receiver.
type session struct {
	d       *Dispatcher
	stream  sessionStream
	node    string
	address string
	since   time.Time
	applied atomic.Uint64
	clock   atomic.Pointer[schedulerpb.ClockOffset] // nil: not measured yet
	trusts  atomic.Pointer[schedulerpb.TrustReport] // nil: not said yet

	ctx     context.Context
	cancel  context.CancelCauseFunc
	release func() bool   // of the term that would cancel it
	hello   chan struct{} // closed by read: registered

	kick chan struct{} // capacity 1: there is something to send

	mu       sync.Mutex // guards the following
	messages []*schedulerpb.ManagerMessage
	ack      bool
	acked    int64               // Heartbeat.sent of the last
	all      bool                // look at every task
	dirty    map[string]struct{} // tasks to look at
	views    bool                // look at networks

	plan     plan            // write's
	networks *netview.Cursor // write's
	left     int             // write's: networks that were left out
	// policy is the version of the image policy that the node was told, 0 for none;
	// policyTold that it was. write's.
	policy     uint64
	policyTold bool
	volumes    []string // write's: that the node was told to delete, sorted

	quota struct{ messages, chunks, reports, repeats, logs, hellos, refusals bucket } // read's
}

func newSession(d *Dispatcher, stream sessionStream, node, address string) *session {
	now := time.Now()
	s := &session{
		d: d, stream: stream, node: node, address: address, since: now,
		hello:    make(chan struct{}),
		kick:     make(chan struct{}, 1),
		all:      true,
		views:    true,
		networks: netview.NewCursor(node),
		plan:     plan{node: node, cluster: d.config.ClusterID, sent: map[string]told{}},
	}
	s.ctx, s.cancel = context.WithCancelCause(stream.Context())
	s.quota.messages = newBucket(messageRate, messageBurst, now)
	s.quota.chunks = newBucket(chunkRate, chunkBurst, now)
	s.quota.reports = newBucket(reportRate, reportBurst, now)
	s.quota.repeats = newBucket(repeatRate, repeatBurst, now)
	s.quota.logs = newBucket(logRate, logBurst, now)
	s.quota.hellos = newBucket(helloRate, helloBurst, now)
	s.quota.refusals = newBucket(refusalLogRate, refusalLogBurst, now)
	return s
}

// serve runs the session to its end. Neither the reader nor the writer, which a
// node stops by reading nothing, can be interrupted other than by returning from
// here; Run waits for them.
func (s *session) serve() error {
	slow := time.AfterFunc(helloTimeout, func() {
		select {
		case <-s.hello:
		default:
			s.cancel(errHello)
		}
	})
	defer slow.Stop()
	s.d.sessions.Go(func() { s.cancel(s.read()) })
	select {
	case <-s.hello:
	case <-s.ctx.Done():
		return s.why()
	}
	s.d.sessions.Go(func() { s.cancel(s.write()) })
	<-s.ctx.Done()
	return s.why()
}

// write sends what there is until the session ends, and says why it did.
func (s *session) write() error {
	for {
		if err := s.flush(); err != nil {
			return err
		}
		select {
		case <-s.kick:
		case <-s.ctx.Done():
			return s.why()
		}
	}
}

func (s *session) why() error {
	err := context.Cause(s.ctx)
	if errors.Is(err, io.EOF) {
		return nil // the node said goodbye
	}
	return err
}

// flush sends what is waiting.
func (s *session) flush() error {
	s.mu.Lock()
	messages, ack, acked, all, dirty, views := s.messages, s.ack, s.acked, s.all, s.dirty, s.views
	s.messages, s.ack, s.all, s.dirty, s.views = nil, false, false, nil, false
	s.mu.Unlock()
	if ack {
		// Anything at all tells the node that somebody listens.
		if err := s.stream.Send(settings(s.d.config.Heartbeat, acked)); err != nil {
			return err
		}
	}
	for _, m := range messages {
		if err := s.stream.Send(m); err != nil {
			return err
		}
	}
	if !all && len(dirty) == 0 && !views {
		return nil
	}
	if all {
		// A new leader gets every session at once: what each costs is made a few
		// at a time, so that neither memory nor heartbeats suffer.
		select {
		case s.d.complete <- struct{}{}:
		case <-s.ctx.Done():
			return s.why()
		}
	}
	sets, err := s.plan.next(s.d.config.Store, s.d.config.Logger, all, dirty)
	// Looked at later than the tasks, and said earlier.
	networks := s.nextNetworks()
	if all {
		<-s.d.complete
	}
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	policy, err := s.nextImagePolicy() // as the networks
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if policy != nil {
		if err := s.stream.Send(policy); err != nil {
			return err
		}
	}
	gone, err := s.nextVolumes()
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if gone != nil {
		if err := s.stream.Send(gone); err != nil {
			return err
		}
	}
	for _, m := range networks {
		if err := s.stream.Send(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Networks{Networks: m}}); err != nil {
			return err
		}
	}
	for _, a := range sets {
		if err := s.stream.Send(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Assignments{Assignments: a}}); err != nil {
			return err
		}
	}
	return nil
}

// nextNetworks is what changed of networks.
func (s *session) nextNetworks() []*schedulerpb.NetworkSet {
	ix := s.d.networks.Load()
	if ix == nil {
		return nil // the term is over
	}
	out := s.networks.Next(ix)
	if n := s.networks.Left; n != s.left {
		s.left = n
		s.d.config.Logger.Error("a node is on more networks than it is told of, tasks there do not start: move tasks to other nodes", "node", s.node, "left_out", n)
	}
	return out
}

// lookNetworks says that something changed on the node's networks, or of the image
// policy.
func (s *session) lookNetworks() {
	s.mu.Lock()
	s.views = true
	s.mu.Unlock()
	s.wake()
}

// look marks tasks whose assignment may have changed; none: all of them.
func (s *session) look(tasks ...string) {
	s.mu.Lock()
	s.all = s.all || len(tasks) == 0
	if s.dirty == nil {
		s.dirty = make(map[string]struct{}, len(tasks))
	}
	for _, id := range tasks {
		s.dirty[id] = struct{}{}
	}
	s.mu.Unlock()
	s.wake()
}

// control queues a message that stands beside assignments. A node that takes
// none of them loses its session.
func (s *session) control(m *schedulerpb.ManagerMessage) {
	s.mu.Lock()
	s.messages = append(s.messages, m)
	full := len(s.messages) > maxControl
	s.mu.Unlock()
	if full {
		s.cancel(status.Error(codes.ResourceExhausted, "the node does not read its session"))
	}
	s.wake()
}

func (s *session) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// read hears the node until the stream ends and says why it did.
func (s *session) read() error {
	registered := false
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		// A chunk of output may be one line: it has a quota of its own.
		quota := &s.quota.messages
		if m.GetLog() != nil {
			quota = &s.quota.chunks
		}
		if err := quota.wait(s.ctx, 1+float64(proto.Size(m))/quotaBytes); err != nil {
			return err
		}
		if hello, ok := m.Message.(*schedulerpb.AgentMessage_Hello); ok {
			if err := s.greet(hello.Hello, !registered); err != nil {
				return err
			}
			if !registered {
				registered = true
				close(s.hello)
			}
			continue
		}
		if !registered {
			return status.Error(codes.InvalidArgument, "a session begins with hello")
		}
		s.d.heard(s)
		switch v := m.Message.(type) {
		case *schedulerpb.AgentMessage_Heartbeat:
			if err := checkClock(v.Heartbeat.Clock); err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			s.applied.Store(v.Heartbeat.AppliedIndex)
			s.clock.Store(v.Heartbeat.Clock)
			s.mu.Lock()
			s.ack, s.acked = true, v.Heartbeat.Sent
			s.mu.Unlock()
			s.wake()
		case *schedulerpb.AgentMessage_Status:
			if err := s.report(v.Status); err != nil {
				return err
			}
		case *schedulerpb.AgentMessage_Log:
			if err := s.logChunk(v.Log); err != nil {
				return err
			}
		case *schedulerpb.AgentMessage_Mesh:
			s.answeredMesh(v.Mesh)
		case *schedulerpb.AgentMessage_Check:
			s.answeredCheck(v.Check)
		case *schedulerpb.AgentMessage_Trust:
			if err := checkTrust(v.Trust); err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			s.trusts.Store(v.Trust)
			if s.d.config.Trusted != nil {
				s.d.config.Trusted(s.node)
			}
		default:
			return status.Error(codes.InvalidArgument, "the node sent a message that this manager does not know")
		}
	}
}

func (s *session) greet(h *schedulerpb.Hello, first bool) error {
	if err := checkDescription(h.GetDescription()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if first {
		if n := len(h.Holds); n != 0 && n != schedulerpb.DigestSize {
			return status.Errorf(codes.InvalidArgument, "a digest of assignments has %d bytes, not %d", schedulerpb.DigestSize, n)
		}
		s.plan.holds = h.Holds // write begins with it when hello is closed
		return s.d.register(s, h.Description)
	}
	if err := s.quota.hellos.wait(s.ctx, 1); err != nil {
		return err
	}
	s.d.redescribe(s, h.Description)
	return nil
}

// report takes a batch of statuses. A report of a task that is not this node's
// is refused by itself; a malformed batch ends the session.
func (s *session) report(b *schedulerpb.StatusBatch) error {
	if len(b.Reports) > maxBatchReports {
		return status.Errorf(codes.InvalidArgument, "a batch of %d reports: at most %d are accepted", len(b.Reports), maxBatchReports)
	}
	if err := s.quota.reports.wait(s.ctx, float64(len(b.Reports))); err != nil {
		return err
	}
	now := time.Now()
	clean := make([]*schedulerpb.TaskReport, 0, len(b.Reports))
	for _, r := range b.Reports {
		st, err := cleanStatus(r.Status, now)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "report on task %.64q: %v", r.TaskId, err)
		}
		clean = append(clean, &schedulerpb.TaskReport{TaskId: r.TaskId, Status: st})
	}
	foreign, err := s.d.writer.statuses(s.node, clean, func() bool { return s.quota.repeats.take(1, now) })
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if foreign != "" && s.quota.refusals.take(1, now) {
		s.d.config.Logger.Warn("refused a node's report on a task that is not its own", "node", s.node, "task", fmt.Sprintf("%.64q", foreign))
	}
	return nil
}

// settings answers a heartbeat, or none (sent is 0). The time is that of
// sending: between it and the node's two readings lies all that is unsure.
func settings(heartbeat time.Duration, sent int64) *schedulerpb.ManagerMessage {
	set := &schedulerpb.Settings{HeartbeatNs: int64(heartbeat)}
	if sent != 0 {
		set.HeartbeatSent, set.Now = sent, time.Now().UnixNano()
	}
	return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Settings{Settings: set}}
}

func membership(m *schedulerpb.Membership) *schedulerpb.ManagerMessage {
	return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Membership{Membership: m}}
}

func managerList(addresses []string) *schedulerpb.ManagerMessage {
	return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Managers{
		Managers: &schedulerpb.ManagerList{Addresses: addresses},
	}}
}
