package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/quorum"
)

// A manager's store is opened dormant, and takes part once the others have said
// that they know of nothing that is not on its disk. Where they do know of
// something, the disk is an old copy: its vote is given back first, as it may
// have been given before and forgotten; then the store is emptied, and filled
// by the leader.

// errOldCopy ends a manager's state to begin anew with an empty store.
var errOldCopy = errors.New("this manager's disk is an old copy of itself")

const (
	// settleRetry, doubling up to longestSettleRetry, is the pause before the
	// others are asked again.
	settleRetry, longestSettleRetry = 50 * time.Millisecond, time.Second
	// soughtPatience is for how long a leader may speak raft and answer no
	// question, as an older version's does not.
	soughtPatience = 20 * time.Second
	// wipeInterval is the least time between two stores that are thrown away: who
	// lies about this one cannot keep it from ever being of use.
	wipeInterval = 10 * time.Minute
)

// settle wakes the store when its disk is up to date.
func (m *managerState) settle(ctx context.Context) error {
	log := m.n.log.With("part", "rollback")
	var last quorum.Verdict
	for pause, first := settleRetry, true; ; pause, first = min(2*pause, longestSettleRetry), false {
		answers, leader := m.testimonies(ctx)
		for id, since := range m.store.SoughtBy() {
			if _, answered := answers[id]; !answered && since > soughtPatience {
				log.Warn("a leader does not say what it knows of this manager's disk, as one of an older version: going on without", "leader", id)
				answers[id] = quorum.Testimony{Leads: true}
			}
		}
		own := m.store.Opened()
		verdict := quorum.Judge(quorum.Case{ID: m.n.who().NodeID, Own: own, Servers: m.store.Servers(), Answers: answers})
		if verdict != last || first {
			logVerdict := log.Info
			if verdict >= quorum.OldCopy {
				logVerdict = log.Error
			}
			logVerdict("asked the other managers how far this one's disk once was", "verdict", verdict.String(),
				"own_term", own.Term, "own_index", own.Index, "answers", fmt.Sprintf("%+v", answers))
			last = verdict
		}
		switch verdict {
		case quorum.UpToDate:
			m.waiting("waiting for a leader: a majority of managers must be up and unlocked; if it never will be, see `redoubt recover`")
			m.store.Wake()
			return nil
		case quorum.OldCopy:
			if err := m.beginAnew(ctx, leader, own); err == nil || errors.Is(err, errOldCopy) {
				return err
			} else if ctx.Err() == nil {
				log.Warn("this manager cannot begin anew yet", "err", err)
				m.waiting("its disk is an old copy of itself, so it neither votes nor serves; it begins anew with an empty store: %v", err)
			}
		case quorum.OldButNeeded:
			m.waiting("its disk is an old copy of itself, so it neither votes nor serves; it is emptied and filled again once a majority of the others is up and unlocked; " +
				"if they are lost, put back this manager's newest disk; see `redoubt recover`")
		default:
			m.waiting("waiting for the other managers: a majority must be up and unlocked; if it never will be, see `redoubt recover`")
		}
		if sleep(ctx, pause) != nil {
			return ctx.Err()
		}
	}
}

func (m *managerState) waiting(format string, args ...any) {
	m.n.setPhase(controlpb.NodePhase_NODE_PHASE_NO_QUORUM, m, format, args...)
}

// beginAnew gives the vote back and returns errOldCopy where the store is to be
// thrown away then, nil where it was and may be woken.
func (m *managerState) beginAnew(ctx context.Context, leader witnessPeer, own raftstore.Reach) error {
	empty := own == raftstore.Reach{}
	if since := time.Since(time.Unix(m.n.who().Renewed, 0)); !empty && since >= 0 && since < wipeInterval {
		return fmt.Errorf("its store was thrown away %v ago already: that is not done again before %v have passed", since.Round(time.Second), wipeInterval)
	}
	if leader.id == "" {
		return errors.New("the others have no leader yet")
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	c, _, err := m.toWitness(ctx, leader.id, leader.addr)
	if err != nil {
		return messageOf(err)
	}
	defer c.Close()
	resp, err := pkipb.NewWitnessClient(c).StepBack(ctx, &pkipb.StepBackRequest{})
	if err != nil {
		return messageOf(err)
	}
	var ids, addrs []string
	for _, s := range resp.GetServers() {
		if s.GetNodeId() != m.n.who().NodeID {
			ids, addrs = append(ids, s.GetNodeId()), append(addrs, s.GetAddress())
		}
	}
	if err := pki.CheckAddresses(addrs); err != nil {
		return fmt.Errorf("what the leader says of the managers is refused: %w", err)
	}
	slices.Sort(ids)
	if empty && slices.Equal(ids, m.n.who().Peers) {
		m.store.Wake()
		return nil
	}
	if err := m.n.remember(func(s *member) { s.Peers, s.Managers, s.Renewed = ids, addrs, time.Now().Unix() }); err != nil {
		return err
	}
	m.n.log.Error("this manager's disk is an old copy of itself: it has given its vote back, and its store is thrown away and filled anew by the others",
		"own_term", own.Term, "own_index", own.Index)
	return errOldCopy
}

// renewedNote is what status says of a store that was thrown away lately.
func (m *managerState) renewedNote() string {
	self := m.n.who()
	at := time.Unix(self.Renewed, 0)
	if since := time.Since(at); self.Renewed == 0 || since < 0 || since > renewedShown {
		return ""
	}
	note := "its disk was an old copy of itself, so its store was thrown away and filled anew on " + at.UTC().Format("2006-01-02 15:04:05 MST")
	for _, s := range m.store.Servers() {
		if s.ID == self.NodeID && s.Voter {
			return note
		}
	}
	return note + "; it has no vote yet"
}

// renewedShown is for how long status tells that.
const renewedShown = 24 * time.Hour
