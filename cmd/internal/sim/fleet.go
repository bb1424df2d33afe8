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
	running  atomic.Int64 // tasks that were reported as running and not ended
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

	mu    sync.Mutex // guards the rest
	tasks map[string]schedulerpb.TaskState
	held  map[string]*schedulerpb.Assignment // what it was told, for the digest
	whole bool                               // a complete set is on its way
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
			f.nodes[i] = &node{fleet: f, name: name, from: from, creds: creds,
				tasks: map[string]schedulerpb.TaskState{}, held: map[string]*schedulerpb.Assignment{}}
			return nil
		})
	}
	return g.Wait()
}

func (f *fleet) start(ctx context.Context) {
	for _, n := range f.nodes {
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
	known := false
	defer func() {
		if known {
			n.fleet.sessions.Add(-1)
		}
	}()
	reports := make(chan []*schedulerpb.TaskReport, 1)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer cancel()
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			a := m.GetAssignments()
			if a == nil {
				continue
			}
			out := n.take(a)
			if !known && !a.More {
				known = true
				n.fleet.sessions.Add(1)
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
		Hostname: n.name, Os: "linux", Arch: "amd64", RedoubtVersion: "sim",
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
	now := time.Now().UnixNano()
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
			n.fleet.running.Add(1)
			n.fleet.begun.Add(1)
		} else if was == running {
			n.fleet.running.Add(-1)
		}
		out = append(out, &schedulerpb.TaskReport{TaskId: u.TaskId, Status: &schedulerpb.TaskStatus{
			State: state, At: now, ContainerId: u.TaskId, Address: "10.99.0.2",
		}})
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

// drop forgets a task. The caller holds mu.
func (n *node) drop(id string) {
	if n.tasks[id] == schedulerpb.TaskState_TASK_STATE_RUNNING {
		n.fleet.running.Add(-1)
	}
	delete(n.tasks, id)
}
