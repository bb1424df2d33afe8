package raftstore

import (
	"fmt"
	"iter"
	"slices"

	memdb "github.com/hashicorp/go-memdb"
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
	raw, err := r.r.txn.First(sumsOf(t), idIndex, sum+"\x00"+key)
	if err != nil {
		panic(fmt.Sprintf("raftstore: table %s is not registered with this store: %v", t.name, err))
	}
	if raw == nil {
		return Amounts{}
	}
	return raw.(*total).n
}

// Totals yields the keys with that prefix whose sum is not zero, in order.
func (t *Table[T]) Totals(r *ReadTx, sum, prefix string) iter.Seq2[string, Amounts] {
	t.mustSum(sum)
	return func(yield func(string, Amounts) bool) {
		it, err := r.r.txn.Get(sumsOf(t), idIndex+prefixSuffix, sum+"\x00"+prefix)
		if err != nil {
			panic(fmt.Sprintf("raftstore: table %s is not registered with this store: %v", t.name, err))
		}
		for raw := it.Next(); raw != nil; raw = it.Next() {
			row := raw.(*total)
			if !yield(row.key[len(sum)+1:], row.n) {
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
func (t *Table[T]) amounts(o Object, yield func(key string, n Amounts)) {
	for _, s := range t.sums {
		if key, n := s.Of(o.(T)); key != "" && n != (Amounts{}) {
			yield(s.Name+"\x00"+key, n)
		}
	}
}

func (t *Table[T]) summed() bool { return len(t.sums) > 0 }

// total is a row of sums; it never changes.
type total struct {
	key string // the sum's name, NUL, the key
	n   Amounts
}

// sumsOf names the rows of a table's sums. No table has such a name.
func sumsOf(t Registered) string { return t.Name() + "#sums" }

// totalIndexer finds rows by their whole key.
type totalIndexer struct{}

func (totalIndexer) FromObject(raw any) (bool, []byte, error) {
	return true, terminated(raw.(*total).key), nil
}

func (totalIndexer) FromArgs(args ...any) ([]byte, error) { return idIndexer{}.FromArgs(args...) }

func (totalIndexer) PrefixFromArgs(args ...any) ([]byte, error) {
	return idIndexer{}.PrefixFromArgs(args...)
}

func sumsSchema(t Registered) *memdb.TableSchema {
	return &memdb.TableSchema{Name: sumsOf(t), Indexes: map[string]*memdb.IndexSchema{
		idIndex: {Name: idIndex, Unique: true, Indexer: totalIndexer{}},
	}}
}

// tally gathers changes of sums, so that each row is written once an entry.
type tally map[Registered]map[string]Amounts

func (y tally) count(t Registered, o Object, sign int64) {
	if o == nil || !t.summed() {
		return
	}
	t.amounts(o, func(key string, n Amounts) {
		rows := y[t]
		if rows == nil {
			rows = map[string]Amounts{}
			y[t] = rows
		}
		rows[key] = rows[key].plus(n, sign)
	})
}

// write adds what was gathered to the rows, which are read from base: the same
// state, as a tree that is read between two writes is copied again.
func (y tally) write(base, txn *memdb.Txn) error {
	for t, rows := range y {
		for key, n := range rows {
			if n == (Amounts{}) {
				continue
			}
			raw, err := base.First(sumsOf(t), idIndex, key)
			if err != nil {
				return err
			}
			if raw != nil {
				n = raw.(*total).n.plus(n, 1)
			}
			row := &total{key, n}
			if n == (Amounts{}) {
				err = txn.Delete(sumsOf(t), row)
			} else {
				err = txn.Insert(sumsOf(t), row)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
