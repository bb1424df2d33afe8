// Package dispatcher is the managers' side of the sessions that nodes hold: it
// tells each node which tasks it should have, hears how far they came, and
// knows which nodes are alive.
//
// One node has one session; a newer one replaces the older. Who the node is
// comes from its certificate alone. In a session the node first hears the
// complete set of its tasks, then changes, numbered without a gap; it learns
// of no other node's tasks, but for where those are with which it shares a network
// (package netview). Its reports are accepted for its own tasks only,
// never backwards, and become transactions in batches: a heartbeat or a status
// that says nothing new never reaches the replicated log.
//
// Liveness is kept in memory. A node is up while its session is heard (ready,
// or not ready where it says that it lacks something required) and down when
// nothing was heard for three heartbeats; the end of a stream alone
// changes nothing, so a quick reconnect is invisible. A manager that begins to
// lead gives every node that was up as long to come back, and one that did not run
// for a while (a paused machine, a stopped process) does not count that time.
//
// Everything a node sends is bounded by number, size and rate. It may be
// compromised: what it says of itself is stored as its own word, and what it
// says of others is refused and logged.
//
// Sessions read the store through View and Watch only; writing (writer.go) and
// liveness belong to the leader. Run does the leader's part, and without it
// sessions are refused. A Dispatcher is registered with gRPC behind authz's
// interceptors, which also cut the session of a node that is removed.
//
//	d, err := dispatcher.New(dispatcher.Config{Store: s, Seal: keyd, ClusterID: id, Logger: l})
//	schedulerpb.RegisterDispatcherServer(server, d)
//	s.WhileLeader(ctx, func(ctx context.Context) { d.Run(ctx) })
package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config binds a Dispatcher. Store, with the tables of scheduler, pki and secrets, Seal
// and ClusterID are required.
type Config struct {
	Store *raftstore.Store
	// Managers lists host:port of every manager, for the nodes to know. Nil:
	// they are not told.
	Managers func() []string
	// Membership says what the cluster wants of a node itself; it is asked when a
	// session begins, and again by Tell. Nil: nothing.
	Membership func(node string) *schedulerpb.Membership
	// Trusted, if not nil, is called when a node said which roots it trusts. It
	// does not wait.
	Trusted func(node string)
	// Seal has this manager's keyd seal secrets for Deliver, in the cluster of that id.
	Seal      Sealer
	ClusterID string
	// Heartbeat is asked of nodes; zero: every 5 s.
	Heartbeat time.Duration
	Logger    *slog.Logger
}

// Dispatcher serves sessions. It is safe for concurrent use.
type Dispatcher struct {
	schedulerpb.UnimplementedDispatcherServer
	schedulerpb.UnimplementedDeliveryServer
	config Config
	writer *writer
	// complete holds a place for each session that makes a complete set.
	complete chan struct{}
	// networks is what nodes are told of networks, kept by route.
	networks atomic.Pointer[netview.Index]

	sessions sync.WaitGroup // handlers and their readers

	mu      sync.Mutex // guards the following
	term    context.Context
	members map[string]*member
	subs    map[string]*subscription
	// questions to nodes that are not answered yet, by id.
	questions map[string]*question
	// execs are the commands that nodes were told of, by id.
	execs    map[string]*execution
	managers []string
	// denials is what sessions are told; nil: not read yet.
	denials *schedulerpb.ManagerMessage
}

// member is a node in the leader's memory.
type member struct {
	session  *session  // nil: none now
	deadline time.Time // silent until then means down; zero: it is not up
	heard    time.Time // when it last was, also by leaders before; zero: that is not known
	opened   bucket
	moves    moves
	// delivered and keys bound what it asks of Deliver, in tasks and in keys that
	// keyd seals; zero: it asked for nothing yet.
	delivered, keys bucket
}

// New checks the configuration. Sessions are refused until Run runs.
func New(c Config) (*Dispatcher, error) {
	if c.Store == nil || c.Seal == nil || c.ClusterID == "" {
		return nil, errors.New("dispatcher: a store, a sealer and the cluster's id are required")
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = defaultHeartbeat
	}
	if c.Heartbeat < 0 {
		return nil, errors.New("dispatcher: the heartbeat interval must be positive")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Dispatcher{
		config: c,
		writer: newWriter(c.Store, c.Logger),

		complete:  make(chan struct{}, maxCompleteSets),
		members:   map[string]*member{},
		subs:      map[string]*subscription{},
		questions: map[string]*question{},
		execs:     map[string]*execution{},
	}, nil
}

var (
	errNotLeading = status.Error(codes.Unavailable, "this manager does not lead the cluster: try another")
	errReplaced   = status.Error(codes.Aborted, "a newer session of this node took over")
	errExpired    = status.Error(codes.DeadlineExceeded, "no heartbeat arrived in time")
	errRemoved    = status.Error(codes.PermissionDenied, "the node is not a member of this cluster")
	errHello      = status.Error(codes.DeadlineExceeded, "the node did not say hello in time")
)

// Run accepts sessions and keeps nodes' states until ctx ends; it returns when
// every session has ended. It is for the leader, and one Run at a time.
func (d *Dispatcher) Run(ctx context.Context) error {
	w, err := d.watch() // before there are sessions, which look at it
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if err := d.begin(ctx); err != nil {
		w.Close()
		return err
	}
	g.Go(func() error { return d.route(ctx, w) })
	g.Go(func() error { return d.expire(ctx) })
	g.Go(func() error { return d.followDenials(ctx) })
	g.Go(func() error { return d.writer.run(ctx) })
	err = g.Wait()
	d.mu.Lock()
	d.term = nil // no session is added from here on
	d.mu.Unlock()
	d.sessions.Wait() // ctx ended them
	d.networks.Store(nil)
	return err
}

// begin forgets a former term and gives every node known to be up its time
// to come back.
func (d *Dispatcher) begin(ctx context.Context) error {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.term != nil {
		return errors.New("dispatcher: it is running already")
	}
	d.term, d.members, d.denials = ctx, map[string]*member{}, nil
	d.writer.reset()
	if d.config.Managers != nil {
		d.managers = d.config.Managers()
	}
	return d.config.Store.View(func(r *raftstore.ReadTx) error {
		up := heardBefore(r, d.config.Store.LeaderLost(), now)
		for n := range store.Nodes.All(r) {
			m := &member{opened: newBucket(sessionRate, sessionBurst, now), moves: moves{at: n.GetAddress()}}
			switch {
			case store.Up(n):
				m.deadline, m.heard = now.Add(d.grace()), up
			case n.GetManager() && n.GetDownSince() != 0:
				m.heard = onBothClocks(time.Unix(0, n.GetDownSince()), now)
			default:
				continue
			}
			d.members[n.Id] = m
		}
		return nil
	})
}

func (d *Dispatcher) grace() time.Duration { return missedHeartbeats * d.config.Heartbeat }

func (d *Dispatcher) spreadManagers() {
	if d.config.Managers == nil {
		return
	}
	list := d.config.Managers()
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Equal(list, d.managers) {
		return
	}
	d.managers = list
	for _, m := range d.members {
		if m.session != nil {
			m.session.control(managerList(list))
		}
	}
}

// Session serves one node.
func (d *Dispatcher) Session(stream sessionStream) error {
	id, ok := authz.FromContext(stream.Context())
	if !ok || id.NodeID == "" || id.LocalRoot {
		return status.Error(codes.PermissionDenied, "a session needs a node's certificate")
	}
	s, err := d.open(stream, id)
	if err != nil {
		return err
	}
	defer d.sessions.Done()
	defer d.close(s)
	return s.serve()
}

// open makes a session that is not registered yet: that waits for its Hello.
func (d *Dispatcher) open(stream sessionStream, id authz.Identity) (*session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.term == nil || d.term.Err() != nil {
		return nil, errNotLeading
	}
	now := time.Now()
	m := d.members[id.NodeID]
	if m == nil {
		var n *schedulerpb.Node
		known := false
		err := d.config.Store.View(func(r *raftstore.ReadTx) error {
			n, known = store.Nodes.Get(r, id.NodeID)
			return nil
		})
		if err != nil || !known {
			return nil, errRemoved
		}
		m = &member{opened: newBucket(sessionRate, sessionBurst, now), moves: moves{at: n.GetAddress()}}
		d.members[id.NodeID] = m
	}
	if !m.opened.take(1, now) {
		return nil, status.Error(codes.ResourceExhausted, "this node opens sessions too often: wait a few seconds")
	}
	d.sessions.Add(1)
	s := newSession(d, stream, id.NodeID, hostOf(stream.Context(), id))
	s.release = context.AfterFunc(d.term, func() { s.cancel(errNotLeading) })
	return s, nil
}

// register makes s the node's session; its Hello was accepted.
func (d *Dispatcher) register(s *session, desc *schedulerpb.NodeDescription) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.members[s.node]
	switch {
	case d.term == nil:
		return errNotLeading
	case m == nil:
		return errRemoved
	}
	to := move{to: s.address}
	if m.session != nil {
		if m.session.address != s.address {
			to.before = m.session.address
		}
		m.session.cancel(errReplaced)
	}
	recorded := m.moves.take(to, time.Now())
	switch {
	case m.moves.tell():
		d.config.Logger.Warn("a node's sessions come from ever other addresses, the newest is recorded a minute later: see to its ways out; its key may be in use elsewhere",
			"node", s.node, "is", s.address)
	case to.before != "" && m.moves.held == nil:
		d.config.Logger.Warn("a node's session was replaced from another address: if the node did not move, its key may be in use elsewhere",
			"node", s.node, "was", to.before, "is", s.address)
	}
	if !recorded {
		to = move{}
	}
	m.session = s
	d.hear(m)
	s.control(settings(d.config.Heartbeat, 0))
	if d.denials != nil {
		s.control(d.denials)
	}
	if len(d.managers) > 0 {
		s.control(managerList(d.managers))
	}
	if d.config.Membership != nil {
		s.control(membership(d.config.Membership(s.node)))
	}
	d.writer.nodeUp(s.node, to, desc)
	return nil
}

// Tell says again what the cluster wants of those nodes, where they have
// sessions.
func (d *Dispatcher) Tell(nodes ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range nodes {
		if m := d.members[id]; m != nil && m.session != nil && d.config.Membership != nil {
			m.session.control(membership(d.config.Membership(id)))
		}
	}
}

// redescribe takes a later description, unless the session is not the node's
// any more: the node may be recorded as down by now.
func (d *Dispatcher) redescribe(s *session, desc *schedulerpb.NodeDescription) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.members[s.node]; m != nil && m.session == s {
		d.hear(m)
		d.writer.nodeUp(s.node, move{}, desc)
	}
}

// readiness is the state of a node with a session: not ready where it says
// itself that something is missing without which no task can run.
func readiness(desc *schedulerpb.NodeDescription) (schedulerpb.NodeState, string) {
	var missing []string
	for _, f := range desc.GetFeatures() {
		if f.GetRequired() && !f.GetPresent() {
			missing = append(missing, strings.TrimSpace(f.GetName()+" "+f.GetDetail()))
		}
	}
	if missing == nil {
		return schedulerpb.NodeState_NODE_STATE_READY, ""
	}
	return schedulerpb.NodeState_NODE_STATE_NOT_READY, oneline.Text("it cannot run tasks: "+strings.Join(missing, "; "), maxMessageText)
}

// close forgets an ended session; its node's deadline runs on.
func (d *Dispatcher) close(s *session) {
	s.release()
	s.cancel(context.Canceled)
	d.mu.Lock()
	if m := d.members[s.node]; m != nil && m.session == s {
		m.session = nil
	}
	d.mu.Unlock()
	d.lost(s)
}

// heard prolongs the life of the session's node.
func (d *Dispatcher) heard(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.members[s.node]; m != nil && m.session == s {
		d.hear(m)
	}
}
