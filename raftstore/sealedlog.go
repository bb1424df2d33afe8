package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// sealedLog seals the content of every log entry, of whatever type. Index, term
// and type stay readable, and are authenticated with the entry, so that entries
// can be neither exchanged nor relabelled.
//
// Raft panics where its log fails. halt is told first, so that the reason is on
// record, and does not return once raft is running.
type sealedLog struct {
	inner raft.LogStore
	bind  *binder
	halt  func(error) error
	stall *stallWatch // nil for none
	// accept judges the commands that are there when the store is opened; nil for
	// none.
	accept func(data []byte) error
	// gate as in sealedStable.
	gate *sync.RWMutex

	buffers buffers
}

// IsMonotonic implements raft.MonotonicLogStore. Whatever the inner store can
// do, raft must leave no gap: told so, it drops the whole log when a snapshot
// from the leader replaces the state, and not only what is old in it. A gap
// could not be told from entries that were taken away.
func (s *sealedLog) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (s *sealedLog) FirstIndex() (uint64, error) {
	i, err := behind(s.gate, s.inner.FirstIndex)
	return i, s.check(err, "the first index of the log cannot be read")
}

// LastIndex implements raft.LogStore.
func (s *sealedLog) LastIndex() (uint64, error) {
	i, err := behind(s.gate, s.inner.LastIndex)
	return i, s.check(err, "the last index of the log cannot be read")
}

// DeleteRange implements raft.LogStore.
func (s *sealedLog) DeleteRange(lo, hi uint64) error {
	_, err := behind(s.gate, func() (struct{}, error) { return struct{}{}, s.inner.DeleteRange(lo, hi) })
	return s.check(err, "log entries cannot be deleted")
}

// StoreLog implements raft.LogStore.
func (s *sealedLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s *sealedLog) StoreLogs(logs []*raft.Log) error {
	what, err := s.store(logs)
	return s.check(err, what)
}

// store says what it was at where it fails.
func (s *sealedLog) store(logs []*raft.Log) (what string, err error) {
	defer through(s.gate)()
	out := make([]*raft.Log, len(logs))
	plain := s.buffers.take()
	defer func() { s.buffers.give(plain) }()
	for i, l := range logs {
		plain = appendLog(plain[:0], l)
		data, err := s.bind.sealer.Seal(labelLog, s.bind.logAAD(l.Index, l.Term, uint8(l.Type)), plain)
		if err != nil {
			return fmt.Sprintf("log entry %d cannot be sealed", l.Index), err
		}
		out[i] = &raft.Log{Index: l.Index, Term: l.Term, Type: l.Type, Data: data}
	}
	return "log entries cannot be written", s.stall.watch(func() error { return s.inner.StoreLogs(out) })
}

// GetLog implements raft.LogStore. An entry that is not there is no failure:
// raft asks for such ones when it looks what a follower needs.
func (s *sealedLog) GetLog(index uint64, out *raft.Log) error {
	err := s.read(index, out)
	if errors.Is(err, raft.ErrLogNotFound) {
		return raft.ErrLogNotFound
	}
	return s.check(err, "the log cannot be read")
}

func (s *sealedLog) read(index uint64, out *raft.Log) error {
	defer through(s.gate)()
	return s.readHeld(index, out)
}

// readHeld is read of who holds the gate.
func (s *sealedLog) readHeld(index uint64, out *raft.Log) error {
	var l raft.Log
	switch err := s.inner.GetLog(index, &l); {
	case errors.Is(err, raft.ErrLogNotFound):
		return err
	case err != nil:
		return fmt.Errorf("log entry %d: %w", index, lost(err))
	}
	if l.Index != index || len(l.Extensions) != 0 || !l.AppendedAt.IsZero() {
		return fmt.Errorf("log entry %d: the record says that it is another: %w", index, errLost)
	}
	plain, err := s.bind.sealer.Open(labelLog, s.bind.logAAD(l.Index, l.Term, uint8(l.Type)), l.Data)
	if err != nil {
		return fmt.Errorf("log entry %d %w", index, unopened(err))
	}
	*out = raft.Log{Index: l.Index, Term: l.Term, Type: l.Type}
	if err := decodeLog(plain, out); err != nil {
		return fmt.Errorf("log entry %d: %w: %w", index, err, errLost)
	}
	return nil
}

// verify opens every entry once, before raft sees any: raft itself panics on
// the first that does not open, and an error is better.
func (s *sealedLog) verify(done <-chan struct{}) error {
	first, err := s.inner.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.inner.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	var l raft.Log
	for i := first; i <= last; i++ {
		select {
		case <-done:
			return errors.New("interrupted")
		default:
		}
		if err := s.read(i, &l); err != nil {
			if errors.Is(err, raft.ErrLogNotFound) {
				return fmt.Errorf("log entry %d is missing between %d and %d: %w", i, first, last, errLost)
			}
			return err
		}
		if s.accept != nil && l.Type == raft.LogCommand {
			if err := s.accept(l.Data); err != nil {
				return fmt.Errorf("log entry %d: %w", i, err)
			}
		}
	}
	return nil
}

func (s *sealedLog) check(err error, what string) error {
	if err == nil {
		return nil
	}
	return s.halt(fmt.Errorf("%s: %w", what, err))
}

// buffers keeps one buffer between writes; it is in clear, as the entries kept
// for replication are. Raft's leader and its followers write one at a time.
type buffers struct {
	mu   sync.Mutex
	kept []byte // guarded by mu
}

func (b *buffers) take() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.kept
	b.kept = nil
	return out
}

func (b *buffers) give(buf []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cap(buf) <= 2*maxBatchBytes {
		b.kept = buf[:0]
	}
}

// appendLog appends what is sealed: the time of appending in nanoseconds, 0 for
// none, then data and extensions.
func appendLog(out []byte, l *raft.Log) []byte {
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	out = binary.BigEndian.AppendUint64(out, uint64(at))
	out = lp.Append(out, l.Data)
	return lp.Append(out, l.Extensions)
}

func decodeLog(plain []byte, l *raft.Log) error {
	if len(plain) < 8 {
		return errMalformed
	}
	if at := int64(binary.BigEndian.Uint64(plain)); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	data, rest, err := takeLP(plain[8:])
	if err != nil {
		return err
	}
	ext, rest, err := takeLP(rest)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return errMalformed
	}
	l.Data = data
	if len(ext) > 0 {
		l.Extensions = ext
	}
	return nil
}
