package raftstore

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose process died is replaced without waiting for its silence to
// last an election timeout. A follower whose connection from the leader ended
// dials it again. Only where that is refused, which means that the host answers
// and nobody listens there, it stands for election at once, as if the leader
// had handed over. Anything else, a timeout, a reset or a lost connection alone,
// may be the network's doing, and is left to the election timeout.
//
// This passes by the rule that a server gives no vote while it knows a leader.
// Safe it is all the same, as an election always is; but nothing may rest on a
// leader being undisturbed for a while, so reads ask a majority (Barrier).
//
// The followers go one after the other, in the order of their ids, so that they
// do not split the votes.

// noteLost is told that an accepted connection of peer ended.
func (s *Store) noteLost(peer string) {
	select {
	case s.lost <- peer:
	default: // one is being looked at; the election timeout sees to the rest
	}
}

func (s *Store) watchLeader() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.wg.Go(func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	})
	for {
		select {
		case peer := <-s.lost:
			s.considerFailover(ctx, peer)
		case <-s.stopping:
			return
		}
	}
}

// considerFailover stands for election where peer led and is gone.
func (s *Store) considerFailover(ctx context.Context, peer string) {
	if !s.followsLeader(peer) || !s.refused(ctx, peer) {
		return
	}
	wait := time.Duration(s.failoverRank(peer)) * failoverStagger
	if wait > 0 {
		if !pause(ctx, wait) || !s.followsLeader(peer) || !s.refused(ctx, peer) {
			return
		}
	}
	s.cfg.Logger.Info("the leader's process is gone: standing for election", "leader", peer)
	s.stand()
}

// stand has this server stand for election now, as if a leader had told it to.
func (s *Store) stand() {
	answer := make(chan raft.RPCResponse, 1)
	s.trans.deliver(raft.RPC{
		Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.cfg.NodeID), Addr: []byte(s.cfg.Transport.Advertise),
		}},
		RespChan: answer,
	})
}

// followsLeader reports whether this server is a voter that follows peer.
func (s *Store) followsLeader(peer string) bool {
	_, leader := s.raft.LeaderWithID()
	return string(leader) == peer && s.raft.State() == raft.Follower && s.isVoter(s.cfg.NodeID)
}

// failoverRank is this server's place among the voters that are left.
func (s *Store) failoverRank(gone string) int {
	var ids []string
	for _, srv := range s.configuration() {
		if srv.Suffrage == raft.Voter && string(srv.ID) != gone {
			ids = append(ids, string(srv.ID))
		}
	}
	slices.Sort(ids)
	return max(slices.Index(ids, s.cfg.NodeID), 0)
}

// refused dials peer. A dying process closes its sockets one by one, so an
// attempt that got hold of the listener on its way out is repeated.
func (s *Store) refused(ctx context.Context, peer string) bool {
	addr, leader := s.raft.LeaderWithID()
	if string(leader) != peer {
		return false
	}
	for range failoverProbes {
		dctx, cancel := context.WithTimeout(ctx, failoverDial)
		c, err := s.cfg.Transport.Dial(dctx, string(addr))
		cancel()
		switch {
		case err == nil:
			_ = c.Close() // it lives
			return false
		case errors.Is(err, syscall.ECONNREFUSED):
			return true
		case errors.Is(err, context.DeadlineExceeded):
			return false
		}
		if !pause(ctx, failoverProbePause) {
			return false
		}
	}
	return false
}

// pause reports whether d passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
