package linear

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// An operation of unknown outcome stays open for ever, and each one that is open
// doubles what the search may have to try. So a history is judged first in a
// form that accepts no more and has none of them:
//
//   - Values are never written twice. Where one was seen, its write was done
//     before that read returned: it is given that end.
//   - Where a value was not seen, its write differs from others of that kind by
//     nothing but its beginning, as deletions do. Such operations are counted in
//     the state, and done there as an answer needs them.
//   - One that depends on what was there, and was not seen, is left out: it may
//     never have been done. That alone may be why a good history is refused here,
//     which is then judged as it is.

const (
	mayWrite  Kind = -1 - iota // from now on a write that nobody saw may be done once
	mayDelete                  // likewise a deletion
)

// unseen is the value of all writes that nobody saw.
const unseen = "\x00"

func closed(ops []porcupine.Operation) []porcupine.Operation {
	type value struct{ key, value string }
	seen := map[value]int64{} // when it was first known to be there
	see := func(key, v string, at int64) {
		if old, ok := seen[value{key, v}]; !ok || at < old {
			seen[value{key, v}] = at
		}
	}
	for _, op := range ops {
		in, out := op.Input.(Input), op.Output.(Output)
		switch {
		case out.Unknown || !out.OK:
		case in.Kind == Read:
			see(in.Key, out.Value, op.Return)
		case in.Kind == CAS:
			see(in.Key, in.Expect, op.Return)
		}
	}
	var all []porcupine.Operation
	for _, op := range ops {
		in, out := op.Input.(Input), op.Output.(Output)
		if out.Unknown {
			at, ok := seen[value{in.Key, in.Value}]
			switch {
			case in.Kind == Read:
				continue
			case in.Kind == Delete:
				in.Kind, op.Return = mayDelete, op.Call
			case ok && at > op.Call:
				op.Return = at
			case ok: // seen before it was written
				op.Return = op.Call
			case in.Kind == Write:
				in.Kind, op.Return = mayWrite, op.Call
			default:
				continue
			}
			op.Input, op.Output = in, Output{OK: true}
		}
		all = append(all, op)
	}
	return all
}

// openState is an object and how many operations may still be done to it.
type openState struct {
	objectState
	writes, deletes int
}

func openStep(state, input, output any) (next []any) {
	s, in := state.(openState), input.(Input)
	switch in.Kind {
	case mayWrite:
		s.writes++
		return []any{s}
	case mayDelete:
		s.deletes++
		return []any{s}
	}
	try := func(s openState, o objectState) {
		if ok, o := Model.Step(o, input, output); ok {
			s.objectState = o.(objectState)
			next = append(next, s)
		}
	}
	try(s, s.objectState)
	floor := max(s.floor, s.version)
	if s.writes > 0 && in.Kind != Write { // which would hide it
		o := s
		o.writes--
		try(o, objectState{exists: true, value: unseen, floor: floor})
	}
	if s.deletes > 0 && s.exists && in.Kind != Write {
		o := s
		o.deletes--
		try(o, objectState{floor: floor})
	}
	return next
}

var openModel = (&porcupine.NondeterministicModel{
	Partition: Model.Partition,
	Init:      func() []any { return []any{openState{}} },
	Step:      openStep,
}).ToModel()

// holds reports whether a history is linearizable, where that can be told
// without its open operations.
func holds(ops []porcupine.Operation, within time.Duration) bool {
	return porcupine.CheckOperationsTimeout(openModel, closed(ops), within) == porcupine.Ok
}
