package rules

import (
	"context"
	"fmt"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Table is the ruleset of one namespace: what it is to be and whether it is. Its
// owner lets one call in at a time.
type Table struct {
	plan *plan  // nil: nothing passes
	gen  uint32 // ruleset generation at which the plan was in force; 0: not known
	// print is that of all but the elements, read when there is time for it; nil:
	// not yet.
	print *kernel.Fingerprint
	// stale: connections may be there that the plan has no place for.
	stale *stale
	// allowed and dropped are the counters of tables that were replaced since.
	allowed, dropped map[string]uint64
	counting         bool // the table in force is this Table's
}

// Deny puts a table in force that lets nothing pass. It is made before any link
// exists in the namespace.
func Deny() error { return new(Table).commit() }

// Set makes the ruleset that of n, and reports whether it was another one. Where
// it fails, what was in force before is in force still, and Ensure tries again.
func (t *Table) Set(ctx context.Context, n *Network) (changed bool, err error) {
	f, err := newForm(n)
	if err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	old, now := t.plan, t.plan
	if now == nil || !now.same(&f) {
		now = newPlan(f)
	}
	c, err := now.look(n)
	if err != nil {
		return false, err
	}
	c.apply()
	t.plan = now
	t.noteStale(old, c)
	if t.gen == 0 || now != old {
		changed, err = true, t.commit()
	} else if !c.empty() {
		changed, err = true, t.commitChange(c)
	}
	if err != nil {
		return changed, err
	}
	return changed, t.forget()
}

// commitChange puts the change in force; should that fail, the whole says the
// same.
func (t *Table) commitChange(c *change) error {
	known := t.gen
	if !c.chains.empty() {
		t.print = nil
	}
	err := t.transaction(func(conn *nftables.Conn, attempt int) error {
		// What differs from a table that somebody changed is not known.
		if gen, err := kernel.Generation(); attempt > 0 || err != nil || gen != known {
			return t.replace(conn)
		}
		b := &builder{conn: conn, table: inetTable()}
		b.addChains(&c.chains)
		b.keep(c.remove.queue(b.table, conn.SetDeleteElements))
		b.keep(c.add.queue(b.table, conn.SetAddElements))
		b.removeChains(&c.chains)
		return b.err
	})
	if err != nil {
		return t.commit()
	}
	return nil
}

// Ensure puts the ruleset in force if it is not, and reports whether somebody
// else had changed it. Without a Set before it, nothing passes.
func (t *Table) Ensure() (repaired bool, err error) {
	if t.gen != 0 {
		ok, err := t.intact()
		if err != nil {
			return false, err
		}
		if ok {
			return false, t.forget()
		}
		repaired = true
	}
	if err := t.commit(); err != nil {
		return repaired, err
	}
	return repaired, t.forget()
}

// intact compares all of the table with the plan, if anything was changed.
func (t *Table) intact() (bool, error) {
	gen, err := kernel.Generation()
	if err != nil {
		return false, err
	}
	if gen == t.gen && t.print != nil {
		return true, nil
	}
	type reading struct {
		print kernel.Fingerprint
		same  bool
	}
	known := t.gen
	got, gen, err := kernel.Read(func() (r reading, err error) {
		// Elements are compared one by one.
		if r.print, err = kernel.ReadStructure(arpTable(), inetTable()); err != nil || t.print == nil || r.print != *t.print {
			return r, err
		}
		r.same, err = t.wanted().inForce()
		return r, err
	})
	switch {
	case err != nil:
		return false, nil // should it only be unreadable: making it again is safe
	case gen == known:
		t.print = &got.print // nobody else changed anything before this was read
		return true, nil
	case got.same:
		t.gen = gen // the change was of other people's rules
		return true, nil
	}
	return false, nil
}

func (t *Table) wanted() *plan {
	if t.plan == nil {
		return emptyPlan()
	}
	return t.plan
}

// commit replaces the whole in one transaction.
func (t *Table) commit() error {
	if err := t.keepCounters(); err != nil {
		return err
	}
	return t.transaction(func(c *nftables.Conn, _ int) error { return t.replace(c) })
}

func (t *Table) replace(c *nftables.Conn) error {
	t.print = nil
	for _, table := range []*nftables.Table{arpTable(), inetTable()} {
		c.AddTable(table) // deleting what does not exist is an error
		c.DelTable(table)
	}
	return t.wanted().build(c)
}

func (t *Table) transaction(queue func(c *nftables.Conn, attempt int) error) (err error) {
	t.gen = 0
	_, t.gen, err = kernel.Commit(queue, func() (none struct{}, err error) { return none, nil })
	if err != nil {
		t.gen = 0
		return fmt.Errorf("table %s: %w", tableName, err)
	}
	t.counting = true
	return nil
}

// inForce reports whether the kernel's sets have the plan's elements, and no
// others.
func (p *plan) inForce() (same bool, err error) {
	want := p.elements()
	err = kernel.WithNFT(func(c *nftables.Conn) error {
		for i := range sets {
			s := set(inetTable(), i)
			have, err := c.GetSetElements(s)
			if err != nil {
				return fmt.Errorf("nftables: read set %s: %w", s.Name, err)
			}
			if len(have) != len(want[i]) {
				return nil
			}
			for _, e := range have {
				val, ok := want[i][string(e.Key)]
				if ok && isVerdict(i) {
					val = verdictData(val)
				}
				if !ok || val != string(e.Val) {
					return nil
				}
			}
		}
		same = true
		return nil
	})
	return same, err
}
