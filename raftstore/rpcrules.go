package raftstore

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// admitRPC says what peer, of a verified identity, may send to this server. It
// speaks for itself alone; only the leader may tell this server to stand for
// election; and only a voter may ask for votes past a leader that is known.
//
// What stays possible to a manager that has been taken over is what raft gives
// to any member: to stand for election in a higher term, and to lead if elected.
func (s *Store) admitRPC(peer string, cmd any) error {
	h, ok := cmd.(raft.WithRPCHeader)
	if !ok {
		return fmt.Errorf("%T is no message of raft", cmd)
	}
	head := h.GetRPCHeader()
	if id, _, err := SplitAddr(string(head.Addr)); err != nil || id != peer || string(head.ID) != peer {
		return fmt.Errorf("it is in the name of %q at %q", head.ID, head.Addr)
	}
	if err := s.strangers.check(peer, cmd, func() bool { return s.inConfiguration(peer) }); err != nil {
		return err
	}
	if err := s.dormancy.refuse(peer, cmd); err != nil {
		return err
	}
	s.witness.heard(peer, cmd)
	switch cmd := cmd.(type) {
	case *raft.TimeoutNowRequest:
		if _, leader := s.raft.LeaderWithID(); string(leader) != peer {
			return errors.New("only the leader may hand over leadership")
		}
	case *raft.RequestVoteRequest:
		if cmd.LeadershipTransfer && !s.isVoter(peer) {
			cmd.LeadershipTransfer = false
		}
	}
	return nil
}

func (s *Store) isVoter(id string) bool {
	for _, srv := range s.configuration() {
		if string(srv.ID) == id {
			return srv.Suffrage == raft.Voter
		}
	}
	return false
}

// DropPeer closes every raft connection to and from a server at once. It may
// connect again while PeerAllowed, and whoever admits connections, let it. Call
// it when its record says that it is denied; that it left the configuration the
// store sees for itself.
func (s *Store) DropPeer(id string) {
	s.layer.cut(func(peer string) bool { return peer == id })
}

// dropStrangers closes the connections of servers that are no longer in the
// configuration.
func (s *Store) dropStrangers() {
	for _, srv := range s.configuration() {
		s.strangers.forget(string(srv.ID))
	}
	s.layer.cut(func(peer string) bool { return !s.peerAllowed(peer) })
}
