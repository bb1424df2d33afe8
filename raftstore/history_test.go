package raftstore_test

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The model that histories are checked against: objects with a value and a
// version, each key by itself.

type opKind int

const (
	opRead   opKind = iota
	opWrite         // whatever is there
	opCAS           // only where the value is expect
	opDelete        // only where there is one
)

var opNames = [...]string{"read", "write", "cas", "delete"}

type opInput struct {
	kind          opKind
	key           string
	value, expect string // values are never written twice
}

type opOutput struct {
	unknown bool // it may have been done, now or later
	ok      bool // done; of a read: there is an object
	value   string
	version uint64
}

// objectState is what stands under a key. version is 0 where no read has told
// it yet; it is then greater than floor.
type objectState struct {
	exists  bool
	value   string
	version uint64
	floor   uint64
}

var objectModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(opInput).key
			byKey[k] = append(byKey[k], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range byKey {
			out = append(out, ops)
		}
		return out
	},
	Init: func() any { return objectState{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(objectState), input.(opInput), output.(opOutput)
		next := objectState{exists: true, value: in.value, floor: max(s.floor, s.version)}
		switch in.kind {
		case opRead:
			if out.ok != s.exists || out.ok && out.value != s.value {
				return false, s
			}
			if !out.ok {
				return true, s
			}
			if s.version == 0 && out.version > s.floor {
				s.version = out.version
			}
			return s.version == out.version, s
		case opWrite:
			return true, next
		case opCAS:
			holds := s.exists && s.value == in.expect
			if !holds {
				next = s
			}
			return out.unknown || out.ok == holds, next
		default:
			next = objectState{floor: next.floor}
			return out.unknown || out.ok == s.exists, next
		}
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(opInput), output.(opOutput)
		return fmt.Sprintf("%s %s %s->%s: %+v", opNames[in.kind], in.key, in.expect, in.value, out)
	},
}

// history collects operations of concurrent clients. Its clock counts the
// beginnings and ends of operations, which is all that their order is made of.
type history struct {
	clock atomic.Int64
	mu    sync.Mutex
	ops   []porcupine.Operation
}

// begin returns the time of an operation's start.
func (h *history) begin() int64 { return h.clock.Add(1) }

// end records an operation. One of unknown outcome has no end.
func (h *history) end(client int, call int64, in opInput, out opOutput) {
	ret := h.clock.Add(1)
	if out.unknown {
		ret = 1 << 62
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
}

// check fails the test where the history is not linearizable.
func (h *history) check(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	result, info := porcupine.CheckOperationsVerbose(objectModel, h.ops, time.Minute)
	switch result {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Errorf("%d operations could not be checked within a minute: use shorter histories", len(h.ops))
	default:
		path := "no picture"
		if dir, err := os.MkdirTemp("", "redoubt-history-"); err == nil { // kept: it is evidence
			path = dir + "/history.html"
			if err := porcupine.VisualizePath(objectModel, info, path); err != nil {
				path = err.Error()
			}
		}
		t.Errorf("%d operations are not linearizable: %s", len(h.ops), path)
		for i, op := range h.ops {
			if i < 400 {
				t.Logf("%6d %6d client %d %s", op.Call, op.Return, op.ClientId, objectModel.DescribeOperation(op.Input, op.Output))
			}
		}
	}
}

// TestModel holds the model itself against histories whose verdict is known: a
// checker that accepts everything proves nothing.
func TestModel(t *testing.T) {
	w := func(c int, call, ret int64, v string) porcupine.Operation {
		return porcupine.Operation{ClientId: c, Input: opInput{opWrite, "k", v, ""}, Call: call, Output: opOutput{ok: true}, Return: ret}
	}
	r := func(c int, call, ret int64, v string, version uint64) porcupine.Operation {
		return porcupine.Operation{ClientId: c, Input: opInput{kind: opRead, key: "k"}, Call: call, Output: opOutput{ok: v != "", value: v, version: version}, Return: ret}
	}
	cas := func(c int, call, ret int64, from, to string, out opOutput) porcupine.Operation {
		return porcupine.Operation{ClientId: c, Input: opInput{opCAS, "k", to, from}, Call: call, Output: out, Return: ret}
	}
	del := porcupine.Operation{ClientId: 9, Input: opInput{kind: opDelete, key: "k"}, Call: 11, Output: opOutput{ok: true}, Return: 12}
	const never = 1 << 62
	for name, c := range map[string]struct {
		ops  []porcupine.Operation
		want bool
	}{
		"in order":            {[]porcupine.Operation{w(1, 1, 2, "a"), r(2, 3, 4, "a", 7)}, true},
		"lost write":          {[]porcupine.Operation{w(1, 1, 2, "a"), r(2, 3, 4, "", 0)}, false},
		"stale read":          {[]porcupine.Operation{w(1, 1, 2, "a"), w(1, 3, 4, "b"), r(2, 5, 6, "a", 7)}, false},
		"concurrent":          {[]porcupine.Operation{w(1, 1, 10, "a"), r(2, 2, 3, "a", 7), r(3, 4, 5, "a", 7)}, true},
		"back in time":        {[]porcupine.Operation{w(1, 1, 10, "a"), r(2, 2, 3, "a", 7), r(3, 4, 5, "", 0)}, false},
		"version changed":     {[]porcupine.Operation{w(1, 1, 2, "a"), r(2, 3, 4, "a", 7), r(2, 5, 6, "a", 8)}, false},
		"version went back":   {[]porcupine.Operation{w(1, 1, 2, "a"), r(2, 3, 4, "a", 7), w(1, 5, 6, "b"), r(2, 7, 8, "b", 6)}, false},
		"unknown, seen":       {[]porcupine.Operation{w(1, 1, never, "a"), r(2, 3, 4, "a", 7)}, true},
		"unknown, not seen":   {[]porcupine.Operation{w(1, 1, never, "a"), r(2, 3, 4, "", 0)}, true},
		"unknown, came later": {[]porcupine.Operation{w(1, 1, never, "a"), r(2, 3, 4, "", 0), r(2, 5, 6, "a", 7)}, true},
		"unknown, undone":     {[]porcupine.Operation{w(1, 1, never, "a"), r(2, 3, 4, "a", 7), r(2, 5, 6, "", 0)}, false},
		"cas":                 {[]porcupine.Operation{w(1, 1, 2, "a"), cas(2, 3, 4, "a", "b", opOutput{ok: true}), r(2, 5, 6, "b", 8)}, true},
		"two of one cas":      {[]porcupine.Operation{w(1, 1, 2, "a"), cas(2, 3, 6, "a", "b", opOutput{ok: true}), cas(3, 4, 7, "a", "c", opOutput{ok: true})}, false},
		"cas refused wrongly": {[]porcupine.Operation{w(1, 1, 2, "a"), cas(2, 3, 4, "a", "b", opOutput{})}, false},
		"cas unknown, failed": {[]porcupine.Operation{w(1, 1, 2, "a"), cas(2, 3, never, "x", "b", opOutput{unknown: true}), r(2, 5, 6, "a", 8)}, true},
		"deleted":             {[]porcupine.Operation{w(1, 1, 2, "a"), del, r(2, 13, 14, "", 0)}, true},
		"deleted and there":   {[]porcupine.Operation{w(1, 1, 2, "a"), del, r(2, 13, 14, "a", 3)}, false},
	} {
		if got := porcupine.CheckOperations(objectModel, c.ops); got != c.want {
			t.Errorf("%s: linearizable is %v, want %v", name, got, c.want)
		}
	}
}
