package store

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// ResolveService finds a service by id, name or unique prefix of its id, in
// this order.
func ResolveService(r raftstore.Reader, ref string) (*schedulerpb.Service, error) {
	return resolve.Named("service", Services, r, ref)
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
		return resolve.Only("node", ref, named)
	}
	return resolve.Only("node", ref, resolve.ByPrefix(Nodes, r, ref))
}

// ResolveTask finds a task by id or unique prefix, or by name: "web.3" is the
// newest task of slot 3 of web, "web.NODE" that of a global service on NODE.
func ResolveTask(r raftstore.Reader, ref string) (*schedulerpb.Task, error) {
	if t, ok := Tasks.Get(r, ref); ok {
		return t, nil
	}
	name, place, dotted := strings.Cut(ref, ".")
	if !dotted {
		return resolve.Only("task", ref, resolve.ByPrefix(Tasks, r, ref))
	}
	s, err := ResolveService(r, name)
	if err != nil {
		return nil, &resolve.Error{Kind: "task", Ref: ref}
	}
	var key string
	if spec.PerNode(s.GetSpec()) {
		n, err := ResolveNode(r, place)
		if err != nil {
			return nil, err
		}
		key = SlotKey(s.GetId(), 0, n.GetId())
	} else {
		slot, err := strconv.ParseUint(place, 10, 32)
		if err != nil || slot == 0 {
			return nil, &resolve.Error{Kind: "task", Ref: ref}
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
		return nil, &resolve.Error{Kind: "task", Ref: ref}
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
