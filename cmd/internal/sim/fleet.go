package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

const (
	joinsAtATime = 8
	maxReports   = 256 // as an agent's

	// As an agent's.
	minPause = 200 * time.Millisecond
	maxPause = 3 * time.Second
)

// fleet is all nodes of the simulation.
type fleet struct {
	managers []string
	from     *sources
	nodes    []*node
	running  atomic.Int64 // tasks that run on nodes with a session
	cutOff   atomic.Int64 // tasks that run on others: managers may have replaced them
	begun    atomic.Int64 // tasks that were ever begun
	sessions atomic.Int64 // that know what they should run
	sets     atomic.Int64 // complete sets that were sent, as they were not held already
	dials    atomic.Int64 // sessions that were tried
	lost     lost
	wg       sync.WaitGroup
}

func newFleet(managers []string, from *sources) *fleet {
	return &fleet{managers: managers, from: from}
}

// node is one member with its own identity.
type node struct {
	fleet *fleet
	name  string
	from  netip.Addr
	creds *pki.Credentials
	trust trust
	ended atomic.Int64 // when its last session was over, Unix nanoseconds
	met   atomic.Int64 // when it last knew what to run, the same
	told  atomic.Int64 // when it last heard of revoked identities, the same
	// denials is how many that were.
	denials atomic.Int64

	mu    sync.Mutex // guards the rest
	tasks map[string]schedulerpb.TaskState
	held  map[string]*schedulerpb.Assignment // what it was told, for the digest
	whole bool                               // a complete set is on its way
	known bool                               // it has a session and knows what to run
	runs  int64                              // how many of tasks run
}

func (f *fleet) join(ctx context.Context, token pki.Token, n int) error {
	f.nodes = make([]*node, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(joinsAtATime)
	for i := range n {
		g.Go(func() error {
			name := fmt.Sprintf("sim-%05d", i)
			from := f.from.addr(i)
			j, err := pki.Join(pki.DialFrom(ctx, from), pki.JoinRequest{Token: token, Managers: f.managers, NodeName: name})
			if err != nil {
				return err
			}
			creds, err := pki.NewCredentials(j.Leaf, j.Key, j.Trust)
			if err != nil {
				return err
			}
			f.nodes[i] = &node{fleet: f, name: name, from: from, creds: creds, trust: newTrust(),
				tasks: map[string]schedulerpb.TaskState{}, held: map[string]*schedulerpb.Assignment{}}
			return nil
		})
	}
	return g.Wait()
}

func (f *fleet) start(ctx context.Context) {
	for _, n := range f.nodes {
		f.wg.Go(func() { _ = n.follow(ctx) })
		f.wg.Go(func() {
			pause := minPause
			for ctx.Err() == nil {
				began := time.Now()
				f.dials.Add(1)
				f.lost.add(n.session(ctx)) // a lost session is made again, as agents do
				if pause = min(2*pause, maxPause); time.Since(began) > maxPause {
					pause = minPause
				}
				t := time.NewTimer(rand.N(pause))
				select {
				case <-t.C:
				case <-ctx.Done():
				}
				t.Stop()
			}
		})
	}
}

func (f *fleet) wait() { f.wg.Wait() }

// assigned is how many tasks nodes know of.
func (f *fleet) assigned() (n int) {
	for _, node := range f.nodes {
		node.mu.Lock()
		n += len(node.tasks)
		node.mu.Unlock()
	}
	return n
}

// session holds one session until it breaks.
func (n *node) session(ctx context.Context) error {
	addrs := slices.Clone(n.fleet.managers)
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	conn, err := port.DialGRPC(pki.DialFrom(ctx, n.from), n.creds, addrs)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := schedulerpb.NewDispatcherClient(conn).Session(ctx)
	if err != nil {
		return err
	}
	holds, err := n.digest()
	if err != nil {
		return err
	}
	hello := &schedulerpb.Hello{Description: n.describe(), Holds: holds}
	if err := stream.Send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Hello{Hello: hello}}); err != nil {
		return err
	}
	trusts := func() error {
		return stream.Send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Trust{Trust: &schedulerpb.TrustReport{Roots: n.creds.RootHashes()}}})
	}
	if err := trusts(); err != nil {
		return err
	}
	defer func() { n.ended.Store(time.Now().UnixNano()) }()
	defer n.cut()
	reports := make(chan []*schedulerpb.TaskReport, 1)
	answers := make(chan *schedulerpb.AgentMessage, 1)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer cancel()
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			if d := m.GetDenials(); d != nil {
				n.denials.Store(int64(len(d.GetDenials())))
				n.told.Store(time.Now().UnixNano())
			}
			n.trust.hear(m.GetMembership())
			if q := m.GetCheck(); q != nil {
				select {
				case answers <- answer(q):
				case <-gctx.Done():
					return gctx.Err()
				}
			}
			a := m.GetAssignments()
			if a == nil {
				continue
			}
			out := n.take(a)
			if again, first := n.meet(a.More); first {
				out = again
			}
			select {
			case reports <- out:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
	})
	g.Go(func() error {
		defer cancel()
		beat := 5 * time.Second
		t := time.NewTicker(beat - rand.N(beat/5))
		defer t.Stop()
		for {
			m := &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Heartbeat{Heartbeat: &schedulerpb.Heartbeat{}}}
			select {
			case <-t.C:
				if err := stream.Send(m); err != nil {
					return err
				}
			case <-n.trust.changed:
				if err := trusts(); err != nil {
					return err
				}
			case m := <-answers:
				if err := stream.Send(m); err != nil {
					return err
				}
			case out := <-reports:
				for part := range slices.Chunk(out, maxReports) {
					m.Message = &schedulerpb.AgentMessage_Status{Status: &schedulerpb.StatusBatch{Reports: part}}
					if err := stream.Send(m); err != nil {
						return err
					}
				}
			case <-gctx.Done():
				return errors.Join(gctx.Err(), stream.CloseSend())
			}
		}
	})
	return g.Wait()
}

func (n *node) describe() *schedulerpb.NodeDescription {
	return &schedulerpb.NodeDescription{
		Hostname: n.name, Os: "linux", Arch: "amd64", RedoubtVersion: "sim", Features: []*taskpb.Feature{{Name: "check"}},
		Resources: &taskpb.Resources{NanoCpus: 64e9, MemoryBytes: 256 << 30},
	}
}

// digest is what an agent that comes again says it holds.
func (n *node) digest() ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.held) == 0 {
		return nil, nil
	}
	return schedulerpb.AssignmentsDigest(slices.Collect(maps.Values(n.held)))
}

// take does at once what the node is told, and says so.
func (n *node) take(a *schedulerpb.Assignments) (out []*schedulerpb.TaskReport) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.Unchanged {
		return nil
	}
	if a.Complete {
		n.fleet.sets.Add(1)
		n.whole = true
		clear(n.held)
	}
	const running = schedulerpb.TaskState_TASK_STATE_RUNNING
	for _, u := range a.Update {
		n.held[u.TaskId] = u
		state := running
		if u.Desired > running {
			state = schedulerpb.TaskState_TASK_STATE_SHUTDOWN
		}
		was := n.tasks[u.TaskId]
		if n.tasks[u.TaskId] = state; was == state {
			continue
		}
		if state == running {
			n.count(1)
			n.fleet.begun.Add(1)
		} else if was == running {
			n.count(-1)
		}
		out = append(out, reportOn(u.TaskId, state))
	}
	for _, id := range a.Remove {
		delete(n.held, id)
		n.drop(id)
	}
	if n.whole && !a.More {
		n.whole = false
		for id := range n.tasks {
			if n.held[id] == nil {
				n.drop(id)
			}
		}
	}
	return out
}

func reportOn(id string, state schedulerpb.TaskState) *schedulerpb.TaskReport {
	return &schedulerpb.TaskReport{TaskId: id, Status: &schedulerpb.TaskStatus{
		State: state, At: time.Now().UnixNano(), ContainerId: id, Address: "10.99.0.2",
	}}
}

// meet notes that the session's first set is whole, and returns what an agent
// then reports: all it has, as what it said before may have been lost.
func (n *node) meet(more bool) (all []*schedulerpb.TaskReport, first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known || more {
		return nil, false
	}
	n.known = true
	n.met.Store(time.Now().UnixNano())
	n.fleet.sessions.Add(1)
	n.fleet.running.Add(n.runs)
	n.fleet.cutOff.Add(-n.runs)
	for id, state := range n.tasks {
		all = append(all, reportOn(id, state))
	}
	return all, true
}

// cut notes that the session ended. What the node runs it runs on, and is not
// counted as the service's: the managers replace it after a while.
func (n *node) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.known {
		return
	}
	n.known = false
	n.fleet.sessions.Add(-1)
	n.fleet.running.Add(-n.runs)
	n.fleet.cutOff.Add(n.runs)
}

// count changes how many tasks run. The caller holds mu.
func (n *node) count(by int64) {
	n.runs += by
	if n.known {
		n.fleet.running.Add(by)
	} else {
		n.fleet.cutOff.Add(by)
	}
}

// drop forgets a task. The caller holds mu.
func (n *node) drop(id string) {
	if n.tasks[id] == schedulerpb.TaskState_TASK_STATE_RUNNING {
		n.count(-1)
	}
	delete(n.tasks, id)
}
