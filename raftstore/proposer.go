package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// proposer stands between Update and raft. One log entry is under way at a
// time; what arrives meanwhile is put together into the next one, each
// transaction still succeeding or failing by itself. A lone writer thus waits
// for nobody, and many writers share the cost of an fsync and a round.
type proposer struct {
	now     func() time.Time               // what entries are stamped with
	propose func(data []byte) (any, error) // one consensus round
	queue   chan *proposal
	level   func() uint32 // the cluster's store level
	stop    <-chan struct{}
	done    chan struct{} // closed when run has returned
}

// proposal is one transaction on its way.
type proposal struct {
	tx     []byte // a raftstorepb.Transaction
	level  uint32 // the store level that it was composed at
	raise  uint32 // in place of a transaction: the level to raise the store to
	state  atomic.Int32
	result chan error // capacity 1; the proposer sends once to what it took
}

const (
	proposalWaiting   = iota // may still be withdrawn
	proposalTaken            // the proposer answers it
	proposalWithdrawn        // the caller gave up
)

func newProposer(stop <-chan struct{}, now func() time.Time, level func() uint32, propose func([]byte) (any, error)) *proposer {
	return &proposer{
		now: now, propose: propose, level: level, stop: stop,
		queue: make(chan *proposal, maxWaitingTransactions), done: make(chan struct{}),
	}
}

// submit waits until tx, which was composed at that store level, was applied or
// refused. What was never proposed when ctx ends was not done; afterwards the
// outcome is uncertain.
func (p *proposer) submit(ctx context.Context, tx *raftstorepb.Transaction, level uint32) error {
	data, err := proto.Marshal(tx)
	if err != nil {
		return err
	}
	return p.wait(ctx, &proposal{tx: data, level: level, result: make(chan error, 1)})
}

// raise waits until the store's level was raised.
func (p *proposer) raise(ctx context.Context, level uint32) error {
	return p.wait(ctx, &proposal{raise: level, result: make(chan error, 1)})
}

func (p *proposer) wait(ctx context.Context, q *proposal) error {
	select {
	case p.queue <- q:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.stop:
		return ErrClosed
	}
	select {
	case err := <-q.result:
		return err
	case <-ctx.Done():
		if q.state.CompareAndSwap(proposalWaiting, proposalWithdrawn) {
			return ctx.Err()
		}
		select {
		case err := <-q.result: // both were ready: the result is better
			return err
		default:
			return fmt.Errorf("%w: %w", ErrUncertain, ctx.Err())
		}
	case <-p.done:
		if q.state.CompareAndSwap(proposalWaiting, proposalWithdrawn) {
			return ErrClosed
		}
		return <-q.result
	}
}

// run proposes until stop is closed.
func (p *proposer) run() {
	defer close(p.done)
	var first *proposal
	for {
		if first == nil {
			select {
			case first = <-p.queue:
			case <-p.stop:
				return
			}
		}
		var batch []*proposal
		batch, first = p.gather(first)
		if len(batch) > 0 {
			p.round(batch)
		}
		select {
		case <-p.stop: // what is still waiting is told so by done
			return
		default:
		}
	}
}

// gather takes what waits, up to the bounds of an entry. next did not fit. A
// transaction of before the level was raised is to be composed anew, as it may
// lack preconditions that can be told only now; a raise is an entry by itself.
func (p *proposer) gather(first *proposal) (batch []*proposal, next *proposal) {
	size := 0
	for q := first; ; {
		if len(batch) > 0 && (q.raise > 0 || size+len(q.tx) > maxBatchBytes) {
			return batch, q
		}
		switch taken := q.state.CompareAndSwap(proposalWaiting, proposalTaken); {
		case taken && q.raise > 0:
			return []*proposal{q}, nil
		case taken && q.level != p.level():
			q.result <- ErrConflict
		case taken:
			batch = append(batch, q)
			size += len(q.tx)
		}
		if len(batch) == maxBatchTransactions {
			return batch, nil
		}
		select {
		case q = <-p.queue:
		default:
			return batch, nil
		}
	}
}

func (p *proposer) round(batch []*proposal) {
	results, err := p.commit(batch)
	for i, q := range batch {
		if err != nil {
			q.result <- err
		} else {
			q.result <- results[i]
		}
	}
}

func (p *proposer) commit(batch []*proposal) ([]error, error) {
	if raise := batch[0].raise; raise > 0 {
		resp, err := p.propose(raising(p.now(), raise))
		if err != nil {
			return nil, proposeError(err)
		}
		_, err = answers(resp, 0)
		return []error{nil}, err
	}
	resp, err := p.propose(command(p.now(), batch))
	if err != nil {
		return nil, proposeError(err)
	}
	return answers(resp, len(batch))
}

// answers is what the state machine said of n transactions.
func answers(resp any, n int) ([]error, error) {
	switch r := resp.(type) {
	case []error:
		if len(r) == n {
			return r, nil
		}
	case error:
		return nil, r
	}
	return nil, fmt.Errorf("%w: the state machine gave no result", ErrUncertain)
}

// raising is the encoding of a raftstorepb.Command that raises the level.
func raising(now time.Time, level uint32) []byte {
	out := protowire.AppendVarint(protowire.AppendTag(nil, commandNow, protowire.VarintType), uint64(now.UnixNano()))
	return protowire.AppendVarint(protowire.AppendTag(out, commandLevel, protowire.VarintType), uint64(level))
}

// command is the encoding of a raftstorepb.Command with these transactions,
// which their callers, being many, have encoded already.
func command(now time.Time, batch []*proposal) []byte {
	size := 16
	for _, q := range batch {
		size += len(q.tx) + 8
	}
	out := protowire.AppendTag(make([]byte, 0, size), commandNow, protowire.VarintType)
	out = protowire.AppendVarint(out, uint64(now.UnixNano()))
	for _, q := range batch {
		out = protowire.AppendTag(out, commandTransactions, protowire.BytesType)
		out = protowire.AppendBytes(out, q.tx)
	}
	return out
}

// Field numbers of raftstorepb.Command.
const (
	commandNow          = 1
	commandTransactions = 2
	commandLevel        = 3
)

// proposeError sorts raft's errors by whether the entry may have been applied.
func proposeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrNotLeader
	default:
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
}
