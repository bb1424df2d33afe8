package raftstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/keyscan"
)

// ErrRekey is returned where records under a former key are left: a snapshot was
// being written. Try again.
var ErrRekey = errors.New("raftstore: records under a former key are left")

// Rekey seals everything in the directory under the newest key of the sealer, which
// must be a Keyring, while the store serves. When it returns without an error, no
// byte of the directory looks like a record under a key of before: the former key
// may be dropped. Cut short anywhere, by an error or by a crash, it leaves a store
// that opens with both keys, and is done by calling it again.
//
// In this order:
//
//  1. A snapshot is taken, under the new key, which also shortens the log.
//  2. The log's entries and raft's values are copied, sealed anew, into a database
//     and segments of their own beside those in use. At the end, which stops the
//     store for the last few entries, the new database takes the old one's name:
//     that is one rename, and it says by its names which segments are its. The old
//     files are removed whole, with all that was deleted in them.
//  3. Both slots of the watermark are written.
//  4. Snapshots that have a chunk under the old key go; where there is no other, it
//     is copied first. Segments of the audit log are sealed anew, each in its place.
//  5. Every byte of every file is looked at (keyscan).
//
// A snapshot that somebody began to write before the key was added may still come to
// be: then step 5 finds it, and the caller comes again. ErrRekey says so.
func (s *Store) Rekey(ctx context.Context) (keyscan.Report, error) {
	none := keyscan.Report{}
	ring, ok := s.cfg.Sealer.(Keyring)
	if !ok || s.files.files == nil {
		return none, errors.New("raftstore: the key of this store cannot be renewed")
	}
	select {
	case s.rekeying <- struct{}{}:
	case <-ctx.Done():
		return none, ctx.Err()
	case <-s.stopping:
		return none, s.explain(ErrClosed)
	}
	defer func() { <-s.rekeying }()
	ctx, cancel := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(); <-followed }()
	epochs := ring.Epochs()
	if len(epochs) == 0 {
		return none, errors.New("raftstore: the sealer has no key")
	}
	epoch := epochs[0]
	if err := s.rekeyAll(ctx, epoch); err != nil {
		return none, fmt.Errorf("raftstore: the key was not renewed yet: %w", s.explain(err))
	}
	report, err := keyscan.Dir(ctx, s.cfg.Dir)
	if err != nil {
		return none, fmt.Errorf("raftstore: looking for records under former keys: %w", err)
	}
	for old := range report.Epochs() {
		if old < epoch {
			return report, fmt.Errorf("%w: of epoch %d in %v", ErrRekey, old, report.Under(old))
		}
	}
	return report, s.rekeyStep(stepScanned)
}

// The steps at whose end tests look in.
const (
	stepSnapshot = "snapshot"
	stepPrepared = "prepared"
	stepCopied   = "copied"
	stepRenamed  = "renamed"
	stepRemoved  = "removed"
	stepMarked   = "marked"
	stepPruned   = "pruned"
	stepScanned  = "scanned"
)

// rekeySteps are Rekey's steps, in order, as tests are told of them.
var rekeySteps = []string{stepSnapshot, stepPrepared, stepCopied, stepRenamed, stepRemoved, stepMarked, stepPruned, stepScanned}

func (s *Store) rekeyStep(name string) error {
	if s.cfg.rekeyed != nil {
		return s.cfg.rekeyed(name)
	}
	return nil
}

func (s *Store) rekeyAll(ctx context.Context, epoch uint32) error {
	if err := s.Snapshot(ctx); err != nil {
		if ctx.Err() != nil || s.halt.reason() != nil {
			return err
		}
		s.cfg.Logger.Info("no snapshot was taken before the store's key is renewed: the one there is, is copied", "err", err)
	}
	if err := s.rekeyStep(stepSnapshot); err != nil {
		return err
	}
	behind, err := behind(&s.gate, func() (bool, error) { return s.bind.epoch != epoch, nil })
	if err == nil && behind {
		err = guarded(func() error { return s.exchange(ctx, epoch) })
	}
	if err != nil {
		return err
	}
	for range markSlots {
		if err := s.mark.lower(func(*marked) {}); err != nil {
			return err
		}
	}
	if err := s.rekeyStep(stepMarked); err != nil {
		return err
	}
	if err := errors.Join(s.files.files.snaps.reseal(ctx, epoch), s.fsm.archive.reseal(ctx, epoch)); err != nil {
		return err
	}
	return s.rekeyStep(stepPruned)
}

// exchange replaces database and segments.
func (s *Store) exchange(ctx context.Context, epoch uint32) (err error) {
	f := s.files.files
	next, err := f.beside(epoch)
	if err != nil {
		return err
	}
	committed := false
	defer func() {
		if !committed {
			err = errors.Join(err, next.discard())
		}
	}()
	if err := s.rekeyStep(stepPrepared); err != nil {
		return err
	}
	c := &logCopier{from: s.sealed.inner, taken: f.log, to: guardedLog{next.log}, bind: s.bind}
	f.log.takeCut()
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if more, err = behind(&s.gate, c.batch); err != nil {
			return err
		}
	}
	if err := s.rekeyStep(stepCopied); err != nil {
		return err
	}
	old, err := s.commitExchange(c, next, &committed)
	if old == nil {
		return err
	}
	// From here on the store is on the new files, whatever becomes of the old.
	return errors.Join(err, s.rekeyStep(stepRenamed), old.discard(), s.rekeyStep(stepRemoved))
}

// commitExchange copies what is left with nobody else at the files, and has the new
// ones take the place of the old, which it returns.
func (s *Store) commitExchange(c *logCopier, next *fileSet, committed *bool) (old *fileSet, err error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	for more := true; more; {
		if more, err = c.batch(); err != nil {
			return nil, err
		}
	}
	f := s.files.files
	for _, key := range stableKeys {
		if key == walStateKey { // the new segments have their own
			continue
		}
		val, err := f.stable.read([]byte(key))
		if errors.Is(err, errStableNotFound) {
			continue
		}
		if err == nil {
			err = next.stable.write([]byte(key), val)
		}
		if err != nil {
			return nil, fmt.Errorf("raft's %s: %w", key, err)
		}
	}
	if err := next.takeName(); err != nil {
		return nil, err
	}
	*committed = true
	old = f.exchange(next)
	if err := next.syncName(); err != nil {
		// After a loss of power the old files could be back, without what is written
		// from now on.
		s.halt.stop(fmt.Errorf("the store's new files are not known to be on the disk: %w", err))
		return old, err
	}
	return old, nil
}
