// Package resolve finds objects by what people write: an id, a name, or the
// beginning of an id that no other object has, in this order.
//
// It owns that order and how it is said that nothing was found, or too much. It
// knows no table: its callers give one, and the unique index of its names.
package resolve

import (
	"fmt"
	"iter"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Error says that a reference names nothing, or more than one thing.
type Error struct {
	Kind, Ref string
	Matches   int
	// Found are some of the ids that match, each with what may tell them apart.
	Found []string
}

// MaxFound is how many of the matches are told.
const MaxFound = 8

func (e *Error) Error() string {
	if e.Matches > 1 {
		return fmt.Sprintf("%s %q is ambiguous, %d match: use more of the id", e.Kind, ident.Clip(e.Ref), e.Matches)
	}
	return fmt.Sprintf("no %s %q: list them with `redoubt %s ls`", e.Kind, ident.Clip(e.Ref), e.list())
}

func (e *Error) list() string {
	switch e.Kind {
	case "task":
		return "service"
	case "waiver":
		return "compliance waiver"
	}
	return e.Kind
}

// Is makes a reference that names nothing a raftstore.ErrNotFound.
func (e *Error) Is(target error) bool { return target == raftstore.ErrNotFound && e.Matches == 0 }

// Named finds the object that ref stands for. The table's index of names is
// called "name".
func Named[T raftstore.Object](kind string, t *raftstore.Table[T], r raftstore.Reader, ref string) (T, error) {
	if o, ok := t.Get(r, ref); ok {
		return o, nil
	}
	for o := range t.By(r, "name", ref) {
		return o, nil
	}
	return Only(kind, ref, ByPrefix(t, r, ref))
}

// ByPrefix yields the objects whose ids begin with ref, if that is long enough
// to be meant so.
func ByPrefix[T raftstore.Object](t *raftstore.Table[T], r raftstore.Reader, ref string) iter.Seq[T] {
	if len(ref) < ident.MinPrefix || len(ref) > ident.Len {
		return func(func(T) bool) {}
	}
	return t.Prefix(r, ref)
}

// Only is the one that was found for ref, or an *Error.
func Only[T raftstore.Object](kind, ref string, found iter.Seq[T]) (T, error) {
	var first, zero T
	var ids []string
	n := 0
	for o := range found {
		if n++; n == 1 {
			first = o
		}
		if n <= MaxFound {
			ids = append(ids, o.GetId())
		}
	}
	if n != 1 {
		return zero, &Error{Kind: kind, Ref: ref, Matches: n, Found: ids}
	}
	return first, nil
}
