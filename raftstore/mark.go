package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// MarkFile holds the watermark.
type MarkFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// watermark says what the files must hold at least. Log and database end where
// their last whole record ends: from their own bytes alone nobody can tell a
// write that a crash cut short, which was never acknowledged, from an
// acknowledged one that was damaged since. So after each write that has reached
// the disk, and never before, the mark is moved, in a file of its own. It is
// not synced: after a crash of the process it is exact, after a loss of power
// it may lag by what the kernel had not written yet, which costs some of the
// detection and never raises a false alarm. It is lowered, and synced, before
// the log is cut.
//
// The file has two slots, written in turn: a slot is `length u32 ‖ sealed`.
type watermark struct {
	file MarkFile
	bind *binder

	mu  sync.Mutex // guards the rest
	seq uint64
	at  marked

	empty bool // load found that nothing was ever written
}

// marked is what a watermark vouches for.
type marked struct {
	last  uint64 // the last entry of the log
	snap  uint64 // the entry the newest snapshot reaches
	term  uint64 // CurrentTerm
	vote  uint64 // LastVoteTerm
	voted bool   // LastVoteCand was written once
}

const (
	markSlots     = 2
	markSlotBytes = 512 // one sector, so that a slot is written whole or not
	markName      = "mark"
)

// openMarkFile opens the file, or makes it empty with all its blocks.
func openMarkFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	if err := atomicfile.Write(path, make([]byte, markSlots*markSlotBytes)); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

func (w *watermark) aad(slot uint64) []byte {
	return w.bind.fileAAD(fmt.Sprintf("%s/%d", markName, slot))
}

// load reads the newest slot. A slot that does not open was being written when
// power failed, or was damaged; the other one is older by one write at most, so
// what it vouches for still holds.
func (w *watermark) load() error {
	empty, opened := 0, 0
	for slot := range uint64(markSlots) {
		buf := make([]byte, markSlotBytes)
		if _, err := w.file.ReadAt(buf, int64(slot*markSlotBytes)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		n := binary.BigEndian.Uint32(buf)
		if n == 0 {
			empty++
			continue
		}
		if n > markSlotBytes-4 {
			continue
		}
		plain, err := w.bind.sealer.Open(labelFile, w.aad(slot), buf[4:4+n])
		if err != nil || len(plain) != markPlain {
			continue
		}
		opened++
		if seq := binary.BigEndian.Uint64(plain); seq > w.seq {
			w.seq, w.at = seq, decodeMark(plain)
		}
	}
	w.empty = empty == markSlots
	if opened == 0 && !w.empty {
		return fmt.Errorf("the watermark %w", unopened(nil))
	}
	return nil
}

const markPlain = 5*8 + 1

func decodeMark(b []byte) marked {
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return marked{last: at(1), snap: at(2), term: at(3), vote: at(4), voted: b[40] == 1}
}

// move changes the mark where change does, after what it vouches for is on disk.
func (w *watermark) move(change func(*marked)) error { return w.write(change, false) }

// lower is move before something is taken away: it is on disk on return.
func (w *watermark) lower(change func(*marked)) error { return w.write(change, true) }

func (w *watermark) write(change func(*marked), sync bool) error {
	if w.file == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	to := w.at
	change(&to)
	if to == w.at && !sync {
		return nil
	}
	var plain [markPlain]byte
	for i, v := range []uint64{w.seq + 1, to.last, to.snap, to.term, to.vote} {
		binary.BigEndian.PutUint64(plain[8*i:], v)
	}
	if to.voted {
		plain[40] = 1
	}
	slot := (w.seq + 1) % markSlots
	sealed, err := w.bind.sealer.Seal(labelFile, w.aad(slot), plain[:])
	if err != nil {
		return err
	}
	buf := make([]byte, 4, markSlotBytes)
	binary.BigEndian.PutUint32(buf, uint32(len(sealed)))
	if buf = append(buf, sealed...); len(buf) > markSlotBytes {
		return fmt.Errorf("the watermark has %d bytes, more than %d", len(buf), markSlotBytes)
	}
	if _, err := w.file.WriteAt(buf, int64(slot*markSlotBytes)); err != nil {
		return err
	}
	w.seq, w.at = w.seq+1, to
	if sync {
		return w.file.Sync()
	}
	return nil
}

// check compares the files with the mark.
func (w *watermark) check(logs raft.LogStore, stable *sealedStable, kept []*raft.SnapshotMeta) error {
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	reach := last
	for _, m := range kept {
		reach = max(reach, m.Index)
	}
	at := w.at
	if want := max(at.last, at.snap); last < at.last || reach < want {
		return fmt.Errorf("log and snapshots end at entry %d, but the entries up to %d were written and acknowledged: a file was damaged or exchanged: %w",
			reach, want, errLost)
	}
	term, vote, voted, err := stable.votes()
	if err != nil {
		return err
	}
	if term < at.term || vote < at.vote || at.voted && !voted {
		return fmt.Errorf("raft's term or vote is older than what was written: a file was damaged or exchanged: %w", errLost)
	}
	return nil
}

// adopt makes the mark of a directory that had none.
func (w *watermark) adopt(logs raft.LogStore, stable *sealedStable, kept []*raft.SnapshotMeta) error {
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	to := marked{last: last}
	for _, m := range kept {
		to.snap = max(to.snap, m.Index)
	}
	if to.term, to.vote, to.voted, err = stable.votes(); err != nil {
		return err
	}
	return w.lower(func(m *marked) { *m = to })
}
