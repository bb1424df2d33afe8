package raftstore

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// A manager halts at an entry that it does not understand, so nothing may be
// written that one of them would not. What came after the first release says in
// its .proto since which store level it is understood: a message, thus a table
// of such messages, a field, a value of an enum. The cluster is at a level, which
// is part of the replicated state and only grows; the leader writes nothing of a
// later one, and raises the level once every server of the configuration says
// that it understands more (raise.go). A version that understands less than the
// level does not run any more: it would meet such entries.

// firstLevel is that of everything that says nothing about it.
const firstLevel = 1

// Understood is the store level of a version with these tables: the latest that
// anything in them asks for.
func Understood(tables []Registered) uint32 {
	level := uint32(firstLevel)
	for _, t := range tables {
		if t != nil { // newFSM says so
			level = max(level, latestIn(t.descriptor()))
		}
	}
	return level
}

// errNewer marks what asks for a store level that this version does not have.
var errNewer = errors.New("this version of redoubt is too old for the cluster's state")

func newer(level, understood uint32) error {
	if level <= understood {
		return nil
	}
	return fmt.Errorf("%w: the store is at level %d, this version understands %d: install the version that the other managers run, or ran here before",
		errNewer, level, understood)
}

// accepts refuses a command that raises the level beyond what this version
// understands, before anything is applied. It looks no further than that.
func (f *fsm) accepts(data []byte) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 || number != commandNow && number != commandLevel || kind != protowire.VarintType {
			return nil // transactions, which a raise has none of; or what Apply will refuse
		}
		data = data[n:]
		v, n := protowire.ConsumeVarint(data)
		if n < 0 {
			return nil
		}
		data = data[n:]
		if number == commandLevel {
			return newer(uint32(min(v, math.MaxUint32)), f.understood)
		}
	}
	return nil
}

// LevelError refuses to write what some manager would not understand.
type LevelError struct {
	What       string // a table, a field or a value
	Need, Have uint32
	// Behind are the ids of the managers that understand less, or do not say what
	// they understand.
	Behind []string
}

func (e *LevelError) Error() string {
	remedy := "the managers are asked what they understand: try again in a moment"
	if len(e.Behind) > 0 {
		remedy = "upgrade manager " + strings.Join(e.Behind, ", ") + " first, or remove it if it is lost"
	}
	return fmt.Sprintf("%s needs store level %d, and the cluster is at %d: %s", e.What, e.Need, e.Have, remedy)
}

// permitted refuses an object that has anything later than level.
func permitted(o Object, table string, level uint32) error {
	need, what := neededBy(o.ProtoReflect(), level)
	if need <= level {
		return nil
	}
	if what == o.ProtoReflect().Descriptor() {
		return &LevelError{What: table, Need: need, Have: level}
	}
	return &LevelError{What: fmt.Sprintf("%s of %s", what.Name(), table), Need: need, Have: level}
}

// neededBy is the latest level that anything in m asks for, and what that is. It
// does not look where nothing can be later than level, which is nearly always.
func neededBy(m protoreflect.Message, level uint32) (need uint32, what protoreflect.Descriptor) {
	d := m.Descriptor()
	if latestIn(d) <= level {
		return firstLevel, nil
	}
	need, what = sinceOf(d), d
	later := func(n uint32, d protoreflect.Descriptor) {
		if n > need {
			need, what = n, d
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		later(sinceOf(fd), fd)
		eachValue(fd, v, func(kind protoreflect.FieldDescriptor, v protoreflect.Value) {
			switch {
			case kind.Message() != nil:
				later(neededBy(v.Message(), level))
			case kind.Enum() != nil:
				if value := kind.Enum().Values().ByNumber(v.Enum()); value != nil {
					later(sinceOf(value), value)
				}
			}
		})
		return true
	})
	return need, what
}

// eachValue yields the values of a field, which may be a list or a map.
func eachValue(fd protoreflect.FieldDescriptor, v protoreflect.Value, yield func(protoreflect.FieldDescriptor, protoreflect.Value)) {
	switch {
	case fd.IsList():
		for i := range v.List().Len() {
			yield(fd, v.List().Get(i))
		}
	case fd.IsMap(): // a key is neither message nor enum
		v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
			yield(fd.MapValue(), v)
			return true
		})
	default:
		yield(fd, v)
	}
}

// sinceOf is the level that the declaration itself asks for.
func sinceOf(d protoreflect.Descriptor) uint32 {
	x := raftstorepb.E_Since
	switch d.(type) {
	case protoreflect.FieldDescriptor:
		x = raftstorepb.E_FieldSince
	case protoreflect.EnumValueDescriptor:
		x = raftstorepb.E_ValueSince
	}
	return max(firstLevel, proto.GetExtension(d.Options(), x).(uint32))
}

// FieldSince is the store level since which that field of messages as m is understood.
// It panics where there is no such field: it is for variables of a package.
func FieldSince(m proto.Message, field protoreflect.Name) uint32 {
	d := m.ProtoReflect().Descriptor()
	return max(sinceOf(d), sinceOf(d.Fields().ByName(field)))
}

// latest keeps what latestIn found, by the message's name.
var latest sync.Map

// latestIn is the latest level that any object of a type can ask for.
func latestIn(d protoreflect.MessageDescriptor) uint32 {
	if n, ok := latest.Load(d.FullName()); ok {
		return n.(uint32)
	}
	level := uint32(firstLevel)
	eachDeclared(d, map[protoreflect.FullName]bool{}, func(d protoreflect.Descriptor) { level = max(level, sinceOf(d)) })
	latest.Store(d.FullName(), level)
	return level
}

// eachDeclared yields a message, its fields, and all that stands in them.
func eachDeclared(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool, yield func(protoreflect.Descriptor)) {
	if seen[d.FullName()] {
		return
	}
	seen[d.FullName()] = true
	yield(d)
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		yield(fd)
		if fd.Message() != nil {
			eachDeclared(fd.Message(), seen, yield)
		}
		if e := fd.Enum(); e != nil && !seen[e.FullName()] {
			seen[e.FullName()] = true
			for i := range e.Values().Len() {
				yield(e.Values().Get(i))
			}
		}
	}
}

// Declared lists, sorted and each with its level, all that objects of these
// tables can hold. A release's list says what managers of that release
// understand.
func Declared(tables []Registered) (out []string) {
	seen := map[protoreflect.FullName]bool{}
	for _, t := range tables {
		out = append(out, fmt.Sprintf("%d table %s of %s", sinceOf(t.descriptor()), t.Name(), t.descriptor().FullName()))
		eachDeclared(t.descriptor(), seen, func(d protoreflect.Descriptor) {
			switch d := d.(type) {
			case protoreflect.FieldDescriptor:
				out = append(out, fmt.Sprintf("%d field %s = %d, %s %s", max(sinceOf(d), sinceOf(d.Parent())), d.FullName(), d.Number(), d.Cardinality(), d.Kind()))
			case protoreflect.EnumValueDescriptor:
				out = append(out, fmt.Sprintf("%d value %s = %d", sinceOf(d), d.FullName(), d.Number()))
			default:
				out = append(out, fmt.Sprintf("%d message %s", sinceOf(d), d.FullName()))
			}
		})
	}
	slices.Sort(out)
	return out
}
