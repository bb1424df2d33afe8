package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/raft"
)

// sealedStable seals the small values raft must not forget: the current term
// and the last vote. Their names are replaced as well.
type sealedStable struct {
	inner raft.StableStore
	bind  *binder
	halt  func(error) error
	terms *termGuard // nil before raft runs
	// gate is held, shared, from sealing on until what was sealed is written; nil
	// where the key is not renewed.
	gate *sync.RWMutex
}

// termGuard holds the highest term that was, or is being, written. Neither the
// term nor the term of the last vote ever goes down: whoever asks for that is
// about to vote a second time in a term.
type termGuard struct{ term, vote atomic.Uint64 }

// current is the term that this server is in, or on its way to.
func (g *termGuard) current() uint64 { return g.term.Load() }

// raise refuses a value that is lower than one before. Values of other names
// are not its business.
func (g *termGuard) raise(key string, val uint64) error {
	var kept *atomic.Uint64
	switch key {
	case "CurrentTerm":
		kept = &g.term
	case "LastVoteTerm":
		kept = &g.vote
	default:
		return nil
	}
	for {
		have := kept.Load()
		if val < have {
			return fmt.Errorf("it would go down from %d to %d", have, val)
		}
		if kept.CompareAndSwap(have, val) {
			return nil
		}
	}
}

// errStableNotFound has the very text by which raft recognises an absent value;
// that text is all there is of a contract between raft and its stores.
var errStableNotFound = errors.New("not found")

// Set implements raft.StableStore.
func (s *sealedStable) Set(key, val []byte) error {
	return s.check(s.write(key, val), key, "written")
}

func (s *sealedStable) write(key, val []byte) error {
	if !slices.Contains(stableKeys, string(key)) {
		return errors.New("the store keeps no such value")
	}
	defer through(s.gate)()
	name := s.bind.name(key)
	sealed, err := s.bind.sealer.Seal(labelStable, s.bind.stableAAD(name), val)
	if err != nil {
		return err
	}
	return s.inner.Set(name, sealed)
}

// Get implements raft.StableStore.
func (s *sealedStable) Get(key []byte) ([]byte, error) {
	val, err := s.read(key)
	if errors.Is(err, errStableNotFound) {
		return nil, errStableNotFound
	}
	return val, s.check(err, key, "opened")
}

func (s *sealedStable) read(key []byte) ([]byte, error) {
	defer through(s.gate)()
	name := s.bind.name(key)
	sealed, err := s.inner.Get(name)
	switch {
	case err != nil && err.Error() == errStableNotFound.Error(), err == nil && len(sealed) == 0:
		return nil, errStableNotFound
	case err != nil:
		return nil, err
	}
	return s.bind.sealer.Open(labelStable, s.bind.stableAAD(name), sealed)
}

// raftKeys are the values raft keeps. It reads the votes only when it is asked
// for one, which is late to learn that they are damaged.
var raftKeys = []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"}

// stableKeys are all values there are: who renews the key must know their names.
var stableKeys = append([]string{layoutKey, walStateKey, witnessKey}, raftKeys...)

// verify opens every value once.
func (s *sealedStable) verify() error {
	for _, key := range raftKeys {
		if _, err := s.read([]byte(key)); err != nil && !errors.Is(err, errStableNotFound) {
			return fmt.Errorf("raft's %s %w", key, unopened(err))
		}
	}
	if s.terms == nil {
		return nil
	}
	term, vote, _, err := s.votes()
	if err == nil {
		err = errors.Join(s.terms.raise("CurrentTerm", term), s.terms.raise("LastVoteTerm", vote))
	}
	return err
}

// votes returns what raft must never forget: its term, the term it last voted in
// and whether it voted. Absent values are 0.
func (s *sealedStable) votes() (term, vote uint64, voted bool, err error) {
	if term, err = s.number("CurrentTerm"); err != nil {
		return 0, 0, false, err
	}
	if vote, err = s.number("LastVoteTerm"); err != nil {
		return 0, 0, false, err
	}
	_, err = s.read([]byte("LastVoteCand"))
	if err != nil && !errors.Is(err, errStableNotFound) {
		return 0, 0, false, fmt.Errorf("raft's last vote %w", unopened(err))
	}
	return term, vote, err == nil, nil
}

func (s *sealedStable) number(key string) (uint64, error) {
	val, err := s.read([]byte(key))
	switch {
	case errors.Is(err, errStableNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("raft's %s %w", key, unopened(err))
	case len(val) != 8:
		return 0, fmt.Errorf("raft's %s: %w: %w", key, errMalformed, errLost)
	}
	return binary.BigEndian.Uint64(val), nil
}

// SetUint64 implements raft.StableStore.
func (s *sealedStable) SetUint64(key []byte, val uint64) error {
	if s.terms != nil {
		if err := s.terms.raise(string(key), val); err != nil {
			return s.check(err, key, "written")
		}
	}
	return s.Set(key, u64(val))
}

// GetUint64 implements raft.StableStore.
func (s *sealedStable) GetUint64(key []byte) (uint64, error) {
	val, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(val) != 8 {
		return 0, s.check(fmt.Errorf("%w: %w", errMalformed, errLost), key, "read")
	}
	return binary.BigEndian.Uint64(val), nil
}

func (s *sealedStable) check(err error, key []byte, verb string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.EFBIG) {
		err = lost(err)
	}
	return s.halt(fmt.Errorf("raft's %s cannot be %s: %w", key, verb, err))
}
