package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Store is the part of *raftstore.Store that is steered.
type Store interface {
	NodeID() string
	IsLeader() bool
	Servers() []raftstore.Server
	Progress() map[string]raftstore.Progress
	Membership() raftstore.Membership
	AddNonvoter(ctx context.Context, id, hostport string) error
	RemoveServer(ctx context.Context, id string) error
	TransferLeadership(ctx context.Context) error
}

// Manager is one that should be in the configuration.
type Manager struct {
	ID, Addr string // host:port
	// Up is whether it is heard of besides raft, which speaks to a server whose
	// owner does not serve yet.
	Up bool
}

// Config is what a Keeper needs.
type Config struct {
	Store Store
	// Managers lists every manager there should be. It must be right: whoever is
	// not in it is removed.
	Managers func() ([]Manager, error)
	Logger   *slog.Logger
	// DemoteAfter is how long a voter must be silent to lose its vote; zero is
	// the default.
	DemoteAfter time.Duration
}

// Run keeps the quorum until ctx ends. Call it on the leader, while it leads.
func Run(ctx context.Context, c Config) {
	if c.DemoteAfter == 0 {
		c.DemoteAfter = demoteAfter
	}
	k := &keeper{c: c}
	pilot := autopilot.New(c.Store.Membership(), k,
		autopilot.WithLogger(raftstore.HCLog(c.Logger)),
		autopilot.WithPromoter(&promoter{demoteAfter: c.DemoteAfter, now: time.Now}),
		autopilot.WithUpdateInterval(updateInterval), autopilot.WithReconcileInterval(reconcileInterval))
	pilot.Start(ctx)
	defer func() { <-pilot.Stop() }()
	tick := time.NewTicker(reconcileInterval)
	defer tick.Stop()
	for {
		if err := k.adjust(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, raftstore.ErrNotLeader) {
			c.Logger.Warn("the quorum was not changed", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// keeper is autopilot's view of the cluster.
type keeper struct {
	c     Config
	votes map[string]bool // of adjust: who had one, to tell of changes
}

// adjust brings configuration and managers together: who should be there is
// added without a vote, who should not is removed.
func (k *keeper) adjust(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	managers, err := k.c.Managers()
	if err != nil || len(managers) == 0 {
		return err
	}
	servers := k.c.Store.Servers()
	k.tell(servers)
	self := k.c.Store.NodeID()
	for _, s := range servers {
		if slices.ContainsFunc(managers, func(m Manager) bool { return m.ID == s.ID }) {
			continue
		}
		if s.ID == self {
			if err := k.c.Store.TransferLeadership(ctx); err != nil {
				return fmt.Errorf("this server is no manager any more and could not hand over: %w", err)
			}
			return nil
		}
		if err := k.c.Store.RemoveServer(ctx, s.ID); err != nil {
			return fmt.Errorf("remove %s: %w", s.ID, err)
		}
		k.c.Logger.Info("server removed from the quorum: it is no manager any more", "node", s.ID)
	}
	for _, m := range managers {
		if slices.ContainsFunc(servers, func(s raftstore.Server) bool { return s.ID == m.ID }) {
			continue
		}
		if err := k.c.Store.AddNonvoter(ctx, m.ID, m.Addr); err != nil {
			return fmt.Errorf("add %s: %w", m.ID, err)
		}
	}
	return nil
}

// tell logs whose vote came or went since it was last called.
func (k *keeper) tell(servers []raftstore.Server) {
	votes := map[string]bool{}
	for _, s := range servers {
		votes[s.ID] = s.Voter
		before, known := k.votes[s.ID]
		switch {
		case k.votes == nil || known && before == s.Voter || !known && !s.Voter:
		case s.Voter:
			k.c.Logger.Info("manager has a vote now", "node", s.ID)
		default:
			k.c.Logger.Warn("manager was silent for too long and has no vote now: it gets it back when it is", "node", s.ID)
		}
	}
	k.votes = votes
}

// AutopilotConfig implements autopilot.ApplicationIntegration.
func (k *keeper) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{LastContactThreshold: silence, MaxTrailingLogs: maxTrailing,
		ServerStabilizationTime: stableTime, MinQuorum: MinVoters}
}

// NotifyState implements autopilot.ApplicationIntegration.
func (k *keeper) NotifyState(*autopilot.State) {}

// RemoveFailedServer implements autopilot.ApplicationIntegration; CleanupDeadServers
// is off, so it is never asked for.
func (k *keeper) RemoveFailedServer(*autopilot.Server) {}

// KnownServers implements autopilot.ApplicationIntegration.
func (k *keeper) KnownServers() map[raft.ServerID]*autopilot.Server {
	managers, err := k.c.Managers()
	if err != nil {
		k.c.Logger.Warn("the managers cannot be listed", "err", err)
		return nil
	}
	progress, self := k.c.Store.Progress(), k.c.Store.NodeID()
	voters := map[string]bool{}
	for _, s := range k.c.Store.Servers() {
		voters[s.ID] = s.Voter
	}
	out := map[raft.ServerID]*autopilot.Server{}
	for _, m := range managers {
		status := autopilot.NodeFailed
		// A vote is given to who serves; it is kept by who answers raft.
		if m.Up || m.ID == self || voters[m.ID] && time.Since(progress[m.ID].Contact) < silence {
			status = autopilot.NodeAlive
		}
		id := raft.ServerID(m.ID)
		out[id] = &autopilot.Server{ID: id, Name: m.ID, Address: raft.ServerAddress(raftstore.JoinAddr(m.ID, m.Addr)),
			NodeStatus: status, NodeType: autopilot.NodeVoter, RaftVersion: int(raft.ProtocolVersionMax), IsLeader: m.ID == self && k.c.Store.IsLeader()}
	}
	return out
}

// FetchServerStats implements autopilot.ApplicationIntegration. Nobody is asked:
// the answers to replication say it all.
func (k *keeper) FetchServerStats(_ context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	progress, self, m := k.c.Store.Progress(), k.c.Store.NodeID(), k.c.Store.Membership()
	out := map[raft.ServerID]*autopilot.ServerStats{}
	for id := range servers {
		if string(id) == self {
			term, err := strconv.ParseUint(m.Stats()["last_log_term"], 10, 64)
			if err == nil {
				out[id] = &autopilot.ServerStats{LastTerm: term, LastIndex: m.LastIndex()}
			}
			continue
		}
		if p, ok := progress[string(id)]; ok {
			out[id] = &autopilot.ServerStats{LastContact: time.Since(p.Contact), LastTerm: p.Term, LastIndex: p.Index}
		} else {
			// Not what it was when it was last heard of.
			out[id] = &autopilot.ServerStats{LastContact: never}
		}
	}
	return out
}
