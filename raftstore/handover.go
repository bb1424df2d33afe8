package raftstore

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// errHandover is what raft is told of one who was asked to take over and has not
// answered.
var errHandover = errors.New("it was asked to take over and does not answer")

// TimeoutNow implements raft.Transport: it asks a peer to stand for election.
// Raft gives a transfer up after an election timeout, but takes no write before
// this returns, which with a peer that hangs would be defaultIOTimeout: so it
// returns by then. The answer says nothing that raft would not see by itself.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, _ *raft.TimeoutNowResponse) error {
	answered := make(chan error, 1)
	if !t.also(func() {
		answered <- t.watchedTransport.TimeoutNow(id, target, args, new(raft.TimeoutNowResponse))
	}) {
		return raft.ErrTransportShutdown
	}
	timer := time.NewTimer(t.handover)
	defer timer.Stop()
	select {
	case err := <-answered:
		return err
	case <-timer.C:
		return errHandover
	}
}

// also runs fn in a goroutine that Close waits for, unless that has begun.
func (t *transport) also(fn func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(fn)
	return true
}
