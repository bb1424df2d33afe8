package raftstore

import (
	"context"
	"errors"
	"iter"

	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// The audit log is part of the replicated state: a transaction may carry one
// record, which is appended where the transaction succeeds and not where it
// fails. So no change can be had without its record, nor a record of what was
// not done; and all managers have the same log, whose root says so.

// recordSince is the store level since which managers know of records.
var recordSince = sinceOf((&raftstorepb.Transaction{}).ProtoReflect().Descriptor().Fields().ByName("record"))

// Recorder makes the record of a transaction that is composed. It is called when
// all is written, as often as the transaction is composed anew. No record: none
// is appended.
type Recorder func(tx *Tx) ([]byte, error)

type recorderKey struct{}

// WithRecorder has every Update under the context that writes anything append
// what r makes of it to the audit log.
func WithRecorder(ctx context.Context, r Recorder) context.Context {
	return context.WithValue(ctx, recorderKey{}, r)
}

// recordBy adds what the context's recorder makes of the transaction. A cluster
// with a manager that knows no records keeps none: see level.go.
func (tx *Tx) recordBy(ctx context.Context) error {
	r, ok := ctx.Value(recorderKey{}).(Recorder)
	if !ok || r == nil || tx.record != nil || tx.r.level < recordSince || !tx.writes() {
		return nil
	}
	record, err := r(tx)
	if err != nil || record == nil {
		return err
	}
	return tx.Record(record)
}

func (tx *Tx) writes() bool {
	for _, op := range tx.ops {
		if op != nil {
			return true
		}
	}
	return false
}

// Record has the transaction append this record, in place of what a Recorder
// would make. It may be all that the transaction does.
func (tx *Tx) Record(record []byte) error {
	switch {
	case tx.done:
		return errTxDone
	case tx.r.level < recordSince:
		return &LevelError{What: "the audit log", Need: recordSince, Have: tx.r.level}
	}
	if err := tx.r.view.records().Check(record); err != nil {
		return err
	}
	tx.record = record
	return nil
}

// Change is what a transaction does to one object: Old is nil for a new one, New
// for one that is deleted. Both are for reading only.
type Change struct {
	Table, ID string
	Old, New  Object
}

// Changes yields what the transaction has written so far, in the order in which
// each object was written first.
func (tx *Tx) Changes() iter.Seq[Change] {
	return func(yield func(Change) bool) {
		for _, op := range tx.ops {
			if op == nil {
				continue
			}
			c := Change{Table: op.Table, ID: op.Id}
			if o, err := tx.draft.base.get(op.Table, op.Id); err == nil {
				c.Old = o
			}
			if o, ok := tx.fresh[objectKey{op.Table, op.Id}]; ok {
				c.New = o
			} else if o, err := tx.draft.get(op.Table, op.Id); err == nil {
				c.New = o
			}
			if !yield(c) {
				return
			}
		}
	}
}

// recordable refuses a transaction whose record could not be appended.
func (e *entry) recordable(t *raftstorepb.Transaction) error {
	if t.Record == nil {
		return nil
	}
	if !e.recorded {
		return &haltError{errors.New("a record before the store's level knows of any")}
	}
	return e.audit.Check(t.Record)
}

// AwaitRecords waits until this manager has so many entries of the audit log. A record
// alone changes no table, so a Watch does not tell of it.
func (s *Store) AwaitRecords(ctx context.Context, size uint64) error {
	for {
		grew, err := s.fsm.shorter(size)
		if err != nil || grew == nil {
			return err
		}
		select {
		case <-grew:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return ErrClosed
		}
	}
}

// shorter returns what is closed when the audit log, which is shorter than that, may be
// so no more; nil where it is not.
func (f *fsm) shorter(size uint64) (<-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.halted != nil:
		return nil, f.halted
	case f.state.audit.Size() >= size:
		return nil, nil
	case f.grew == nil:
		f.grew = make(chan struct{})
	}
	return f.grew, nil
}

func (f *fsm) wakeLocked() {
	if f.grew != nil {
		close(f.grew)
		f.grew = nil
	}
}

// Records reads the audit log as it is now; older entries from this manager's
// disk.
func (s *Store) Records() (*auditlog.Reader, error) {
	r, err := s.fsm.read()
	if err != nil {
		return nil, err
	}
	return &auditlog.Reader{Log: r.r.view.records(), Segment: s.fsm.archive.read}, nil
}
