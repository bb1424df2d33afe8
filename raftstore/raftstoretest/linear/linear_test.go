package linear

import (
	"testing"

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
	}
}
