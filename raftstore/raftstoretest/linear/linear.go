// Package linear judges whether what concurrent clients saw of versioned
// objects is linearizable: whether there is an order of their operations, each
// somewhere between its call and its return, in which every answer is right.
//
// A History collects operations; its clock counts calls and returns, as their
// order is all that matters. An operation whose outcome nobody knows has no
// return: it may take effect at any later time, or never. Each key is judged by
// itself. The search is porcupine's, the model of an object is this package's.
//
// It knows no store: the simulation of raftstore and the stories over real
// managers use it alike.
package linear

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what an operation does.
type Kind int

const (
	Read   Kind = iota
	Write       // whatever is there
	CAS         // only where the value is expect
	Create      // only where there is none
	Delete      // only where there is one
)

var names = [...]string{"read", "write", "cas", "create", "delete"}

// Input is an operation.
type Input struct {
	Kind          Kind
	Key           string
	Value, Expect string // values are never written twice
}

// Output is its answer.
type Output struct {
	Unknown bool // it may have been done, now or later
	OK      bool // done; of a read: there is an object
	Value   string
	Version uint64
}

// objectState is what stands under a key. version is 0 where no read has told
// it yet; it is then greater than floor.
type objectState struct {
	exists  bool
	value   string
	version uint64
	floor   uint64
}

// Model is an object with a value and a version.
var Model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(Input).Key
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
		s, in, out := state.(objectState), input.(Input), output.(Output)
		next := objectState{exists: true, value: in.Value, floor: max(s.floor, s.version)}
		switch in.Kind {
		case Read:
			if out.OK != s.exists || out.OK && out.Value != s.value {
				return false, s
			}
			if !out.OK {
				return true, s
			}
			if s.version == 0 && out.Version > s.floor {
				s.version = out.Version
			}
			return s.version == out.Version, s
		case Write:
			return true, next
		case CAS:
			holds := s.exists && s.value == in.Expect
			if !holds {
				next = s
			}
			return out.Unknown || out.OK == holds, next
		case Create:
			if s.exists {
				next = s
			}
			return out.Unknown || out.OK == !s.exists, next
		default:
			next = objectState{floor: next.floor}
			return out.Unknown || out.OK == s.exists, next
		}
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(Input), output.(Output)
		return fmt.Sprintf("%s %s %s->%s: %+v", names[in.Kind], in.Key, in.Expect, in.Value, out)
	},
}

// Never is the return of an operation of unknown outcome.
const Never = 1 << 62

// History collects operations of concurrent clients. Its clock counts the
// beginnings and ends of operations, which is all that their order is made of.
type History struct {
	clock atomic.Int64
	mu    sync.Mutex
	ops   []porcupine.Operation
}

// Begin returns the time of an operation's start.
func (h *History) Begin() int64 { return h.clock.Add(1) }

// End records an operation. One of unknown outcome has no end.
func (h *History) End(client int, call int64, in Input, out Output) {
	ret := h.clock.Add(1)
	if out.Unknown {
		ret = Never
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
}

// Check fails the test where the history is not linearizable. It is bounded by
// the time it takes, so in simulated time it would not be.
func (h *History) Check(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if holds(h.ops, time.Minute) {
		return
	}
	result, info := porcupine.CheckOperationsVerbose(Model, h.ops, time.Minute)
	switch result {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Errorf("%d operations could not be checked within a minute: use shorter histories", len(h.ops))
	default:
		path := "no picture"
		if dir, err := os.MkdirTemp("", "redoubt-history-"); err == nil { // kept: it is evidence
			path = dir + "/history.html"
			if err := porcupine.VisualizePath(Model, info, path); err != nil {
				path = err.Error()
			}
		}
		t.Errorf("%d operations are not linearizable: %s", len(h.ops), path)
		for i, op := range h.ops {
			if i < 400 {
				t.Logf("%6d %6d client %d %s", op.Call, op.Return, op.ClientId, Model.DescribeOperation(op.Input, op.Output))
			}
		}
	}
}
