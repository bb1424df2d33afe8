package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose version understands more than the cluster's level asks every
// server of the configuration, voter or not, what it understands, and raises the
// level to the least of the answers. Who does not answer holds it back: that it
// is down does not say that its version is a newer one.
//
// The question is that of vouch.go. Its answer goes on with the level; an older
// version's ends before.

const (
	// levelInterval is between two rounds of questions, while they are needed.
	levelInterval = 5 * time.Second
	// levelWait bounds one question. An older version keeps the connection open
	// for vouchWait after its answer.
	levelWait = 2 * vouchWait
)

// levels is what the leader knows of the others' levels.
type levels struct {
	kick  chan struct{}     // capacity 1: somebody needs a higher level
	mu    sync.Mutex        // guards the rest
	said  map[string]uint32 // 0: no answer
	asked chan struct{}     // closed and replaced when a round has ended
}

func newLevels() *levels {
	return &levels{kick: make(chan struct{}, 1), asked: make(chan struct{})}
}

// ask has the others asked again, soon.
func (l *levels) ask() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

func (l *levels) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.asked)
	l.asked = make(chan struct{})
}

// Level says how far the cluster's store level is, and what keeps it there.
type Level struct {
	// Cluster is the level of the replicated state, Here what this version
	// understands.
	Cluster, Here uint32
	// Behind are the servers that hold it back, in the order of their ids, and
	// what each said: 0 is nothing. Only a leader knows.
	Behind []Behind
}

// Behind is a server that understands less than the leader, or does not answer.
type Behind struct {
	ID    string
	Level uint32
}

// Level returns the cluster's store level.
func (s *Store) Level() Level {
	s.fsm.mu.RLock()
	out := Level{Cluster: s.fsm.level, Here: s.fsm.understood}
	s.fsm.mu.RUnlock()
	if out.Cluster >= out.Here || !s.IsLeader() {
		return out
	}
	s.levels.mu.Lock()
	defer s.levels.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.levels.said)) {
		if n := s.levels.said[id]; n < out.Here {
			out.Behind = append(out.Behind, Behind{id, n})
		}
	}
	return out
}

// withBehind adds to a refusal for the level's sake who is to be upgraded, and
// has the others asked again.
func (s *Store) withBehind(err error) error {
	var e *LevelError
	if !errors.As(err, &e) {
		return err
	}
	s.levels.ask()
	for _, b := range s.Level().Behind {
		if b.Level < e.Need {
			e.Behind = append(e.Behind, b.ID)
		}
	}
	return err
}

func (s *Store) clusterLevel() uint32 {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.level
}

// keepLevel raises the level while this server leads, until nothing more is
// understood here.
func (s *Store) keepLevel() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(s.layer.ctx, cancel)()
	for {
		lead, changed := s.lead.current()
		var again <-chan time.Time
		if lead != nil && s.clusterLevel() < s.fsm.understood {
			if err := s.raise(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Logger.Warn("the store level is not raised", "err", err)
			}
			again = time.After(levelInterval)
		}
		select {
		case <-changed:
		case <-again:
		case <-s.levels.kick:
		case <-s.stopping:
			return
		}
	}
}

// raise asks the others once, and raises the level to what all understand.
func (s *Store) raise(ctx context.Context) error {
	defer s.levels.ended()
	servers := s.configuration()
	said := s.askLevels(ctx, servers)
	s.levels.mu.Lock()
	s.levels.said = said
	s.levels.mu.Unlock()
	level := s.fsm.understood
	for _, n := range said {
		level = min(level, n)
	}
	if level <= s.clusterLevel() || !slices.Equal(servers, s.configuration()) {
		return nil // asked again later
	}
	if err := s.proposer.raise(ctx, level); err != nil {
		return err
	}
	s.cfg.Logger.Info("the store level was raised: versions that understand less cannot run here any more", "level", level)
	return nil
}

// raiseAlone raises the level at once where this server is the only one, before
// anything else is written.
func (s *Store) raiseAlone() error {
	if servers := s.configuration(); len(servers) != 1 || s.clusterLevel() >= s.fsm.understood {
		return nil
	}
	resp, err := s.round(raising(s.cfg.Clock.Now(), s.fsm.understood))
	if err != nil {
		return err
	}
	_, err = answers(resp, 0)
	return err
}

// askLevels asks all at once.
func (s *Store) askLevels(ctx context.Context, servers []raft.Server) map[string]uint32 {
	ctx, cancel := context.WithTimeout(ctx, levelWait)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	said := map[string]uint32{}
	for _, srv := range servers {
		if string(srv.ID) == s.cfg.NodeID {
			continue
		}
		wg.Go(func() {
			level, err := s.askLevel(ctx, string(srv.Address))
			if err != nil {
				s.cfg.Logger.Debug("a manager does not say which store level it understands", "manager", srv.ID, "err", err)
			}
			mu.Lock()
			defer mu.Unlock()
			said[string(srv.ID)] = level
		})
	}
	wg.Wait()
	return said
}

// askLevel asks the server at addr which level it understands; 0 with an error.
func (s *Store) askLevel(ctx context.Context, addr string) (level uint32, err error) {
	err = s.question(ctx, addr, func(r io.Reader) error {
		if _, _, err := readVouch(r); err != nil {
			return err
		}
		level, err = readLevel(r)
		return err
	})
	return level, err
}

// readLevel reads what follows an answer of vouch.go.
func readLevel(r io.Reader) (uint32, error) {
	var b [4]byte
	switch _, err := io.ReadFull(r, b[:]); {
	case errors.Is(err, io.EOF): // the answer of a version without levels
		return firstLevel, nil
	case err != nil:
		return 0, err
	}
	n := binary.BigEndian.Uint32(b[:])
	if n < firstLevel {
		return 0, fmt.Errorf("an answer with the store level %d", n)
	}
	return n, nil
}
