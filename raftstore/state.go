package raftstore

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/cow"
)

// state is all tables and the audit log as one entry left them. It never changes,
// so any number of readers share it.
type state struct {
	tables map[string]*rows
	audit  auditlog.Log
}

// rows are the objects of a table by id, by each of its indexes, and its sums.
// An entry of an index is its key and the id of what has it.
type rows struct {
	byID cow.Map[Object]
	by   []cow.Map[Object]
	sums cow.Map[Amounts] // by the sum's name, NUL, the key
}

func newState(tables map[string]Registered) *state {
	s := &state{tables: make(map[string]*rows, len(tables))}
	for name, t := range tables {
		s.tables[name] = &rows{by: make([]cow.Map[Object], len(t.indexes()))}
	}
	return s
}

// tablesByName is how tables are found.
func tablesByName(tables []Registered) (map[string]Registered, error) {
	if len(tables) == 0 {
		return nil, errors.New("raftstore: no table was registered")
	}
	byName := make(map[string]Registered, len(tables))
	for _, t := range tables {
		switch {
		case t == nil:
			return nil, fmt.Errorf("raftstore: a nil table was registered")
		case byName[t.Name()] != nil:
			return nil, fmt.Errorf("raftstore: table %s is registered twice", t.Name())
		}
		byName[t.Name()] = t
	}
	return byName, nil
}

// view is what can be read: a state, or one that is being changed.
type view interface {
	get(table, id string) (Object, error)
	// holder is the first object that has key in an index, or nil.
	holder(table string, index int, key string) (Object, error)
	// rows of the table as they are now, whatever is changed later.
	rows(table string) (*rows, error)
	// records is the audit log.
	records() auditlog.Log
}

func (s *state) records() auditlog.Log { return s.audit }

func (d *draftState) records() auditlog.Log { return d.audit }

func (s *state) rows(table string) (*rows, error) {
	if r := s.tables[table]; r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("table %q is not registered with this store", table)
}

func (s *state) get(table, id string) (Object, error) {
	r, err := s.rows(table)
	if err != nil {
		return nil, err
	}
	return byID(r.byID, id), nil
}

func (s *state) holder(table string, index int, key string) (Object, error) {
	r, err := s.rows(table)
	if err != nil {
		return nil, err
	}
	return firstOf(r.by[index], key), nil
}

func byID(m cow.Map[Object], id string) Object {
	o, _ := m.Get(cow.Key{A: id})
	return o
}

func firstOf(m cow.Map[Object], key string) Object {
	for o := range each(m, key, false) {
		return o
	}
	return nil
}

// each yields what has exactly that key in a tree, or one with that prefix.
func each(m cow.Map[Object], key string, prefix bool) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for k, o := range m.From(cow.Key{A: key}) {
			if k.A != key && !(prefix && strings.HasPrefix(k.A, key)) || !yield(o) {
				return
			}
		}
	}
}

// draftState is a state being changed by one goroutine: what it was made from
// stays as it is.
type draftState struct {
	base    *state
	changed map[string]*draftRows
	audit   auditlog.Log
}

type draftRows struct {
	byID cow.Writer[Object]
	by   []cow.Writer[Object]
	sums cow.Writer[Amounts]
}

func (s *state) draft() *draftState { return &draftState{base: s, audit: s.audit} }

func (d *draftState) rows(table string) (*rows, error) {
	if c := d.changed[table]; c != nil {
		return c.rows(), nil
	}
	return d.base.rows(table)
}

func (d *draftState) get(table, id string) (Object, error) {
	if c := d.changed[table]; c != nil {
		return byID(c.byID.Peek(), id), nil
	}
	return d.base.get(table, id)
}

func (d *draftState) holder(table string, index int, key string) (Object, error) {
	if c := d.changed[table]; c != nil {
		return firstOf(c.by[index].Peek(), key), nil
	}
	return d.base.holder(table, index, key)
}

func (c *draftRows) rows() *rows {
	r := &rows{byID: c.byID.Map(), by: make([]cow.Map[Object], len(c.by)), sums: c.sums.Map()}
	for i := range c.by {
		r.by[i] = c.by[i].Map()
	}
	return r
}

func (d *draftState) change(table string) (*draftRows, error) {
	if c := d.changed[table]; c != nil {
		return c, nil
	}
	r, err := d.base.rows(table)
	if err != nil {
		return nil, err
	}
	c := &draftRows{byID: r.byID.Write(), by: make([]cow.Writer[Object], len(r.by)), sums: r.sums.Write()}
	for i := range r.by {
		c.by[i] = r.by[i].Write()
	}
	if d.changed == nil {
		d.changed = map[string]*draftRows{}
	}
	d.changed[table] = c
	return c, nil
}

// put writes o in place of what has its id.
func (d *draftState) put(t Registered, o Object) error {
	c, err := d.change(t.Name())
	if err != nil {
		return err
	}
	id := o.GetId()
	old := byID(c.byID.Peek(), id)
	c.byID.Set(cow.Key{A: id}, o)
	for i := range c.by {
		keys := t.keys(i, o)
		if old != nil {
			for _, k := range t.keys(i, old) {
				if !slices.Contains(keys, k) {
					c.by[i].Delete(cow.Key{A: k, B: id})
				}
			}
		}
		for _, k := range keys {
			c.by[i].Set(cow.Key{A: k, B: id}, o)
		}
	}
	return nil
}

// remove takes o out, which is there.
func (d *draftState) remove(t Registered, o Object) error {
	c, err := d.change(t.Name())
	if err != nil {
		return err
	}
	id := o.GetId()
	c.byID.Delete(cow.Key{A: id})
	for i := range c.by {
		for _, k := range t.keys(i, o) {
			c.by[i].Delete(cow.Key{A: k, B: id})
		}
	}
	return nil
}

// commit is the state with all changes. The draft is not used any more.
func (d *draftState) commit() *state {
	if len(d.changed) == 0 {
		if d.audit.Size() == d.base.audit.Size() {
			return d.base
		}
		return &state{tables: d.base.tables, audit: d.audit}
	}
	s := &state{tables: make(map[string]*rows, len(d.base.tables)), audit: d.audit}
	for name, r := range d.base.tables {
		if c := d.changed[name]; c != nil {
			r = c.rows()
		}
		s.tables[name] = r
	}
	return s
}
