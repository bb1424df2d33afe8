package raftstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// fileSet is a database, with the segments where the log is in those.
type fileSet struct {
	dir    string
	bolt   *raftboltdb.BoltStore
	wal    *walLog // nil for none
	inner  raft.StableStore
	stable *sealedStable
	log    raft.LogStore
	epoch  uint32
	// remove are the names that go with it; empty once they are others'.
	remove []string
}

const boltTmp = boltFile + tmpSuffix

// dropUnfinished removes a database that never took the other's name.
func (f *files) dropUnfinished() error {
	return atomicfile.Remove(filepath.Join(f.dir, boltTmp))
}

// beside makes an empty set for the key of that epoch.
func (f *files) beside(epoch uint32) (_ *fileSet, err error) {
	n := &fileSet{dir: f.dir, epoch: epoch, remove: []string{boltTmp}}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.discard())
		}
	}()
	if f.wal != nil {
		n.remove = append(n.remove, walNameOf(epoch))
	}
	for _, name := range n.remove { // of an attempt before
		if err := os.RemoveAll(filepath.Join(f.dir, name)); err != nil {
			return nil, err
		}
	}
	if n.bolt, err = openBolt(filepath.Join(f.dir, boltTmp)); err != nil {
		return nil, err
	}
	n.inner = f.wrapped(n.bolt)
	n.stable, n.log = f.below(n.inner, epoch), n.bolt
	if f.wal == nil {
		return n, nil
	}
	if err := n.stable.Set([]byte(walStateKey), nil); err != nil {
		return nil, err
	}
	if n.wal, err = openWAL(filepath.Join(f.dir, walNameOf(epoch)), n.stable, f.segmentBytes, f.logger); err != nil {
		return nil, err
	}
	n.log = n.wal
	return n, nil
}

// takeName has the database take the name of the one in use. What is in it was
// synced, each value and entry by itself.
func (n *fileSet) takeName() error {
	return os.Rename(filepath.Join(n.dir, boltTmp), filepath.Join(n.dir, boltFile))
}

func (n *fileSet) syncName() error { return atomicfile.SyncDir(n.dir) }

// exchange takes the set into use, whose database has its name already, and returns
// the one before. The caller holds the gate alone.
func (f *files) exchange(n *fileSet) (old *fileSet) {
	old = &fileSet{dir: f.dir, bolt: f.bolt, wal: f.wal}
	if f.wal != nil {
		old.remove = []string{f.walName()} // the database lost its name
	}
	n.remove = nil
	f.bolt, f.wal, f.stable = n.bolt, n.wal, n.stable
	f.log.LogStore, f.values.StableStore = n.log, n.inner
	f.bind.epoch = n.epoch
	return old
}

// discard closes a set that nobody uses and removes its files.
func (n *fileSet) discard() (err error) {
	if n.wal != nil {
		err = n.wal.Close()
	}
	if n.bolt != nil {
		err = errors.Join(err, guarded(n.bolt.Close))
	}
	for _, name := range n.remove {
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.dir, name)))
	}
	return errors.Join(err, atomicfile.SyncDir(n.dir))
}

// logCopier copies a log that is in use into another, sealed anew. It follows what
// is appended and taken away meanwhile.
type logCopier struct {
	from  raft.LogStore
	taken *exchangedLog
	to    raft.LogStore
	bind  *binder
}

// batch copies some entries and reports whether more are there. The caller holds the
// gate: shared, what it copied may be gone again by the next batch; alone, the copy
// is whole when there is no more.
func (c *logCopier) batch() (more bool, err error) {
	if err := c.dropGone(); err != nil {
		return false, err
	}
	last, err := c.from.LastIndex()
	if err != nil {
		return false, err
	}
	next, err := c.to.LastIndex()
	if err != nil {
		return false, err
	}
	if next++; next == 1 {
		if next, err = c.from.FirstIndex(); err != nil {
			return false, err
		}
	}
	var batch []*raft.Log
	size := 0
	for ; last > 0 && next <= last && len(batch) < maxCopyEntries && size < maxCopyBytes; next++ {
		l, err := c.reseal(next)
		if errors.Is(err, raft.ErrLogNotFound) { // taken away this moment
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("log entry %d: %w", next, err)
		}
		batch, size = append(batch, l), size+len(l.Data)
	}
	if len(batch) == 0 {
		return false, nil
	}
	return next <= last, c.to.StoreLogs(batch)
}

// dropGone takes away from the copy what is gone from the log.
func (c *logCopier) dropGone() error {
	cut := c.taken.takeCut()
	has, err := c.to.FirstIndex()
	if err != nil {
		return err
	}
	upTo, err := c.to.LastIndex()
	if err != nil || upTo == 0 {
		return err
	}
	if cut > 0 && cut <= upTo {
		if err := c.to.DeleteRange(max(cut, has), upTo); err != nil {
			return err
		}
		if upTo = cut - 1; upTo < has {
			return nil
		}
	}
	first, err := c.from.FirstIndex()
	if err != nil {
		return err
	}
	if first == 0 { // it has none at all
		return c.to.DeleteRange(has, upTo)
	}
	if first > has {
		return c.to.DeleteRange(has, min(first-1, upTo))
	}
	return nil
}

func (c *logCopier) reseal(index uint64) (*raft.Log, error) {
	var l raft.Log
	if err := c.from.GetLog(index, &l); err != nil {
		return nil, err
	}
	aad := c.bind.logAAD(l.Index, l.Term, uint8(l.Type))
	plain, err := c.bind.sealer.Open(labelLog, aad, l.Data)
	if err != nil {
		return nil, fmt.Errorf("it %w", unopened(err))
	}
	data, err := c.bind.sealer.Seal(labelLog, aad, plain)
	clear(plain)
	return &raft.Log{Index: l.Index, Term: l.Term, Type: l.Type, Data: data}, err
}
