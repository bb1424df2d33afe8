package raftstore

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// change is what a transaction does to one object. old is nil for a new object,
// new for a deleted one.
type change struct {
	table    Registered
	old, new Object
}

// versionOf is 0 for an object that is not there.
func versionOf(o Object) uint64 {
	if o == nil {
		return 0
	}
	return o.GetMeta().GetVersion()
}

// insert puts o into d, in place of what has its id, after checking every rule
// but the version, which is the caller's. A transaction's own overlay, the state
// machine and restoring all go through here, so they cannot disagree.
func insert(d *draftState, t Registered, o Object) error {
	if err := check(t, o, func(index int, key string) error { return unheld(d, t, o.GetId(), index, key) }); err != nil {
		return err
	}
	return d.put(t, o)
}

// check applies every rule to o but the version; free judges its keys in unique
// indexes.
func check(t Registered, o Object, free func(index int, key string) error) error {
	if err := checkID(o.GetId()); err != nil {
		return fmt.Errorf("%s: %w", t.Name(), err)
	}
	for i, x := range t.indexes() {
		keys := t.keys(i, o)
		if len(keys) > MaxKeysPerIndex {
			return fmt.Errorf("%s %s: %d keys in index %s, at most %d are allowed",
				t.Name(), o.GetId(), len(keys), x.name, MaxKeysPerIndex)
		}
		for _, k := range keys {
			if !validKey(k) {
				return fmt.Errorf("%s %s: index %s: a key must have 1 to %d bytes and no NUL",
					t.Name(), o.GetId(), x.name, MaxKeyBytes)
			}
			if !x.unique {
				continue
			}
			if err := free(i, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// unheld refuses a key of a unique index that another object than id has.
func unheld(v view, t Registered, id string, index int, key string) error {
	held, err := v.holder(t.Name(), index, key)
	if err != nil {
		return err
	}
	if held != nil && held.GetId() != id {
		return &DuplicateError{Table: t.Name(), Index: t.indexes()[index].name, Key: key}
	}
	return nil
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

// withoutMeta is o without field 1. It shares everything else with o, and is for
// reading only.
func withoutMeta(o Object) Object {
	from := o.ProtoReflect()
	to := from.New()
	from.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Number() != metaField {
			to.Set(fd, v)
		}
		return true
	})
	to.SetUnknown(from.GetUnknown())
	return to.Interface().(Object)
}
