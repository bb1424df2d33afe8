package raftstore

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// Reader is what tables read from: *ReadTx or *Tx.
type Reader interface{ reader() *reader }

// reader is a consistent state. What it returns is shared and never changes.
type reader struct {
	view  view
	index uint64
	clock int64
	level uint32
	tx    *Tx // nil in a View
}

func (r *reader) get(t Registered, id string) (Object, bool) {
	if r.tx != nil {
		if o, ok := r.tx.fresh[objectKey{t.Name(), id}]; ok {
			return o, true
		}
	}
	o, err := r.view.get(t.Name(), id)
	if err != nil {
		panic(fmt.Sprintf("raftstore: table %s is not registered with this store: %v", t.Name(), err))
	}
	if r.tx != nil {
		r.tx.recordRead(t, id, o)
	}
	return o, o != nil
}

// settled is what can be walked, with the transaction's own writes in it.
func (r *reader) settled() view {
	if r.tx != nil {
		if err := r.tx.settle(); err != nil {
			panic(fmt.Sprintf("raftstore: what was checked and written cannot be read: %v", err))
		}
	}
	return r.view
}

// ReadTx is the state as of one log entry. It is valid inside View only.
type ReadTx struct{ r reader }

func (r *ReadTx) reader() *reader { return &r.r }

// Index is the index of the last entry that is part of this state.
func (r *ReadTx) Index() uint64 { return r.r.index }

// Clock is the state machine's time: that of the last entry, never running
// backwards and the same on every manager.
func (r *ReadTx) Clock() time.Time { return time.Unix(0, r.r.clock) }

// Level is the cluster's store level: see level.go.
func (r *ReadTx) Level() uint32 { return r.r.level }

// Tx is a transaction being composed: a state to read, with its own writes on
// top. It is valid inside Update only and belongs to one goroutine.
type Tx struct {
	r     reader
	draft *draftState // r's, to write
	now   time.Time
	reads map[objectKey]uint64
	ops   []*raftstorepb.Op
	byKey map[objectKey]int // position in ops; nil there: created and deleted again
	bytes int
	done  bool
	// record is appended to the audit log with the transaction; nil for none.
	record []byte
	unsettled
}

type objectKey struct{ table, id string }

func newTx(s *state, index uint64, clock int64, level uint32, now time.Time) *Tx {
	d := s.draft()
	tx := &Tx{
		draft: d,
		r:     reader{view: d, index: index, clock: clock, level: level},
		now:   now,
		reads: map[objectKey]uint64{},
		byKey: map[objectKey]int{},
	}
	tx.r.tx = tx
	return tx
}

func (tx *Tx) reader() *reader { return &tx.r }

// Now is the leader's time, not before the state machine's clock. Use it, not
// time.Now, for what is written.
func (tx *Tx) Now() time.Time { return tx.now }

// Level is the cluster's store level: see level.go.
func (tx *Tx) Level() uint32 { return tx.r.level }

// Index is the index of the last entry that is part of the state read.
func (tx *Tx) Index() uint64 { return tx.r.index }

func (tx *Tx) recordRead(t Registered, id string, o Object) {
	if tx.r.level < sinceOf(t.descriptor()) {
		return // nothing is there at this level, and not all managers would understand the question
	}
	key := objectKey{t.Name(), id}
	if _, written := tx.byKey[key]; written {
		return // the write carries its own precondition
	}
	tx.reads[key] = versionOf(o)
}

var errTxDone = errors.New("raftstore: the transaction is over: write inside the function given to Update")

func (tx *Tx) put(t Registered, given Object) error {
	if tx.done {
		return errTxDone
	}
	o, data, err := canonical(t, given)
	if err != nil {
		return err
	}
	if err := permitted(o, t.Name(), tx.r.level); err != nil {
		return err
	}
	id, version := o.GetId(), o.GetMeta().GetVersion()
	key := objectKey{t.Name(), id}
	pos, written := tx.byKey[key]
	if written {
		if err := tx.settle(); err != nil {
			return err
		}
	}
	there, err := tx.draft.get(t.Name(), id)
	if err != nil {
		return err
	}
	switch {
	case written && there == nil:
		return fmt.Errorf("%s %s: it was deleted earlier in the same transaction", t.Name(), id)
	case written && versionOf(there) != version:
		return ErrConflict
	case !written && there != nil && version == 0:
		return &DuplicateError{Table: t.Name(), Index: idIndex, Key: id}
	case !written && versionOf(there) != version:
		return ErrConflict
	}
	if err := tx.lay(t, o, written); err != nil {
		return err
	}
	op := &raftstorepb.Op{Table: t.Name(), Id: id, ExpectVersion: version, Object: data}
	if written {
		tx.bytes += len(data) - len(tx.ops[pos].GetObject())
		tx.ops[pos] = op
		return tx.checkBounds()
	}
	return tx.add(key, op)
}

// canonical encodes an object as it is proposed, without its Meta, and returns
// what that decodes to. It decodes with the state machine's own rules: those
// halt a manager, and what a peer sent may hold anything, so whatever would be
// refused there has to be refused here, before every manager sees it.
func canonical(t Registered, given Object) (Object, []byte, error) {
	bare, meta := given, given.GetMeta()
	if meta != nil {
		bare = withoutMeta(given)
	}
	if size := proto.Size(bare); size > MaxTransactionBytes {
		return nil, nil, ErrTooLarge
	}
	data, err := proto.Marshal(bare)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", t.Name(), err)
	}
	if data == nil {
		data = []byte{} // an absent object is a deletion
	}
	o, err := t.decode(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: the object is refused: %w", t.Name(), err)
	}
	if meta != nil {
		setMeta(o, proto.CloneOf(meta))
	}
	return o, data, nil
}

func (tx *Tx) delete(t Registered, id string) error {
	if tx.done {
		return errTxDone
	}
	if err := tx.settle(); err != nil {
		return err
	}
	there, err := tx.draft.get(t.Name(), id)
	if err != nil {
		return err
	}
	key := objectKey{t.Name(), id}
	if there == nil {
		tx.recordRead(t, id, nil)
		return ErrNotFound
	}
	if err := tx.draft.remove(t, there); err != nil {
		return err
	}
	version := versionOf(there)
	pos, written := tx.byKey[key]
	switch {
	case written && version == 0: // created here: nothing is left to do
		tx.bytes -= len(tx.ops[pos].GetObject())
		tx.ops[pos] = nil
		return nil
	case written:
		tx.bytes -= len(tx.ops[pos].GetObject())
		tx.ops[pos] = &raftstorepb.Op{Table: t.Name(), Id: id, ExpectVersion: version}
		return nil
	}
	return tx.add(key, &raftstorepb.Op{Table: t.Name(), Id: id, ExpectVersion: version})
}

func (tx *Tx) add(key objectKey, op *raftstorepb.Op) error {
	delete(tx.reads, key)
	tx.byKey[key] = len(tx.ops)
	tx.ops = append(tx.ops, op)
	tx.bytes += len(op.Table) + len(op.Id) + len(op.GetObject())
	return tx.checkBounds()
}

func (tx *Tx) checkBounds() error {
	if len(tx.ops) > MaxTransactionOps || tx.bytes > MaxTransactionBytes {
		return ErrTooLarge
	}
	return nil
}

// encode gives what is proposed, or nil where nothing was written.
func (tx *Tx) encode() (*raftstorepb.Transaction, error) {
	tx.done = true
	out := &raftstorepb.Transaction{}
	for _, op := range tx.ops {
		if op != nil {
			out.Ops = append(out.Ops, op)
		}
	}
	if len(out.Ops) == 0 && tx.record == nil {
		return nil, nil
	}
	out.Record = tx.record
	if len(out.Ops) > MaxTransactionOps || len(tx.reads) > MaxTransactionReads {
		return nil, ErrTooLarge
	}
	for key, version := range tx.reads {
		if !utf8.ValidString(key.id) {
			return nil, fmt.Errorf("%s: an id that was read is no UTF-8", key.table) // it would spoil the whole entry
		}
		out.Reads = append(out.Reads, &raftstorepb.Precondition{Table: key.table, Id: key.id, Version: version})
	}
	if proto.Size(out) > MaxTransactionBytes {
		return nil, ErrTooLarge
	}
	return out, nil
}
