package raftstore

import (
	"github.com/hashicorp/raft"
)

// markedLog moves the watermark with the log.
type markedLog struct {
	raft.LogStore
	mark *watermark
}

// IsMonotonic implements raft.MonotonicLogStore.
func (l *markedLog) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// StoreLog implements raft.LogStore.
func (l *markedLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l *markedLog) StoreLogs(logs []*raft.Log) error {
	if err := l.LogStore.StoreLogs(logs); err != nil || len(logs) == 0 {
		return err
	}
	last := logs[len(logs)-1].Index
	return l.mark.move(func(m *marked) { m.last = last })
}

// DeleteRange implements raft.LogStore.
func (l *markedLog) DeleteRange(lo, hi uint64) error {
	first, err := l.LogStore.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.LogStore.LastIndex()
	if err != nil {
		return err
	}
	if hi >= last {
		left := uint64(0)
		if lo > first {
			left = lo - 1
		}
		if err := l.mark.lower(func(m *marked) { m.last = min(m.last, left) }); err != nil {
			return err
		}
	}
	return l.LogStore.DeleteRange(lo, hi)
}

// markedStable moves the watermark with term and vote.
type markedStable struct {
	*sealedStable
	mark *watermark
}

// SetUint64 implements raft.StableStore.
func (s *markedStable) SetUint64(key []byte, val uint64) error {
	if err := s.sealedStable.SetUint64(key, val); err != nil {
		return err
	}
	return s.moved(key, func(m *marked) {
		switch string(key) {
		case "CurrentTerm":
			m.term = val
		case "LastVoteTerm":
			m.vote = val
		}
	})
}

// Set implements raft.StableStore.
func (s *markedStable) Set(key, val []byte) error {
	if err := s.sealedStable.Set(key, val); err != nil {
		return err
	}
	return s.moved(key, func(m *marked) { m.voted = m.voted || string(key) == "LastVoteCand" })
}

func (s *markedStable) moved(key []byte, change func(*marked)) error {
	return s.check(s.mark.move(change), key, "noted")
}

// markedSnapshots moves the watermark with the snapshots.
type markedSnapshots struct {
	raft.SnapshotStore
	mark *watermark
	edge *edgeLog // nil where no raft runs
}

// Create implements raft.SnapshotStore.
func (s *markedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration,
	confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	return &markedSink{SnapshotSink: sink, mark: s.mark, edge: s.edge, index: index, term: term}, nil
}

type markedSink struct {
	raft.SnapshotSink
	mark  *watermark
	edge  *edgeLog
	index uint64
	term  uint64
	ended bool // raft may call Close after Cancel
}

// Cancel implements raft.SnapshotSink.
func (k *markedSink) Cancel() error {
	k.ended = true
	return k.SnapshotSink.Cancel()
}

// Close implements io.Closer.
func (k *markedSink) Close() error {
	if err := k.SnapshotSink.Close(); err != nil || k.ended {
		return err
	}
	k.ended = true
	k.edge.note(k.index, k.term)
	return k.mark.move(func(m *marked) { m.snap = max(m.snap, k.index) })
}
