package quorum

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// picture makes a state out of one letter a server: L leader, V healthy voter,
// D voter that is dead for longer than it may, d voter that died just now,
// N healthy non-voter, n one that is behind, f one that became healthy just now.
func picture(p string, now time.Time) *autopilot.State {
	s := &autopilot.State{Servers: map[raft.ServerID]*autopilot.ServerState{}}
	for i, c := range p {
		id := raft.ServerID(fmt.Sprintf("%c%d", c, i))
		srv := &autopilot.ServerState{Health: autopilot.ServerHealth{Healthy: strings.ContainsRune("LVNf", c), StableSince: now.Add(-time.Hour)}}
		switch c {
		case 'L':
			srv.State = autopilot.RaftLeader
		case 'V', 'D', 'd':
			srv.State = autopilot.RaftVoter
		default:
			srv.State = autopilot.RaftNonVoter
		}
		if c == 'd' || c == 'f' {
			srv.Health.StableSince = now
		}
		s.Servers[id] = srv
		if srv.State != autopilot.RaftNonVoter {
			s.Voters = append(s.Voters, id)
		}
	}
	return s
}

func TestVotes(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name, servers     string
		promoted, demoted int
	}{
		{"a joiner that holds all gets a vote", "LN", 1, 0},
		{"one that is behind does not", "Ln", 0, 0},
		{"one that came up just now does not", "Lf", 0, 0},
		{"the eighth waits", "LVVVVVVN", 0, 0},
		{"two of them, one place", "LVVVVVNN", 1, 0},
		{"one of three is dead: without its vote both others are needed still", "LVD", 0, 0},
		{"one of four is dead: without its vote one more may go", "LVVD", 0, 1},
		{"one of five is dead: nothing is won", "LVVVD", 0, 0},
		{"two of five are dead", "LVVDD", 0, 2},
		{"two of five are dead, one of them just now", "LVVDd", 0, 0},
		{"three of seven are dead: two votes gone bear one loss, three no more than that", "LVVVDDD", 0, 2},
		{"two of seven are dead", "LVVVVDD", 0, 2},
		{"never below three", "LVDD", 0, 1},
		{"the majority is dead: there is nothing to win", "LDD", 0, 0},
	} {
		s := picture(c.servers, now)
		if got := len(promotions(s, now, time.Second)); got != c.promoted {
			t.Errorf("%s (%s): %d promoted, want %d", c.name, c.servers, got, c.promoted)
		}
		demoted := demotions(s, now, time.Minute)
		if len(demoted) != c.demoted {
			t.Errorf("%s (%s): demoted %v, want %d", c.name, c.servers, demoted, c.demoted)
		}
		for _, id := range demoted {
			if id[0] != 'D' {
				t.Errorf("%s: %s was demoted", c.name, id)
			}
		}
	}
}

// Whatever is demoted leaves at least MinVoters, and the rest better off.
func TestDemotionNeverHurts(t *testing.T) {
	now := time.Now()
	for voters := 1; voters <= MaxVoters; voters++ {
		for dead := 0; dead < voters; dead++ {
			s := picture("L"+strings.Repeat("V", voters-dead-1)+strings.Repeat("D", dead), now)
			n := len(demotions(s, now, time.Minute))
			before, after := Tolerance(voters, voters-dead), Tolerance(voters-n, voters-dead)
			if n > 0 && (voters-n < MinVoters || after <= before) {
				t.Errorf("%d voters, %d dead: %d demoted, which bears %d losses instead of %d", voters, dead, n, after, before)
			}
		}
	}
}
