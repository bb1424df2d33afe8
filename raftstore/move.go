package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// Position is where a state stands in the log it comes from.
type Position struct{ Index, Term uint64 }

// Export writes the present state. open is told the index of the last entry
// that is in it, and says where to write. After Barrier it has everything that
// was acknowledged before.
func (s *Store) Export(open func(index uint64) (io.Writer, error)) error {
	r, err := s.fsm.read()
	if err != nil {
		return err
	}
	w, err := open(r.r.index)
	if err != nil {
		return err
	}
	return writeSnapshot(w, s.fsm.order, &r.r)
}

// Salvage stops the store and writes its state with every entry of the log
// applied, also those of which this server does not know that they were
// committed: when the others are lost, nobody can tell, and one that was
// acknowledged must not be lost. Close the store afterwards.
func (s *Store) Salvage(ctx context.Context, w io.Writer) (Position, error) {
	s.stopWork()
	select {
	case <-s.raftDown:
	case <-ctx.Done():
		return Position{}, ctx.Err()
	}
	select {
	case <-s.tail.done:
	case <-ctx.Done():
		return Position{}, ctx.Err()
	}
	// The log's failure ends the goroutine that meets it.
	var at Position
	err := errors.New("raftstore: the log could not be read")
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = guarded(func() (err error) {
			at, err = s.salvage(w)
			return err
		})
	}()
	<-done
	if why := s.halt.reason(); why != nil {
		return Position{}, why
	}
	return at, err
}

func (s *Store) salvage(w io.Writer) (Position, error) {
	s.fsm.mu.RLock()
	f := &fsm{tables: s.fsm.tables, order: s.fsm.order, hub: newHub(), halt: func(error) {},
		state: s.fsm.state, index: s.fsm.index, clock: s.fsm.clock, level: s.fsm.level, understood: s.fsm.understood}
	s.fsm.mu.RUnlock()
	first, err := s.logs.FirstIndex()
	if err != nil {
		return Position{}, err
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return Position{}, err
	}
	for i := max(first, f.index+1); i <= last && first > 0; i++ {
		var l raft.Log
		if err := s.logs.GetLog(i, &l); err != nil {
			return Position{}, err
		}
		if l.Type != raft.LogCommand {
			continue
		}
		if err, failed := f.Apply(&l).(error); failed {
			return Position{}, err
		}
	}
	term, err := s.stable.GetUint64([]byte("CurrentTerm"))
	if err != nil {
		return Position{}, err
	}
	r, err := f.read()
	if err != nil {
		return Position{}, err
	}
	return Position{Index: max(last, f.index), Term: term}, writeSnapshot(w, f.order, &r.r)
}

// Import makes a store out of a state: of a cluster whose only server is this
// one. Of c it uses the directory, which must not exist, ids, incarnation,
// tables, sealer and the address to advertise. edit is called once the state was
// read: it may change it, and says where it stands. The directory appears whole
// or, after a crash, with a name of its own that the next Import removes.
func Import(c Config, r io.Reader, edit func(*Draft) (Position, error)) (err error) {
	if c.Logger == nil || c.Sealer == nil || c.Dir == "" {
		return errors.New("raftstore: Import needs Dir, Sealer and Logger")
	}
	if _, err := os.Lstat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("raftstore: %s is there already", c.Dir)
	}
	final := c.Dir
	c.Dir += ".importing"
	if err := os.RemoveAll(c.Dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("raftstore: %w", err), os.RemoveAll(c.Dir))
		}
	}()
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		return err
	}
	setDefault(&c.segmentBytes, SegmentBytes)
	s := &Store{cfg: c, halt: newHalter(c.Logger)}
	if s.fsm, err = newFSM(c.Tables, s.halt.stop); err != nil {
		return err
	}
	if err := s.fsm.Restore(io.NopCloser(r)); err != nil {
		return err
	}
	at, err := edit(&Draft{s.fsm, &archive{dir: filepath.Join(c.Dir, archiveDir), bind: newBinder(&c)}, c.Logger})
	if err != nil {
		return err
	}
	if err := s.lay(at); err != nil {
		return err
	}
	if err := os.Rename(c.Dir, final); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(final))
}

// lay writes the state as a snapshot, and the term beside it.
func (s *Store) lay(at Position) (err error) {
	at.Index, at.Term = max(at.Index, s.fsm.index, 1), max(at.Term, 1)
	bind := newBinder(&s.cfg)
	files, err := s.openFiles(bind)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	mark := &watermark{file: files.Mark, bind: bind}
	if err := mark.load(); err != nil {
		return err
	}
	snaps := &markedSnapshots{files.Snapshots, mark, nil}
	sink, err := snaps.Create(raft.SnapshotVersionMax, at.Index, at.Term, s.alone(), at.Index, nil)
	if err != nil {
		return err
	}
	r, err := s.fsm.read()
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := writeSnapshot(sink, s.fsm.order, &r.r); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	stable := &markedStable{&sealedStable{inner: files.Stable, bind: bind, halt: func(err error) error { return err }}, mark}
	return stable.SetUint64([]byte("CurrentTerm"), at.Term)
}
