package raftstore

import "errors"

// unsettled are the writes of a transaction that are not in its copy of the
// tables yet. To put them there means copying a path of the tree of every index,
// which costs more than all else that is done to compose a transaction, and most
// transactions look at what they wrote no more, or by id only. So it is done
// when it is needed: before a scan, a deletion, or a second write to an object,
// and where a key of a unique index may be taken.
type unsettled struct {
	fresh map[objectKey]Object
	order []freshWrite
	held  map[heldKey]struct{} // unique keys of what is fresh
}

type freshWrite struct {
	table  Registered
	object Object
}

type heldKey struct {
	table string
	index int
	key   string
}

// errHeld says that a key may be taken: the copy of the tables decides.
var errHeld = errors.New("raftstore: the key may be taken")

// lay adds o to what the transaction reads, after every check that insert makes.
func (tx *Tx) lay(t Registered, o Object, written bool) error {
	if written {
		return insert(tx.draft, t, o) // all is settled
	}
	id := o.GetId()
	var held []heldKey
	err := check(t, o, func(index int, key string) error {
		k := heldKey{t.Name(), index, key}
		if _, ok := tx.held[k]; ok || unheld(tx.draft, t, id, index, key) != nil {
			return errHeld
		}
		held = append(held, k)
		return nil
	})
	if errors.Is(err, errHeld) {
		if err := tx.settle(); err != nil {
			return err
		}
		return insert(tx.draft, t, o)
	}
	if err != nil {
		return err
	}
	if tx.fresh == nil {
		tx.fresh, tx.held = map[objectKey]Object{}, map[heldKey]struct{}{}
	}
	for _, k := range held {
		tx.held[k] = struct{}{}
	}
	tx.fresh[objectKey{t.Name(), id}] = o
	tx.order = append(tx.order, freshWrite{t, o})
	return nil
}

// settle puts all writes into the transaction's copy of the tables, in order.
func (tx *Tx) settle() error {
	for i, w := range tx.order {
		if err := insert(tx.draft, w.table, w.object); err != nil {
			tx.order = tx.order[i:]
			return err
		}
	}
	clear(tx.fresh)
	clear(tx.held)
	tx.order = nil
	return nil
}
