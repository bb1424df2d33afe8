package raftstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// entry is what one log entry changes, gathered beside the state it is applied
// to, and written to the tables when all of it is judged: what is refused was
// never written, and however often an entry changes an object, the tables are
// changed once.
type entry struct {
	tables map[string]Registered
	index  uint64
	clock  int64
	base   *state // before
	// objects are those that were decoded already: see ahead.go.
	objects map[*raftstorepb.Op]Object
	// now has what the entry changed, order its keys in the order of their first
	// change. holders has who holds a unique key after what came so far, "" for
	// nobody; what is not there is as in base.
	now     map[objectKey]*changed
	order   []*changed
	holders map[heldKey]string
	sums    tally
	audit   auditlog.Log
	// recorded says that the store's level knows of records.
	recorded bool
	events   []Event
}

// changed is one object that the entry writes: as it was before the entry, and
// as it is now. Nil is absent.
type changed struct {
	table    Registered
	was, now Object
}

// lookup returns the object of that id as the entry has left it, or nil.
func (e *entry) lookup(table, id string) (Object, error) {
	if c, ok := e.now[objectKey{table, id}]; ok {
		return c.now, nil
	}
	return e.base.get(table, id)
}

// haltError marks what is no refusal of a transaction but a command that this
// version does not understand.
type haltError struct{ err error }

func (e *haltError) Error() string { return e.err.Error() }

// transact takes one transaction: all of it, or nothing and an error. Unique
// indexes are judged by the state it leaves: everything it replaces is taken
// out first, so that the order of its writes does not matter.
func (e *entry) transact(t *raftstorepb.Transaction) error {
	if err := e.checkReads(t.Reads); err != nil {
		return err
	}
	changes := make([]change, 0, len(t.Ops))
	var seen map[objectKey]bool
	if len(t.Ops) > 1 {
		seen = make(map[objectKey]bool, len(t.Ops))
	}
	for _, op := range t.Ops {
		c, err := e.prepare(op)
		if err != nil {
			return err
		}
		if seen != nil {
			key := objectKey{op.Table, op.Id}
			if seen[key] {
				return ErrConflict // a proposer writes each object once
			}
			seen[key] = true
		}
		changes = append(changes, c)
	}
	if err := e.hold(changes); err != nil {
		return err
	}
	for _, c := range changes {
		e.take(c)
	}
	return nil
}

func (e *entry) checkReads(reads []*raftstorepb.Precondition) error {
	for _, r := range reads {
		if _, ok := e.tables[r.Table]; !ok {
			return &haltError{fmt.Errorf("table %q is unknown", r.Table)}
		}
		o, err := e.lookup(r.Table, r.Id)
		if err != nil {
			return &haltError{err}
		}
		if versionOf(o) != r.Version {
			return ErrConflict
		}
	}
	return nil
}

// prepare decodes and checks one write and says what it will change.
func (e *entry) prepare(op *raftstorepb.Op) (change, error) {
	t, ok := e.tables[op.Table]
	if !ok {
		return change{}, &haltError{fmt.Errorf("table %q is unknown", op.Table)}
	}
	old, err := e.lookup(op.Table, op.Id)
	if err != nil {
		return change{}, &haltError{err}
	}
	c := change{table: t, old: old}
	if op.Object != nil {
		o, err := e.decode(t, op)
		if err != nil {
			return change{}, &haltError{fmt.Errorf("table %s: %w", op.Table, err)}
		}
		if o.GetId() != op.Id {
			return change{}, &haltError{fmt.Errorf("table %s: the object's id is not that of the command", op.Table)}
		}
		meta := &raftstorepb.Meta{Version: e.index, CreatedAt: e.clock, UpdatedAt: e.clock}
		if old != nil {
			meta.CreatedAt = old.GetMeta().GetCreatedAt()
		}
		setMeta(o, meta)
		c.new = o
	} else if old == nil {
		return change{}, ErrConflict
	}
	if versionOf(old) != op.ExpectVersion {
		return change{}, ErrConflict
	}
	return c, nil
}

func (e *entry) decode(t Registered, op *raftstorepb.Op) (Object, error) {
	if o, ok := e.objects[op]; ok {
		delete(e.objects, op) // the tables keep it, and it is nobody else's
		return o, nil
	}
	return t.decode(op.Object)
}

// hold checks what changes leave and takes their unique keys, or leaves those as
// they were.
func (e *entry) hold(changes []change) error {
	var before []held
	for _, c := range changes {
		if c.old != nil {
			eachUnique(c.table, c.old, func(k heldKey) { before = append(before, e.setHolder(k, "")) })
		}
	}
	for _, c := range changes {
		if c.new == nil {
			continue
		}
		id := c.new.GetId()
		if err := check(c.table, c.new, func(index int, key string) error {
			k := heldKey{c.table.Name(), index, key}
			switch other, err := e.holder(k); {
			case err != nil:
				return &haltError{err}
			case other != "" && other != id:
				return &DuplicateError{Table: k.table, Index: c.table.indexes()[index].name, Key: key}
			}
			before = append(before, e.setHolder(k, id))
			return nil
		}); err != nil {
			for _, h := range slices.Backward(before) {
				h.restore(e.holders)
			}
			return err
		}
	}
	return nil
}

// held is who held a key before, where that was known.
type held struct {
	key   heldKey
	id    string
	known bool
}

func (h held) restore(holders map[heldKey]string) {
	if h.known {
		holders[h.key] = h.id
	} else {
		delete(holders, h.key)
	}
}

func (e *entry) setHolder(k heldKey, id string) held {
	was, known := e.holders[k]
	e.holders[k] = id
	return held{k, was, known}
}

// holder is the id of the object that has a unique key; "" for none.
func (e *entry) holder(k heldKey) (string, error) {
	if id, ok := e.holders[k]; ok {
		return id, nil
	}
	o, err := e.base.holder(k.table, k.index, k.key)
	if err != nil || o == nil {
		return "", err
	}
	return o.GetId(), nil
}

// take notes a change that was accepted.
func (e *entry) take(c change) {
	o := c.new
	if o == nil {
		o = c.old
	}
	key := objectKey{c.table.Name(), o.GetId()}
	at, ok := e.now[key]
	if !ok {
		at = &changed{table: c.table, was: c.old}
		e.now[key] = at
		e.order = append(e.order, at)
	}
	at.now = c.new
	e.events = append(e.events, Event{Index: e.index, table: c.table, old: c.old, new: c.new})
	e.sums.count(c.table, c.old, -1)
	e.sums.count(c.table, c.new, 1)
}

// write puts all that changed into d, which is at the state before.
func (e *entry) write(d *draftState) error {
	for _, c := range e.order {
		var err error
		switch {
		case c.now != nil:
			err = d.put(c.table, c.now)
		case c.was != nil:
			err = d.remove(c.table, c.was)
		}
		if err != nil {
			return err
		}
	}
	return e.sums.write(d)
}

func eachUnique(t Registered, o Object, yield func(heldKey)) {
	for i, x := range t.indexes() {
		if x.unique {
			for _, k := range t.keys(i, o) {
				yield(heldKey{t.Name(), i, k})
			}
		}
	}
}

// judge takes all transactions of a command; an error halts the state machine.
func (e *entry) judge(transactions []*raftstorepb.Transaction) ([]error, error) {
	results := make([]error, len(transactions))
	for i, t := range transactions {
		err := e.recordable(t)
		if err == nil {
			err = e.transact(t)
		}
		if err == nil && t.Record != nil {
			e.audit, err = e.audit.Append(auditlog.Entry{Index: e.index, Clock: e.clock, Record: t.Record})
			if err != nil {
				return nil, err // it was asked before
			}
		}
		var halting *haltError
		if errors.As(err, &halting) {
			return nil, halting.err
		}
		results[i] = err
	}
	return results, nil
}
