package raftstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// completeTail mends what a crash leaves of the last segment and raft-wal does
// not. A segment that became full ends in an index of its entries, and only then
// is the list of segments changed, in another file. After a crash in between,
// or in the midst of that last write, raft-wal takes the segment for one that
// can be appended to, and refuses every append to it: such a log would open, and
// never be written again.
//
// The committed entries are copied into a segment of a new number, which takes
// the place of the old one in the list; raft-wal removes a file that is not in
// it. Until then the old one counts.
func completeTail(dir string, filer *segment.Filer, state *walState) error {
	st, err := state.Load(dir)
	if err != nil || len(st.Segments) == 0 {
		return err
	}
	end := len(st.Segments) - 1
	tail := st.Segments[end]
	if !tail.SealTime.IsZero() {
		return nil
	}
	tail.MinIndex = tail.BaseIndex // what was given up at its beginning is still in the file
	from, err := filer.RecoverTail(tail)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it was to be made next
	}
	if err != nil {
		return err
	}
	full, _, err := from.Sealed()
	if err == nil && full {
		tail.ID, st.NextSegmentID = st.NextSegmentID, st.NextSegmentID+1
		err = copySegment(dir, filer, from, &tail)
	}
	if err := errors.Join(err, from.Close()); err != nil || !full {
		return err
	}
	tail.MinIndex = st.Segments[end].MinIndex
	st.Segments[end] = tail
	if !tail.SealTime.IsZero() {
		next := types.SegmentInfo{ID: st.NextSegmentID, BaseIndex: tail.MaxIndex + 1, MinIndex: tail.MaxIndex + 1,
			Codec: tail.Codec, SizeLimit: tail.SizeLimit, CreateTime: time.Now()}
		st.NextSegmentID++
		st.Segments = append(st.Segments, next)
	}
	return state.CommitState(st)
}

// copySegment copies every entry of a segment into a new one, that of info, and
// completes info where that is full.
func copySegment(dir string, filer *segment.Filer, from types.SegmentWriter, info *types.SegmentInfo) (err error) {
	last := from.LastIndex()
	var entries []types.LogEntry
	for i := info.BaseIndex; i <= last; i++ {
		b, err := from.GetLog(i)
		if err != nil {
			return fmt.Errorf("log entry %d: %w", i, err)
		}
		entries = append(entries, types.LogEntry{Index: i, Data: append([]byte(nil), b.Bs...)})
		if err := b.Close(); err != nil {
			return err
		}
	}
	// One that was cut short may be there: no list has its number.
	if err := os.Remove(filepath.Join(dir, segment.FileName(*info))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	to, err := filer.Create(*info)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := to.Append(entries); err != nil { // synced, with the directory
		return err
	}
	full, index, err := to.Sealed()
	if full {
		info.SealTime, info.IndexStart, info.MaxIndex = time.Now(), index, last
	}
	return err
}
