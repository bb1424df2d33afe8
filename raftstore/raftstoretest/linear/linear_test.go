package linear

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// TestModel holds the model itself against histories whose verdict is known: a
// checker that accepts everything proves nothing.
func TestModel(t *testing.T) {
	w := func(c int, call, ret int64, v string) porcupine.Operation {
		return porcupine.Operation{ClientId: c, Input: Input{Write, "k", v, ""}, Call: call, Output: Output{OK: true}, Return: ret}
	}
	r := func(c int, call, ret int64, v string, version uint64) porcupine.Operation {
		return porcupine.Operation{ClientId: c, Input: Input{Kind: Read, Key: "k"}, Call: call, Output: Output{OK: v != "", Value: v, Version: version}, Return: ret}
	}
	cas := func(c int, call, ret int64, from, to string, out Output) porcupine.Operation {
		return porcupine.Operation{ClientId: c, Input: Input{CAS, "k", to, from}, Call: call, Output: out, Return: ret}
	}
	del := porcupine.Operation{ClientId: 9, Input: Input{Kind: Delete, Key: "k"}, Call: 11, Output: Output{OK: true}, Return: 12}
	const never = Never
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
		"cas":                 {[]porcupine.Operation{w(1, 1, 2, "a"), cas(2, 3, 4, "a", "b", Output{OK: true}), r(2, 5, 6, "b", 8)}, true},
		"two of one cas":      {[]porcupine.Operation{w(1, 1, 2, "a"), cas(2, 3, 6, "a", "b", Output{OK: true}), cas(3, 4, 7, "a", "c", Output{OK: true})}, false},
		"cas refused wrongly": {[]porcupine.Operation{w(1, 1, 2, "a"), cas(2, 3, 4, "a", "b", Output{})}, false},
		"cas unknown, failed": {[]porcupine.Operation{w(1, 1, 2, "a"), cas(2, 3, never, "x", "b", Output{Unknown: true}), r(2, 5, 6, "a", 8)}, true},
		"deleted":             {[]porcupine.Operation{w(1, 1, 2, "a"), del, r(2, 13, 14, "", 0)}, true},
		"deleted and there":   {[]porcupine.Operation{w(1, 1, 2, "a"), del, r(2, 13, 14, "a", 3)}, false},
	} {
		if got := porcupine.CheckOperations(Model, c.ops); got != c.want {
			t.Errorf("%s: linearizable is %v, want %v", name, got, c.want)
		}
		if got := holds(c.ops, time.Minute); got != c.want {
			t.Errorf("%s: without its open operations linearizable is %v, want %v", name, got, c.want)
		}
	}
}

// TestOpenOperations compares both ways to judge a history, of operations with
// answers that may be wrong: the quick one accepts nothing that the other does
// not, and where nothing was left out, refuses nothing else.
func TestOpenOperations(t *testing.T) {
	verdicts := map[[2]bool]int{}
	for seed := range uint64(6000) {
		r := rand.New(rand.NewPCG(seed, 1))
		var ops []porcupine.Operation
		left := false
		now, version := int64(0), uint64(0)
		written := []string{"", ""} // the last is what stands there, most of the time
		for i := range 4 + r.IntN(8) {
			now += 2
			op := porcupine.Operation{ClientId: i, Call: now, Return: now + 1 + 2*r.Int64N(3)}
			in := Input{Kind: Kind(r.IntN(5)), Key: "k", Value: fmt.Sprint(i), Expect: written[len(written)-1-r.IntN(2)]}
			out := Output{OK: r.IntN(4) > 0}
			switch {
			case in.Kind == Read:
				out.Value = written[len(written)-1-r.IntN(2)]
				out.OK = out.Value != ""
				if out.OK {
					out.Version = version
				}
			case r.IntN(2) == 0:
				out, op.Return = Output{Unknown: true}, Never
				left = left || in.Kind == CAS || in.Kind == Create
				fallthrough
			default:
				if in.Kind != Delete {
					written = append(written, in.Value)
				} else {
					written = append(written, "")
				}
				version++
			}
			op.Input, op.Output = in, out
			ops = append(ops, op)
		}
		exact, quick := porcupine.CheckOperations(Model, ops), holds(ops, time.Minute)
		if quick != exact && (quick || !left) {
			t.Fatalf("seed %d: linearizable is %v, without its open operations %v: %+v", seed, exact, quick, ops)
		}
		verdicts[[2]bool{exact, quick}]++
	}
	t.Logf("exact and quick verdicts: %v", verdicts)
	if verdicts[[2]bool{true, true}] < 1000 || verdicts[[2]bool{false, false}] < 1000 {
		t.Errorf("most histories are of one kind, which proves nothing: %v", verdicts)
	}
}

// TestManyOpenOperations: what the plain search does not end within hours.
func TestManyOpenOperations(t *testing.T) {
	var ops []porcupine.Operation
	now := int64(0)
	add := func(in Input, out Output) {
		now += 2
		op := porcupine.Operation{Input: in, Output: out, Call: now, Return: now + 1}
		if out.Unknown {
			op.Return = Never
		}
		ops = append(ops, op)
	}
	for i := range 200 {
		v := fmt.Sprint(i)
		add(Input{Kind: Write, Key: "k", Value: v}, Output{Unknown: true})
		add(Input{Kind: Delete, Key: "k"}, Output{Unknown: true})
		add(Input{Kind: Write, Key: "k", Value: "w" + v}, Output{Unknown: true})
		if i%2 == 0 {
			add(Input{Kind: Read, Key: "k"}, Output{OK: true, Value: v, Version: uint64(i + 1)})
		}
	}
	if !holds(ops, time.Minute) {
		t.Error("a good history is refused")
	}
	add(Input{Kind: Read, Key: "k"}, Output{OK: true, Value: "0", Version: 1})
	if holds(ops, time.Minute) {
		t.Error("a bad history is accepted")
	}
}
