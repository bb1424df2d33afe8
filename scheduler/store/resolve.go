package store

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// LookupError says that a reference names nothing, or more than one thing.
type LookupError struct {
	Kind, Ref string
	Matches   int
}

func (e *LookupError) Error() string {
	if e.Matches > 1 {
		return fmt.Sprintf("%s %q is ambiguous, %d match: use more of the id", e.Kind, e.Ref, e.Matches)
	}
	return fmt.Sprintf("no %s %q: list them with `redoubt %s ls`", e.Kind, e.Ref, e.list())
}

func (e *LookupError) list() string {
	if e.Kind == "task" {
		return "service"
	}
	return e.Kind
}

// Is makes a reference that names nothing a raftstore.ErrNotFound.
func (e *LookupError) Is(target error) bool { return target == raftstore.ErrNotFound && e.Matches == 0 }

// ResolveService finds a service by id, name or unique prefix of its id, in
// this order.
func ResolveService(r raftstore.Reader, ref string) (*schedulerpb.Service, error) {
	if s, ok := Services.Get(r, ref); ok {
		return s, nil
	}
	for s := range Services.By(r, "name", ref) {
		return s, nil
	}
	return only("service", ref, byPrefix(Services, r, ref))
}

// ResolveNode finds a node by id, by the hostname it reports where no other
// node reports the same, or by unique prefix of its id.
func ResolveNode(r raftstore.Reader, ref string) (*schedulerpb.Node, error) {
	if n, ok := Nodes.Get(r, ref); ok {
		return n, nil
	}
	named := func(yield func(*schedulerpb.Node) bool) {
		for n := range Nodes.All(r) {
			if n.GetDescription().GetHostname() == ref && ref != "" && !yield(n) {
				return
			}
		}
	}
	for range named {
		return only("node", ref, named)
	}
	return only("node", ref, byPrefix(Nodes, r, ref))
}

// ResolveTask finds a task by id or unique prefix, or by name: "web.3" is the
// newest task of slot 3 of web, "web.NODE" that of a global service on NODE.
func ResolveTask(r raftstore.Reader, ref string) (*schedulerpb.Task, error) {
	if t, ok := Tasks.Get(r, ref); ok {
		return t, nil
	}
	name, place, dotted := strings.Cut(ref, ".")
	if !dotted {
		return only("task", ref, byPrefix(Tasks, r, ref))
	}
	s, err := ResolveService(r, name)
	if err != nil {
		return nil, &LookupError{Kind: "task", Ref: ref}
	}
	var key string
	if s.GetSpec().GetGlobal() != nil {
		n, err := ResolveNode(r, place)
		if err != nil {
			return nil, err
		}
		key = SlotKey(s.GetId(), 0, n.GetId())
	} else {
		slot, err := strconv.ParseUint(place, 10, 32)
		if err != nil || slot == 0 {
			return nil, &LookupError{Kind: "task", Ref: ref}
		}
		key = SlotKey(s.GetId(), uint32(slot), "")
	}
	var newest *schedulerpb.Task
	for t := range Tasks.By(r, "slot", key) {
		if newest == nil || Newer(t, newest) {
			newest = t
		}
	}
	if newest == nil {
		return nil, &LookupError{Kind: "task", Ref: ref}
	}
	return newest, nil
}

// Newer orders the tasks of one slot by when they were made.
func Newer(a, b *schedulerpb.Task) bool {
	if x, y := a.GetMeta().GetCreatedAt(), b.GetMeta().GetCreatedAt(); x != y {
		return x > y
	}
	return a.GetId() > b.GetId()
}

// TaskName is how people call a task: "web.3", or "web.<node id>" for a task of
// a global service.
func TaskName(serviceName string, t *schedulerpb.Task) string {
	if t.GetSlot() == 0 {
		return serviceName + "." + t.GetTargetNodeId()
	}
	return fmt.Sprintf("%s.%d", serviceName, t.GetSlot())
}

func byPrefix[T raftstore.Object](tbl *raftstore.Table[T], r raftstore.Reader, ref string) iter.Seq[T] {
	if len(ref) < ident.MinPrefix || len(ref) > ident.Len {
		return func(func(T) bool) {}
	}
	return tbl.Prefix(r, ref)
}

func only[T raftstore.Object](kind, ref string, found iter.Seq[T]) (T, error) {
	var first, zero T
	n := 0
	for o := range found {
		if n++; n == 1 {
			first = o
		}
	}
	if n != 1 {
		return zero, &LookupError{Kind: kind, Ref: ref, Matches: n}
	}
	return first, nil
}
