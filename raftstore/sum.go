package raftstore

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/cow"
)

// Sum is kept beside a table: what its objects amount to, added up by key, so
// that who only counts need not read them all. Like an index it is part of
// every state, computed by every manager for itself, and in no log or snapshot.
type Sum[T Object] struct {
	Name string
	// Of says under which key an object counts, and how much. It must depend on
	// nothing but the object. No key: it does not count.
	Of func(T) (key string, n Amounts)
}

// Amounts are what one object, or all of one key, come to. What each of them
// counts is the table's matter.
type Amounts [4]int64

func (a Amounts) plus(b Amounts, sign int64) Amounts {
	for i := range a {
		a[i] += sign * b[i]
	}
	return a
}

// Summing adds sums to the table's description. It panics where they make no
// sense, as NewTable does.
func (t *Table[T]) Summing(sums ...Sum[T]) *Table[T] {
	for i, s := range sums {
		if !nameRule.MatchString(s.Name) || s.Of == nil || slices.ContainsFunc(sums[:i], func(o Sum[T]) bool { return o.Name == s.Name }) {
			panic(fmt.Sprintf("raftstore: table %s: sum %q is not usable", t.name, s.Name))
		}
	}
	t.sums = slices.Clone(sums)
	return t
}

// Total is the sum of one key; zero where nothing counts under it.
func (t *Table[T]) Total(r *ReadTx, sum, key string) Amounts {
	t.mustSum(sum)
	n, _ := t.mustRows(r.r.view).sums.Get(cow.Key{A: sum, B: key})
	return n
}

// Totals yields the keys with that prefix whose sum is not zero, in order.
func (t *Table[T]) Totals(r *ReadTx, sum, prefix string) iter.Seq2[string, Amounts] {
	t.mustSum(sum)
	return func(yield func(string, Amounts) bool) {
		for k, n := range t.mustRows(r.r.view).sums.From(cow.Key{A: sum, B: prefix}) {
			if k.A != sum || !strings.HasPrefix(k.B, prefix) || !yield(k.B, n) {
				return
			}
		}
	}
}

func (t *Table[T]) mustSum(name string) {
	if !slices.ContainsFunc(t.sums, func(s Sum[T]) bool { return s.Name == name }) {
		panic(fmt.Sprintf("raftstore: table %s has no sum %q", t.name, name))
	}
}

// amounts yields what o counts, under the sum's name and the key.
func (t *Table[T]) amounts(o Object, yield func(at cow.Key, n Amounts)) {
	for _, s := range t.sums {
		if key, n := s.Of(o.(T)); key != "" && n != (Amounts{}) {
			yield(cow.Key{A: s.Name, B: key}, n)
		}
	}
}

func (t *Table[T]) summed() bool { return len(t.sums) > 0 }

// tally gathers changes of sums, so that each row is written once an entry.
type tally map[Registered]map[cow.Key]Amounts

func (y tally) count(t Registered, o Object, sign int64) {
	if o == nil || !t.summed() {
		return
	}
	t.amounts(o, func(at cow.Key, n Amounts) {
		rows := y[t]
		if rows == nil {
			rows = map[cow.Key]Amounts{}
			y[t] = rows
		}
		rows[at] = rows[at].plus(n, sign)
	})
}

// write adds what was gathered to the rows.
func (y tally) write(d *draftState) error {
	for t, rows := range y {
		c, err := d.change(t.Name())
		if err != nil {
			return err
		}
		for at, n := range rows {
			if n == (Amounts{}) {
				continue
			}
			was, _ := c.sums.Peek().Get(at)
			if n = was.plus(n, 1); n == (Amounts{}) {
				c.sums.Delete(at)
			} else {
				c.sums.Set(at, n)
			}
		}
	}
	return nil
}
