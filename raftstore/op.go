package raftstore

import (
	"fmt"

	memdb "github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// change is one effect on one object: what an event reports and what undoing
// needs. old is nil for a new object, new for a deleted one.
type change struct {
	table    Registered
	old, new Object
}

func (c change) undo(txn *memdb.Txn) error {
	if c.old == nil {
		return txn.Delete(c.table.Name(), c.new)
	}
	return txn.Insert(c.table.Name(), c.old)
}

// lookup returns the object of that id, or nil.
func lookup(txn *memdb.Txn, table, id string) (Object, error) {
	raw, err := txn.First(table, idIndex, id)
	if err != nil || raw == nil {
		return nil, err
	}
	return raw.(Object), nil
}

// versionOf is 0 for an object that is not there.
func versionOf(o Object) uint64 {
	if o == nil {
		return 0
	}
	return o.GetMeta().GetVersion()
}

// insert puts o into txn after checking every rule but the version: the caller
// did that, and hands in what is there now. Both a transaction's own overlay
// and the state machine go through here, so they cannot disagree.
func insert(txn *memdb.Txn, t Registered, old, o Object) (change, error) {
	if err := checkID(o.GetId()); err != nil {
		return change{}, fmt.Errorf("%s: %w", t.Name(), err)
	}
	for i, x := range t.indexes() {
		keys := t.keys(i, o)
		if len(keys) > MaxKeysPerIndex {
			return change{}, fmt.Errorf("%s %s: %d keys in index %s, at most %d are allowed",
				t.Name(), o.GetId(), len(keys), x.name, MaxKeysPerIndex)
		}
		for _, k := range keys {
			if !validKey(k) {
				return change{}, fmt.Errorf("%s %s: index %s: a key must have 1 to %d bytes and no NUL",
					t.Name(), o.GetId(), x.name, MaxKeyBytes)
			}
			if !x.unique {
				continue
			}
			held, err := txn.First(t.Name(), x.name, k)
			if err != nil {
				return change{}, err
			}
			if held != nil && held.(Object).GetId() != o.GetId() {
				return change{}, &DuplicateError{Table: t.Name(), Index: x.name, Key: k}
			}
		}
	}
	if err := txn.Insert(t.Name(), o); err != nil {
		return change{}, err
	}
	return change{table: t, old: old, new: o}, nil
}

func remove(txn *memdb.Txn, t Registered, old Object) (change, error) {
	if err := txn.Delete(t.Name(), old); err != nil {
		return change{}, err
	}
	return change{table: t, old: old}, nil
}

func checkID(id string) error {
	if id == "" || len(id) > MaxIDBytes {
		return fmt.Errorf("an id must have 1 to %d bytes", MaxIDBytes)
	}
	for i := range len(id) {
		if id[i] == 0 {
			return fmt.Errorf("id %q has a NUL byte", id)
		}
	}
	return nil
}

// setMeta replaces field 1 of o; nil clears it.
func setMeta(o Object, m *raftstorepb.Meta) {
	r := o.ProtoReflect()
	fd := r.Descriptor().Fields().ByNumber(metaField)
	if m == nil {
		r.Clear(fd)
		return
	}
	r.Set(fd, protoreflect.ValueOfMessage(m.ProtoReflect()))
}

func cloneObject(o Object) Object { return proto.Clone(o).(Object) }
