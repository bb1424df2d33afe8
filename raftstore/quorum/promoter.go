package quorum

import (
	"cmp"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// promoter says who gets a vote and who loses it. Everything else about it is
// autopilot's own: a stable leader, every server a potential voter.
type promoter struct {
	autopilot.StablePromoter
	demoteAfter time.Duration
	now         func() time.Time
}

// CalculatePromotionsAndDemotions implements autopilot.Promoter.
func (p *promoter) CalculatePromotionsAndDemotions(c *autopilot.Config, s *autopilot.State) autopilot.RaftChanges {
	now := p.now()
	return autopilot.RaftChanges{
		Promotions: promotions(s, now, s.ServerStabilizationTime(c)),
		Demotions:  demotions(s, now, p.demoteAfter),
	}
}

// FilterFailedServerRemovals implements autopilot.Promoter: nobody is removed
// for being dead.
func (p *promoter) FilterFailedServerRemovals(*autopilot.Config, *autopilot.State, *autopilot.FailedServers) *autopilot.FailedServers {
	return &autopilot.FailedServers{}
}

// promotions are the followers without a vote that have been healthy for long
// enough, as far as there is room.
func promotions(s *autopilot.State, now time.Time, stable time.Duration) []raft.ServerID {
	room := MaxVoters - len(s.Voters)
	var out []raft.ServerID
	for _, id := range ids(s) {
		srv := s.Servers[id]
		if len(out) < room && srv.State == autopilot.RaftNonVoter && srv.Health.IsStable(now, stable) {
			out = append(out, id)
		}
	}
	return out
}

// demotions are the voters that were silent for too long, as many as it takes
// for the others to bear the most losses: with 2 of 5 gone, 3 are needed of 3
// left; without the votes of the 2 it is 2 of 3.
func demotions(s *autopilot.State, now time.Time, after time.Duration) []raft.ServerID {
	var dead []raft.ServerID
	healthy := 0
	for _, id := range ids(s) {
		srv := s.Servers[id]
		switch {
		case !srv.HasVotingRights():
		case srv.Health.Healthy:
			healthy++
		case srv.State != autopilot.RaftLeader && now.Sub(srv.Health.StableSince) >= after:
			dead = append(dead, id)
		}
	}
	best, most := 0, Tolerance(len(s.Voters), healthy)
	for n := 1; n <= len(dead) && len(s.Voters)-n >= MinVoters; n++ {
		if t := Tolerance(len(s.Voters)-n, healthy); t > most {
			best, most = n, t
		}
	}
	// The longest silent first.
	slices.SortStableFunc(dead, func(a, b raft.ServerID) int {
		return cmp.Compare(s.Servers[a].Health.StableSince.UnixNano(), s.Servers[b].Health.StableSince.UnixNano())
	})
	return dead[:best]
}

// Tolerance is how many more of the healthy voters may be lost; negative where
// there is no majority.
func Tolerance(voters, healthy int) int { return healthy - (voters/2 + 1) }

func ids(s *autopilot.State) []raft.ServerID {
	out := make([]raft.ServerID, 0, len(s.Servers))
	for id := range s.Servers {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}
