package raftstore

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/cow"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// Object is what a table holds: a message whose field 1 is `meta`, written by
// the store alone, and whose field 2 is the string `id`.
type Object interface {
	proto.Message
	GetId() string
	GetMeta() *raftstorepb.Meta
}

// Index is a secondary index. Keys must depend on nothing but the object, since
// every manager computes it for itself and all must agree. A key is not empty
// and has no NUL byte; no keys means that the object is not in the index.
type Index[T Object] struct {
	Name   string
	Unique bool
	Keys   func(T) []string
}

// Registered is a table of any type, as Config lists them. Only *Table is one.
type Registered interface {
	Name() string
	descriptor() protoreflect.MessageDescriptor
	decode(data []byte) (Object, error)
	indexes() []indexInfo
	keys(index int, o Object) []string
	summed() bool
	amounts(o Object, yield func(at cow.Key, n Amounts))
}

type indexInfo struct {
	name   string
	unique bool
}

// Table describes a table; it holds no data and may be shared by stores. Make
// one per type as a package-level variable.
type Table[T Object] struct {
	name  string
	idx   []Index[T]
	infos []indexInfo
	sums  []Sum[T]
}

var nameRule = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// idIndex is what errors call the primary key; no index may have that name.
const idIndex = "id"

// NewTable describes a table. It panics where the description makes no sense:
// that is a mistake in the program, found by any test that loads the package.
func NewTable[T Object](name string, indexes ...Index[T]) *Table[T] {
	if !nameRule.MatchString(name) {
		panic(fmt.Sprintf("raftstore: table name %q: use lowercase letters, digits and underscores", name))
	}
	t := &Table[T]{name: name, idx: slices.Clone(indexes)}
	var zero T
	if err := checkShape(zero.ProtoReflect().Descriptor()); err != nil {
		panic(fmt.Sprintf("raftstore: table %s: %v", name, err))
	}
	seen := map[string]bool{idIndex: true}
	for _, x := range indexes {
		switch {
		case !nameRule.MatchString(x.Name):
			panic(fmt.Sprintf("raftstore: table %s: index name %q is not usable", name, x.Name))
		case seen[x.Name]:
			panic(fmt.Sprintf("raftstore: table %s: index name %q is taken", name, x.Name))
		case x.Keys == nil:
			panic(fmt.Sprintf("raftstore: table %s: index %s has no Keys", name, x.Name))
		}
		seen[x.Name] = true
		t.infos = append(t.infos, indexInfo{name: x.Name, unique: x.Unique})
	}
	return t
}

// checkShape verifies the convention that lets the store write Meta without
// knowing the type.
func checkShape(d protoreflect.MessageDescriptor) error {
	meta := d.Fields().ByNumber(metaField)
	if meta == nil || meta.Name() != "meta" || meta.IsList() || meta.Message() == nil ||
		meta.Message().FullName() != (*raftstorepb.Meta)(nil).ProtoReflect().Descriptor().FullName() {
		return fmt.Errorf("%s: field 1 must be `Meta meta`", d.FullName())
	}
	id := d.Fields().ByNumber(2)
	if id == nil || id.Name() != "id" || id.Kind() != protoreflect.StringKind || id.IsList() {
		return fmt.Errorf("%s: field 2 must be `string id`", d.FullName())
	}
	return nil
}

const metaField = 1

// Name returns the name of the table.
func (t *Table[T]) Name() string { return t.name }

func (t *Table[T]) indexes() []indexInfo { return t.infos }

func (t *Table[T]) descriptor() protoreflect.MessageDescriptor {
	var zero T
	return zero.ProtoReflect().Descriptor()
}

func (t *Table[T]) decode(data []byte) (Object, error) {
	var zero T
	o := zero.ProtoReflect().New().Interface().(T)
	if err := unmarshalStrict(data, o); err != nil {
		return nil, err
	}
	return o, nil
}

func (t *Table[T]) keys(i int, o Object) []string { return t.idx[i].Keys(o.(T)) }

// Get returns the object of that id. It is shared with every other reader:
// never modify it, proto.Clone first. In an Update it becomes a precondition,
// whether the object was found or not.
func (t *Table[T]) Get(r Reader, id string) (T, bool) {
	var zero T
	o, ok := r.reader().get(t, id)
	if !ok {
		return zero, false
	}
	return o.(T), true
}

// All yields every object in the order of ids.
func (t *Table[T]) All(r Reader) iter.Seq[T] { return t.Prefix(r, "") }

// Prefix yields the objects whose id begins with idPrefix, in the order of ids.
func (t *Table[T]) Prefix(r Reader, idPrefix string) iter.Seq[T] {
	return t.walk(r, idPrefix, true, func(r *rows) cow.Map[Object] { return r.byID })
}

// By yields the objects that have key in the named index, in the order of ids.
// It panics where the table has no such index.
func (t *Table[T]) By(r Reader, index, key string) iter.Seq[T] {
	return t.scan(r, index, key, false)
}

// ByPrefix yields the objects that have a key with that prefix in the named
// index, in the order of keys. It panics where the table has no such index.
func (t *Table[T]) ByPrefix(r Reader, index, prefix string) iter.Seq[T] {
	return t.scan(r, index, prefix, true)
}

func (t *Table[T]) scan(r Reader, index, key string, prefix bool) iter.Seq[T] {
	i := slices.IndexFunc(t.infos, func(i indexInfo) bool { return i.name == index })
	if i < 0 {
		panic(fmt.Sprintf("raftstore: table %s has no index %q", t.name, index))
	}
	if !validKey(key) {
		return func(func(T) bool) {}
	}
	return t.walk(r, key, prefix, func(r *rows) cow.Map[Object] { return r.by[i] })
}

// Count returns the number of objects.
func (t *Table[T]) Count(r Reader) int {
	n := 0
	for range t.All(r) {
		n++
	}
	return n
}

// walk yields what a tree has at key, or from that prefix on, as it is when the
// walk begins: with the transaction's own writes so far.
func (t *Table[T]) walk(r Reader, key string, prefix bool, tree func(*rows) cow.Map[Object]) iter.Seq[T] {
	return func(yield func(T) bool) {
		v := r.reader().settled()
		for o := range each(tree(t.mustRows(v)), key, prefix) {
			if !yield(o.(T)) {
				return
			}
		}
	}
}

func (t *Table[T]) mustRows(v view) *rows {
	r, err := v.rows(t.name)
	if err != nil {
		panic("raftstore: " + err.Error())
	}
	return r
}

// Put writes obj, which the store copies. Meta absent or of version 0: the
// object must not exist yet (*DuplicateError). Otherwise obj must be a modified
// clone of what was read, and ErrConflict says that it was changed since.
func (t *Table[T]) Put(tx *Tx, obj T) error { return tx.put(t, obj) }

// Delete removes the object of that id; ErrNotFound where there is none.
func (t *Table[T]) Delete(tx *Tx, id string) error { return tx.delete(t, id) }

// Drop is Delete of what need not be there: where there is none, or the cluster's level
// knows of no such table, nothing is done.
func (t *Table[T]) Drop(tx *Tx, id string) error {
	if tx.Level() < t.Since() {
		return nil
	}
	if _, ok := t.Get(tx, id); !ok {
		return nil
	}
	return t.Delete(tx, id)
}

// Since is the store level since which the table is understood.
func (t *Table[T]) Since() uint32 { return sinceOf(t.descriptor()) }

// Event returns what e says about this table: old is zero for a new object, new
// for a deleted one. ok is false for an event of another table.
func (t *Table[T]) Event(e Event) (old, new T, ok bool) {
	if e.table == nil || e.table.Name() != t.name {
		return old, new, false
	}
	if e.old != nil {
		old = e.old.(T)
	}
	if e.new != nil {
		new = e.new.(T)
	}
	return old, new, true
}

// validKey reports whether s can stand in an index: keys end with a NUL there.
func validKey(s string) bool {
	return s != "" && len(s) <= MaxKeyBytes && strings.IndexByte(s, 0) < 0
}
