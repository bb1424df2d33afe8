package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// sessions holds one session after the other for as long as the agent lives.
func (a *agent) sessions(ctx context.Context) error {
	// The first Hello should be able to say what the node can do, but a node
	// whose helpers are broken must be heard as well.
	if err := a.helloKick.wait(ctx, helloWait); err != nil {
		return err
	}
	b := backoff{base: minBackoff, limit: maxBackoff}
	for {
		heard, err := a.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if heard {
			b.reset()
		}
		pause := b.pause()
		a.Logger.Warn("no session with a manager, trying again", "error", err, "pause", pause)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// session runs one session to its end and reports whether it got as far as a
// complete set of assignments.
func (a *agent) session(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slow := time.AfterFunc(dialTimeout, func() { cancel(errors.New("no manager answered in time")) })
	defer slow.Stop()
	conn, closer, err := a.Dial(ctx)
	if err != nil {
		return false, err
	}
	defer closer.Close()
	stream, err := schedulerpb.NewDispatcherClient(conn).Session(ctx)
	if err != nil {
		return false, err
	}
	s := &session{
		agent:     a,
		conn:      conn,
		stream:    stream,
		heartbeat: defaultHeartbeat,
		settings:  make(chan time.Duration, 1),
		alive:     newKick(),
		logs:      newLogs(a),
		answers:   make(chan *schedulerpb.AgentMessage, maxAnswers),
		checking:  make(chan struct{}, maxChecking),
		executing: make(chan struct{}, maxExecuting),
	}
	a.mu.Lock()
	a.machine.reportAll()
	s.holds = a.machine.holds()
	a.machine.noVolumes = nil // a manager that wants none says nothing
	a.mu.Unlock()
	s.assembler.holds = s.holds != nil
	a.reportKick.now()

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.send(gctx) })
	g.Go(func() error { return s.receive(gctx, slow) })
	// Receiving ends with the stream, and the stream with ctx.
	stop := context.AfterFunc(gctx, func() { cancel(nil) })
	defer stop()
	err = g.Wait()
	s.logs.wait()
	s.checks.Wait()
	s.execs.Wait()
	if s.assembler.heard {
		a.useConn(nil)
	}
	if s.assembler.heard && a.Connected != nil {
		a.Connected(false)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return s.assembler.heard, err
}

type session struct {
	*agent
	conn      grpc.ClientConnInterface
	stream    grpc.BidiStreamingClient[schedulerpb.AgentMessage, schedulerpb.ManagerMessage]
	assembler assembler // of receive
	networks  networks  // of receive
	holds     []byte    // digest of what the node held when it began
	heartbeat time.Duration
	settings  chan time.Duration // from receive to send, latest wins
	alive     kick               // from receive to send
	logs      *logs
	answers   chan *schedulerpb.AgentMessage // from receive and checks to send
	checks    sync.WaitGroup                 // checks; grows in receive alone
	checking  chan struct{}                  // their places
	execs     sync.WaitGroup                 // commands in containers; grows in receive, and by them
	executing chan struct{}                  // their places
	clock     clock
}

var errSilent = errors.New("nothing was heard from the manager")

// send is the only writer of the stream. What keeps the node alive goes first,
// then statuses, then logs.
func (s *session) send(ctx context.Context) error {
	began := time.Now()
	hello, described := s.describe(), began
	first := helloMessage(hello)
	first.GetHello().Holds = s.holds
	if err := s.stream.Send(first); err != nil {
		return s.sendError(err)
	}
	s.described(hello)
	if err := s.sendTrust(); err != nil {
		return err
	}
	beat := time.NewTimer(s.nextBeat(began))
	defer beat.Stop()
	silent := time.NewTimer(silentHeartbeats * s.heartbeat)
	defer silent.Stop()
	describe := time.NewTimer(0) // when the next description may follow
	defer describe.Stop()
	<-describe.C
	early := false // one was due before
	for {
		logs := s.logs.out
		if len(s.reportKick)+len(s.helloKick)+len(s.alive) > 0 {
			logs = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-silent.C:
			return errSilent
		case <-s.alive:
			silent.Reset(silentHeartbeats * s.heartbeat)
		case d := <-s.settings:
			s.heartbeat = d
			silent.Reset(silentHeartbeats * d)
			beat.Reset(s.nextBeat(began))
		case <-beat.C:
			hb := &schedulerpb.Heartbeat{}
			if s.AppliedIndex != nil {
				hb.AppliedIndex = s.AppliedIndex()
			}
			s.clock.ask(hb, time.Now())
			if err := s.stream.Send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Heartbeat{Heartbeat: hb}}); err != nil {
				return s.sendError(err)
			}
			beat.Reset(s.nextBeat(began))
		case <-describe.C:
			if early {
				early = false
				s.helloKick.now()
			}
		case <-s.helloKick:
			d := s.describe()
			if proto.Equal(d, hello) {
				continue
			}
			if wait := helloPause - time.Since(described); wait > 0 {
				early = true
				describe.Reset(wait)
				continue
			}
			hello, described = d, time.Now()
			if err := s.stream.Send(helloMessage(d)); err != nil {
				return s.sendError(err)
			}
			s.described(d)
		case <-s.reportKick:
			if err := s.sendReports(); err != nil {
				return err
			}
		case <-s.Retrusted:
			if err := s.sendTrust(); err != nil {
				return err
			}
		case m := <-s.answers:
			if err := s.stream.Send(m); err != nil {
				return s.sendError(err)
			}
		case c := <-logs:
			if err := s.stream.Send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Log{Log: c}}); err != nil {
				return s.sendError(err)
			}
		}
	}
}

// sendTrust says which roots the node trusts.
func (s *session) sendTrust() error {
	if s.Trusts == nil {
		return nil
	}
	m := &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Trust{Trust: &schedulerpb.TrustReport{Roots: s.Trusts()}}}
	if err := s.stream.Send(m); err != nil {
		return s.sendError(err)
	}
	return nil
}

func (s *session) sendReports() error {
	for {
		s.mu.Lock()
		reports := s.machine.reports(maxReports)
		s.mu.Unlock()
		if len(reports) == 0 {
			return nil
		}
		m := &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Status{Status: &schedulerpb.StatusBatch{Reports: reports}}}
		if err := s.stream.Send(m); err != nil {
			return s.sendError(err)
		}
	}
}

// sendError leaves it to receive to say why the stream ended: a Send that
// fails says EOF only.
func (s *session) sendError(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// nextBeat spreads heartbeats of nodes that began together. A manager says at
// the beginning more often how far its store is: it waits for its vote.
func (s *session) nextBeat(began time.Time) time.Duration {
	d := s.heartbeat - rand.N(s.heartbeat/5+1)
	if s.AppliedIndex != nil && time.Since(began) < eagerTime {
		d = min(d, eagerHeartbeat)
	}
	return d
}

func helloMessage(d *schedulerpb.NodeDescription) *schedulerpb.AgentMessage {
	return &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Hello{Hello: &schedulerpb.Hello{Description: d}}}
}

// receive takes what the manager says until the stream ends.
func (s *session) receive(ctx context.Context, slow *time.Timer) error {
	asked := defaultHeartbeat
	for {
		m, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the manager ended the session")
		}
		if err != nil {
			return err
		}
		slow.Stop() // somebody answered; from here on silence is the measure
		s.alive.now()
		if s.Heard != nil {
			s.Heard()
		}
		switch v := m.Message.(type) {
		case *schedulerpb.ManagerMessage_Assignments:
			if err := s.take(v.Assignments); err != nil {
				return err
			}
		case *schedulerpb.ManagerMessage_Networks:
			if err := s.takeNetworks(v.Networks); err != nil {
				return err
			}
		case *schedulerpb.ManagerMessage_Managers:
			if s.Managers != nil && len(v.Managers.Addresses) > 0 {
				s.Managers(slices.Clone(v.Managers.Addresses))
			}
		case *schedulerpb.ManagerMessage_Membership:
			if s.Membership != nil {
				s.Membership(v.Membership)
			}
		case *schedulerpb.ManagerMessage_Denials:
			if s.Denials != nil {
				s.Denials(v.Denials)
			}
		case *schedulerpb.ManagerMessage_ImagePolicy:
			if err := s.takeImagePolicy(v.ImagePolicy); err != nil {
				return err
			}
		case *schedulerpb.ManagerMessage_RemoveVolumes:
			if err := s.takeRemovedVolumes(v.RemoveVolumes); err != nil {
				return err
			}
		case *schedulerpb.ManagerMessage_Log:
			s.logs.subscribe(ctx, v.Log)
		case *schedulerpb.ManagerMessage_Mesh:
			s.answer(v.Mesh)
		case *schedulerpb.ManagerMessage_Check:
			s.check(ctx, v.Check)
		case *schedulerpb.ManagerMessage_Exec:
			s.exec(ctx, v.Exec)
		case *schedulerpb.ManagerMessage_Settings:
			s.clock.answer(v.Settings, time.Now())
			d := time.Duration(v.Settings.HeartbeatNs)
			if d < minHeartbeat || d > maxHeartbeat {
				return fmt.Errorf("the manager asks for a heartbeat of %v, which is out of range", d)
			}
			if d != asked {
				asked = d
				select {
				case <-s.settings: // not looked at yet
				default:
				}
				s.settings <- d
			}
		}
		// Anything else is of a later version and means nothing here.
	}
}

func (s *session) take(m *schedulerpb.Assignments) error {
	first := !s.assembler.heard
	set, err := s.assembler.add(m)
	if err != nil || set == nil {
		return err
	}
	if first && s.Connected != nil {
		s.Connected(true)
	}
	if first {
		s.useConn(s.conn)
	}
	if set.unchanged {
		return nil
	}
	return s.input(func(mc *machine, now time.Time) error {
		return mc.assign(now, set.complete, set.update, set.remove)
	})
}

func (s *session) takeNetworks(m *schedulerpb.NetworkSet) error {
	view, err := s.networks.add(m)
	if err != nil || view == nil || s.Overlay == nil {
		return err
	}
	s.Overlay.SetView(view)
	return s.input(func(mc *machine, now time.Time) error {
		mc.describe(now, view)
		return nil
	})
}
