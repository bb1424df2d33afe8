package raftstore

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// ErrStalled is why a leader stops that cannot hand over.
var ErrStalled = errStalled

// Stand has a server stand for election without waiting for its timeout.
func (s *Store) Stand() { s.stand() }

// LevelsAsked is closed when the next round of questions for levels has ended,
// which AskLevels asks for.
func (s *Store) LevelsAsked() <-chan struct{} {
	s.levels.mu.Lock()
	defer s.levels.mu.Unlock()
	return s.levels.asked
}

// AskLevels has the other servers asked now.
func (s *Store) AskLevels() { s.levels.ask() }

// ReadLevel reads an answer, Permitted judges an object.
var (
	ReadLevel = readLevel
	Permitted = permitted
)

// WithDisk lets a test stand between the store and its log and stable files.
func (c Config) WithDisk(log func(raft.LogStore) raft.LogStore, stable func(raft.StableStore) raft.StableStore) Config {
	c.Storage = func(open func() (*Storage, error)) (*Storage, error) {
		s, err := open()
		if err == nil {
			s.Log, s.Stable = log(s.Log), stable(s.Stable)
		}
		return s, err
	}
	return c
}

// WithSegments makes the log's segments that small.
func (c Config) WithSegments(bytes int) Config {
	c.segmentBytes = bytes
	return c
}

// WithReached has a test told of every state, before the next one is made.
func (c Config) WithReached(reached func(*ReadTx)) Config {
	c.reached = reached
	return c
}

// WithStable lets a test stand between the sealing and every stable value.
func (c Config) WithStable(wrap func(raft.StableStore) raft.StableStore) Config {
	c.wrapStable = wrap
	return c
}

// ConvertUpTo opens the files of c and ends as a crash would before the write
// to the stable store that comes after so many.
func ConvertUpTo(c Config, writes int) error {
	if err := c.complete(); err != nil {
		return err
	}
	halt := newHalter(slog.New(slog.DiscardHandler))
	f := &files{dir: c.Dir, bind: newBinder(&c), halt: halt, logger: raftLogger(c.Logger), segmentBytes: c.segmentBytes}
	f.wrap = func(s raft.StableStore) raft.StableStore { return &cutStable{s, writes} }
	s, err := f.open(c.LogStore)
	if err != nil {
		return err
	}
	return s.Close()
}

type cutStable struct {
	raft.StableStore
	left int
}

var errCut = errors.New("cut short")

func (s *cutStable) Set(key, val []byte) error {
	if s.left == 0 {
		return errCut
	}
	s.left--
	return s.StableStore.Set(key, val)
}

// ForgetLayout makes a closed directory look as the first release left it.
func ForgetLayout(t testing.TB, dir string, sealer Sealer) {
	t.Helper()
	db, err := raftboltdb.NewBoltStore(filepath.Join(dir, boltFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set(sealer.Name([]byte(layoutKey)), nil), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// LowerTerm writes two values of key one after the other, as raft would, and
// returns why the store stopped.
func LowerTerm(ctx context.Context, c Config, key string, one, two uint64) error {
	s, err := Open(ctx, c)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { // a failure ends the goroutine
		defer close(done)
		_ = s.stable.SetUint64([]byte(key), one)
		_ = s.stable.SetUint64([]byte(key), two)
	}()
	<-done
	why := s.Err()
	return errors.Join(why, s.Close(ctx))
}

// RekeySteps are the steps of Rekey, in order.
var RekeySteps = rekeySteps

// WithRekeyed has a test told of each step of Rekey; an error ends it there.
func (c Config) WithRekeyed(step func(string) error) Config {
	c.rekeyed = step
	return c
}
