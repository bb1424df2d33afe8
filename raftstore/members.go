package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// Server is one member of the cluster's raft configuration.
type Server struct {
	ID     string
	Addr   string // host:port
	Voter  bool
	Leader bool
}

// Bootstrap makes this server a cluster of one. It is refused where there is
// any state already.
func (s *Store) Bootstrap() error {
	err := s.await(s.raft.BootstrapCluster(s.alone()))
	if errors.Is(err, raft.ErrCantBootstrap) {
		return errors.New("raftstore: this server has state already: it cannot begin a new cluster")
	}
	return err
}

// alone is the configuration of a cluster of this server.
func (s *Store) alone() raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(s.cfg.NodeID), Address: raft.ServerAddress(s.cfg.Transport.Advertise)}}}
}

// finishBootstrap ends a Bootstrap that a crash cut short after the term was written
// and before the configuration was: raft would neither begin nor go on. By nothing else
// has a server without entries term 1, as no leader is of a term before 2.
func (s *Store) finishBootstrap(logs raft.LogStore, stable *sealedStable) error {
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	kept, err := s.files.Snapshots.List()
	if err != nil {
		return err
	}
	term, vote, voted, err := stable.votes()
	if err != nil || last > 0 || len(kept) > 0 || term != 1 || vote > 0 || voted {
		return err
	}
	return logs.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(s.alone())})
}

// Servers is the latest configuration, committed or not, in the order of ids.
func (s *Store) Servers() []Server {
	_, leader := s.raft.LeaderWithID()
	var out []Server
	for _, srv := range s.configuration() {
		_, hostport, err := SplitAddr(string(srv.Address))
		if err != nil {
			hostport = string(srv.Address)
		}
		out = append(out, Server{
			ID: string(srv.ID), Addr: hostport,
			Voter: srv.Suffrage == raft.Voter, Leader: srv.ID == leader,
		})
	}
	slices.SortFunc(out, func(a, b Server) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	return out
}

func (s *Store) configuration() []raft.Server {
	f := s.raft.GetConfiguration() // answered at once, from memory
	return f.Configuration().Servers
}

func (s *Store) voters() int {
	n := 0
	for _, srv := range s.configuration() {
		if srv.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// PeerAllowed reports whether a peer of that identity may speak raft to this
// server: it is in the configuration, or, while there is none yet, in
// Config.InitialPeers. The transport's listener must ask it for every
// connection. Of one that is not known a voter may say that it is the leader
// (vouch.go); it is asked when this is, and the peer must come again.
func (s *Store) PeerAllowed(id string) bool {
	allowed := s.peerAllowed(id)
	if !allowed {
		s.noteStranger(id)
	}
	return allowed
}

func (s *Store) peerAllowed(id string) bool {
	if len(s.configuration()) == 0 {
		return slices.Contains(s.cfg.InitialPeers, id)
	}
	return s.inConfiguration(id) || s.strangers.admitted(id)
}

// AddNonvoter adds a server that follows without a vote. Leader only; it
// returns when the change is committed. Adding one again changes its address.
func (s *Store) AddNonvoter(ctx context.Context, id, hostport string) error {
	addr, err := memberAddr(id, hostport)
	if err != nil {
		return err
	}
	return s.member(ctx, s.raft.AddNonvoter(raft.ServerID(id), addr, 0, membershipTimeout))
}

// AddVoter adds a server with a vote, or gives one to a non-voter. Leader only.
func (s *Store) AddVoter(ctx context.Context, id, hostport string) error {
	addr, err := memberAddr(id, hostport)
	if err != nil {
		return err
	}
	return s.member(ctx, s.raft.AddVoter(raft.ServerID(id), addr, 0, membershipTimeout))
}

// DemoteVoter takes a server's vote. Leader only. From then on the quorum does
// without it, whatever becomes of it.
func (s *Store) DemoteVoter(ctx context.Context, id string) error {
	return s.member(ctx, s.raft.DemoteVoter(raft.ServerID(id), 0, membershipTimeout))
}

// RemoveServer takes a server out of the configuration; one that is not in it
// is no error. Leader only.
func (s *Store) RemoveServer(ctx context.Context, id string) error {
	return s.member(ctx, s.raft.RemoveServer(raft.ServerID(id), 0, membershipTimeout))
}

func memberAddr(id, hostport string) (raft.ServerAddress, error) {
	addr := JoinAddr(id, hostport)
	if got, _, err := SplitAddr(addr); err != nil || got != id {
		return "", fmt.Errorf("raftstore: server %q at %q: an id without @ and host:port are needed", id, hostport)
	}
	return raft.ServerAddress(addr), nil
}

func (s *Store) member(ctx context.Context, f raft.Future) error {
	err := s.awaitContext(ctx, f)
	switch {
	case err == nil, ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown):
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return fmt.Errorf("raftstore: the membership was not changed: %w", err)
}

// TransferLeadership hands leadership to the most advanced voter.
func (s *Store) TransferLeadership(ctx context.Context) error {
	err := s.awaitContext(ctx, s.raft.LeadershipTransfer())
	if errors.Is(err, raft.ErrNotLeader) {
		return ErrNotLeader
	}
	return err
}

// Membership is the part of raft that package quorum steers by.
type Membership interface {
	AddNonvoter(id raft.ServerID, address raft.ServerAddress, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	AddVoter(id raft.ServerID, address raft.ServerAddress, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	DemoteVoter(id raft.ServerID, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	RemoveServer(id raft.ServerID, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	LeadershipTransferToServer(id raft.ServerID, address raft.ServerAddress) raft.Future
	GetConfiguration() raft.ConfigurationFuture
	Leader() raft.ServerAddress
	LastIndex() uint64
	State() raft.RaftState
	Stats() map[string]string
}

// Membership returns raft's own view of the members, for package quorum alone.
func (s *Store) Membership() Membership { return s.raft }

// NodeID is this server's id.
func (s *Store) NodeID() string { return s.cfg.NodeID }

// Advertise is this server's own address, id@host:port.
func (s *Store) Advertise() string { return s.cfg.Transport.Advertise }
