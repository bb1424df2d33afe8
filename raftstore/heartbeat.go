package raftstore

import (
	"time"

	"github.com/hashicorp/raft"
)

// A heartbeat is answered beside raft's own loop, which may be waiting for a
// disk: a leader would otherwise be given up for a follower's slow fsync. Raft
// has a handler for that, and it is not used: it does all that a message with
// entries does, in the goroutine of the connection, up to writing the term. A
// heartbeat of term T that is slow there could put the term back to T after the
// loop has voted in T+1, and the server could vote a second time.
//
// So the answer is made here, and only where it changes nothing: this server
// follows the sender, in the very term, and is not on its way to another. What
// it says is true when it is said: no vote of a later term was given by this
// server before the heartbeat came. Everything else goes to raft's loop.

// heartbeatNoteEvery is how often, as a part of the election timeout, raft's
// loop is told that the leader was heard of.
const heartbeatNoteEvery = 20

// answerHeartbeat answers where it can.
func (s *Store) answerHeartbeat(peer string, rpc raft.RPC) (answered bool) {
	req, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || s.raft.State() != raft.Follower {
		return false
	}
	if _, leader := s.raft.LeaderWithID(); string(leader) != peer {
		return false
	}
	// Last: from when this is read the answer holds.
	if s.terms.current() != req.Term {
		return false
	}
	rpc.Respond(&raft.AppendEntriesResponse{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.cfg.NodeID), Addr: []byte(s.cfg.Transport.Advertise)},
		Term:      req.Term, LastLog: s.raft.LastIndex(), Success: true,
	}, nil)
	if time.Since(s.raft.LastContact()) > s.cfg.ElectionTimeout/heartbeatNoteEvery {
		s.trans.note(*req)
	}
	return true
}
