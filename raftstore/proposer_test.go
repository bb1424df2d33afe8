package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// rounds is consensus under a test's control: every round waits for a release.
type rounds struct {
	mu      sync.Mutex
	sizes   []int
	release chan error
	level   atomic.Uint32
}

func (r *rounds) propose(data []byte) (any, error) {
	cmd := &raftstorepb.Command{}
	if err := proto.Unmarshal(data, cmd); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.sizes = append(r.sizes, len(cmd.Transactions))
	r.mu.Unlock()
	if err := <-r.release; err != nil {
		return nil, err
	}
	results := make([]error, len(cmd.Transactions))
	for i, t := range cmd.Transactions {
		if t.Ops[0].Id == "refused" {
			results[i] = ErrConflict
		}
	}
	return results, nil
}

func startProposer(t *testing.T) (*proposer, *rounds, chan struct{}) {
	r := &rounds{release: make(chan error)}
	stop := make(chan struct{})
	p := newProposer(stop, time.Now, func() uint32 { return r.level.Load() }, r.propose)
	go p.run()
	t.Cleanup(func() { <-p.done })
	return p, r, stop
}

func named(id string) *raftstorepb.Transaction {
	return tx(&raftstorepb.Op{Table: "things", Id: id})
}

func submitAll(p *proposer, txs ...*raftstorepb.Transaction) []chan error {
	var out []chan error
	for _, x := range txs {
		c := make(chan error, 1)
		out = append(out, c)
		go func() { c <- p.submit(context.Background(), x, 0) }()
		synctest.Wait()
	}
	return out
}

func TestProposerCoalescesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, r, stop := startProposer(t)
		answers := submitAll(p, named("first"), named("a"), named("refused"), named("b"))
		r.release <- nil
		r.release <- nil
		for i, want := range []error{nil, nil, ErrConflict, nil} {
			if err := <-answers[i]; !errors.Is(err, want) {
				t.Errorf("transaction %d: %v, want %v", i, err, want)
			}
		}
		if fmt.Sprint(r.sizes) != "[1 3]" {
			t.Errorf("rounds of %v transactions, want one of 1 and one of 3", r.sizes)
		}
		close(stop)
	})
}

func TestProposerKeepsBatchesBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, r, stop := startProposer(t)
		big := func() *raftstorepb.Transaction {
			return tx(&raftstorepb.Op{Table: "things", Id: "x", Object: make([]byte, maxBatchBytes/2)})
		}
		answers := submitAll(p, named("first"), big(), big(), big())
		for range 4 {
			r.release <- nil
		}
		for _, a := range answers {
			if err := <-a; err != nil {
				t.Error(err)
			}
		}
		if fmt.Sprint(r.sizes) != "[1 1 1 1]" {
			t.Errorf("rounds of %v transactions", r.sizes)
		}
		close(stop)
	})
}

func TestProposerTellsWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, r, stop := startProposer(t)
		ctx, cancel := context.WithCancel(t.Context())
		taken, waiting := make(chan error, 1), make(chan error, 1)
		go func() { taken <- p.submit(ctx, named("taken"), 0) }()
		synctest.Wait()
		go func() { waiting <- p.submit(ctx, named("waiting"), 0) }()
		synctest.Wait()
		cancel()
		if err := <-taken; !errors.Is(err, ErrUncertain) || !errors.Is(err, context.Canceled) {
			t.Errorf("proposed, then cancelled: %v", err)
		}
		if err := <-waiting; errors.Is(err, ErrUncertain) || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before it was proposed: %v", err)
		}
		r.release <- nil
		for in, want := range map[error]error{
			raft.ErrNotLeader:          ErrNotLeader,
			raft.ErrLeadershipLost:     ErrUncertain,
			raft.ErrRaftShutdown:       ErrUncertain,
			raft.ErrAbortedByRestore:   ErrUncertain,
			raft.ErrEnqueueTimeout:     ErrNotLeader,
			errors.New("disk on fire"): ErrUncertain,
		} {
			answer := submitAll(p, named("x"))[0]
			r.release <- in
			if err := <-answer; !errors.Is(err, want) {
				t.Errorf("%v became %v", in, err)
			}
		}
		if n := len(r.sizes); n != 7 {
			t.Errorf("%d rounds: the withdrawn transaction was proposed", n)
		}
		last := submitAll(p, named("under way"), named("left over"))
		close(stop)
		r.release <- nil
		if err := <-last[0]; err != nil {
			t.Errorf("under way when stopped: %v", err)
		}
		if err := <-last[1]; !errors.Is(err, ErrClosed) {
			t.Errorf("waiting when stopped: %v", err)
		}
	})
}

func TestReadGateServesOnlyLaterRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop, release := make(chan struct{}), make(chan error)
		n := 0
		g := newReadGate(stop, func() error { n++; return <-release })
		ended := make(chan struct{})
		go func() { defer close(ended); g.run() }()
		ask := func() chan error {
			c := make(chan error, 1)
			go func() { c <- g.wait(context.Background()) }()
			synctest.Wait()
			return c
		}
		first, second, third := ask(), ask(), ask()
		release <- nil
		if err := <-first; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		select {
		case <-second:
			t.Fatal("a reader was served by a round that began before it asked")
		default:
		}
		release <- ErrNotLeader
		if err := errors.Join(<-second, <-third); !errors.Is(err, ErrNotLeader) {
			t.Error(err)
		}
		if n != 2 {
			t.Errorf("%d rounds for three readers, want 2", n)
		}
		close(stop)
		<-ended
		if err := g.wait(context.Background()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}
