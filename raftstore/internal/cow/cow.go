// Package cow is an ordered map of which a copy costs nothing: readers keep the
// map as it was while a writer goes on. It is what tables and their indexes are
// made of.
//
// It is a B+ tree. Values are in its leaves, some 32 beside each other, so an
// entry costs little more than its key and value and the collector sees a block
// and not a handful of objects for each. A Map is a value: assigning it copies
// it. Nobody changes a node that another Map may share; a Writer owns the nodes
// that it made itself and changes those in place, so that many changes made
// together copy each node on their way once.
//
//	w := m.Write()
//	w.Set(cow.Key{A: "node-1", B: "task-7"}, t)
//	m = w.Map() // the former m is as it was
//
// It knows no bounds and checks nothing: keys and values are its caller's.
package cow

import (
	"iter"
	"slices"
	"strings"
)

// Key is ordered by A, then by B: an index key and the id of what has it.
type Key struct{ A, B string }

func compare(x, y Key) int {
	if c := strings.Compare(x.A, y.A); c != 0 {
		return c
	}
	return strings.Compare(x.B, y.B)
}

// Map is a state of the tree. The zero Map is empty. It is safe for concurrent
// use, as nothing changes it.
type Map[V any] struct{ root *node[V] }

// node is a leaf, with items, or not, with children.
type node[V any] struct {
	writer *writer // who may change it; compared only
	items  []item[V]
	kids   []kid[V]
}

type item[V any] struct {
	key   Key
	value V
}

// kid is a child. All its keys are at least low, and below the next one's low;
// the low of the first is not looked at.
type kid[V any] struct {
	low  Key
	node *node[V]
}

const (
	// maxItems and maxKids fill blocks that the allocator has.
	maxItems = 32
	maxKids  = 32
	// A node that has fewer than a quarter joins a neighbour.
	minItems = maxItems / 4
	minKids  = maxKids / 4
)

// Get returns the value of a key.
func (m Map[V]) Get(k Key) (v V, ok bool) {
	n := m.root
	if n == nil {
		return v, false
	}
	for n.kids != nil {
		n = n.kids[n.child(k)].node
	}
	if i, ok := n.find(k); ok {
		return n.items[i].value, true
	}
	return v, false
}

// child is which child has the keys around k.
func (n *node[V]) child(k Key) int {
	lo, hi := 1, len(n.kids)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if compare(n.kids[mid].low, k) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// find is where k is in a leaf, or belongs.
func (n *node[V]) find(k Key) (int, bool) {
	lo, hi := 0, len(n.items)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if compare(n.items[mid].key, k) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(n.items) && n.items[lo].key == k
}

// From yields all from k on, in order.
func (m Map[V]) From(k Key) iter.Seq2[Key, V] {
	return func(yield func(Key, V) bool) {
		if m.root != nil {
			m.root.from(k, yield)
		}
	}
}

func (n *node[V]) from(k Key, yield func(Key, V) bool) bool {
	if n.kids == nil {
		i, _ := n.find(k)
		for _, it := range n.items[i:] {
			if !yield(it.key, it.value) {
				return false
			}
		}
		return true
	}
	first := n.child(k)
	if !n.kids[first].node.from(k, yield) {
		return false
	}
	for _, c := range n.kids[first+1:] {
		if !c.node.from(Key{}, yield) {
			return false
		}
	}
	return true
}

// Write begins changes that m does not see.
func (m Map[V]) Write() Writer[V] { return Writer[V]{root: m.root, me: new(writer)} }

// writer tells one Writer from others; a pointer to nothing would not.
type writer struct{ _ byte }

// Writer is a Map being changed, by one goroutine.
type Writer[V any] struct {
	root *node[V]
	me   *writer
}

// Map is the state so far. The Writer may go on; the Map stays as it is.
func (w *Writer[V]) Map() Map[V] {
	w.me = new(writer) // nothing is its own any more
	return Map[V]{w.root}
}

// Peek is the state so far, to be read until the next change and no longer.
func (w *Writer[V]) Peek() Map[V] { return Map[V]{w.root} }

// Set gives a key its value.
func (w *Writer[V]) Set(k Key, v V) {
	if w.root == nil {
		w.root = w.leaf(nil)
	}
	w.root = w.own(w.root)
	if right := w.set(w.root, k, v); right.node != nil {
		w.root = w.inner([]kid[V]{{node: w.root}, right})
	}
}

// Delete removes a key, where it is there.
func (w *Writer[V]) Delete(k Key) {
	if _, ok := w.Peek().Get(k); !ok {
		return
	}
	w.root = w.own(w.root)
	w.delete(w.root, k)
	for len(w.root.kids) == 1 {
		w.root = w.root.kids[0].node
	}
	if w.root.kids == nil && len(w.root.items) == 0 {
		w.root = nil
	}
}

// leaf and inner make nodes of the writer's own, with room for all they may have.
func (w *Writer[V]) leaf(items []item[V]) *node[V] {
	return &node[V]{writer: w.me, items: append(make([]item[V], 0, maxItems), items...)}
}

func (w *Writer[V]) inner(kids []kid[V]) *node[V] {
	return &node[V]{writer: w.me, kids: append(make([]kid[V], 0, maxKids), kids...)}
}

// own returns n, or a copy of it, to change.
func (w *Writer[V]) own(n *node[V]) *node[V] {
	switch {
	case n.writer == w.me:
		return n
	case n.kids != nil:
		return w.inner(n.kids)
	}
	return w.leaf(n.items)
}

// set changes n, the writer's own. Where there was no room, the right half of n
// comes back, to stand beside it.
func (w *Writer[V]) set(n *node[V], k Key, v V) (right kid[V]) {
	if n.kids == nil {
		i, ok := n.find(k)
		if ok {
			n.items[i] = item[V]{k, v} // also the key: it is part of the new value
			return right
		}
		if len(n.items) == maxItems {
			cut := maxItems / 2
			if i == maxItems {
				cut = maxItems // what comes in order leaves full nodes behind
			}
			if right.node = w.leaf(n.items[cut:]); i >= cut {
				right.node.items = slices.Insert(right.node.items, i-cut, item[V]{k, v})
			}
			clear(n.items[cut:])
			if n.items = n.items[:cut]; i < cut {
				n.items = slices.Insert(n.items, i, item[V]{k, v})
			}
			right.low = right.node.items[0].key
			return right
		}
		n.items = slices.Insert(n.items, i, item[V]{k, v})
		return right
	}
	i := n.child(k)
	n.kids[i].node = w.own(n.kids[i].node)
	split := w.set(n.kids[i].node, k, v)
	if split.node == nil {
		return right
	}
	i++
	if len(n.kids) == maxKids {
		cut := maxKids / 2
		if i == maxKids {
			cut = maxKids - 1
		}
		right = kid[V]{n.kids[cut].low, w.inner(n.kids[cut:])}
		clear(n.kids[cut:])
		if n.kids = n.kids[:cut]; i > cut {
			right.node.kids = slices.Insert(right.node.kids, i-cut, split)
			return right
		}
	}
	n.kids = slices.Insert(n.kids, i, split)
	return right
}

// delete takes k out of n, the writer's own, where it is.
func (w *Writer[V]) delete(n *node[V], k Key) {
	if n.kids == nil {
		i, _ := n.find(k)
		n.items = slices.Delete(n.items, i, i+1)
		return
	}
	i := n.child(k)
	c := w.own(n.kids[i].node)
	n.kids[i].node = c
	w.delete(c, k)
	switch {
	case c.kids == nil && len(c.items) >= minItems, len(c.kids) >= minKids:
		return
	case len(n.kids) == 1: // n itself is about to join another
		return
	}
	if i == len(n.kids)-1 {
		i--
	}
	w.join(n, i)
}

// join makes one of the children i and i+1 of n, or two that have about as much.
func (w *Writer[V]) join(n *node[V], i int) {
	a, b := w.own(n.kids[i].node), n.kids[i+1]
	n.kids[i].node = a
	if a.kids == nil {
		all := slices.Concat(a.items, b.node.items)
		if len(all) <= maxItems {
			a.items = append(a.items, b.node.items...)
			n.kids = slices.Delete(n.kids, i+1, i+2)
			return
		}
		half := len(all) / 2
		n.kids[i].node = w.leaf(all[:half])
		n.kids[i+1] = kid[V]{all[half].key, w.leaf(all[half:])}
		return
	}
	more := slices.Clone(b.node.kids)
	more[0].low = b.low
	all := slices.Concat(a.kids, more)
	if len(all) <= maxKids {
		a.kids = append(a.kids, more...)
		n.kids = slices.Delete(n.kids, i+1, i+2)
		return
	}
	half := len(all) / 2
	n.kids[i].node = w.inner(all[:half])
	n.kids[i+1] = kid[V]{all[half].low, w.inner(all[half:])}
}
