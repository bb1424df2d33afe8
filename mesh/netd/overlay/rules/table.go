package rules

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Table is the ruleset of one namespace: what it is to be and whether it is. Its
// owner lets one call in at a time.
type Table struct {
	plan  *plan // nil: nothing passes
	print kernel.Fingerprint
	gen   uint32 // ruleset generation at which the plan was in force; 0: not known
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
	now, err := newPlan(n)
	if err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	old := t.plan
	t.plan = now
	t.stale = t.stale.after(old, now)
	if changed, err = t.put(old, now); err != nil {
		return changed, err
	}
	return changed, t.forget()
}

// put brings the plan into force.
func (t *Table) put(old, now *plan) (changed bool, err error) {
	if t.gen == 0 || old == nil || !old.sameForm(now) {
		return true, t.commit()
	}
	remove, add := difference(old, now)
	if remove.empty() && add.empty() && maps.Equal(old.policy.ids, now.policy.ids) {
		return false, nil
	}
	known := t.gen
	err = t.transaction(func(c *nftables.Conn) error {
		// What differs from a table that somebody changed is not known.
		if gen, err := kernel.Generation(); err != nil || gen != known {
			return t.replace(c)
		}
		b := &builder{conn: c, table: inetTable()}
		addChains(b, now, old)
		b.keep(remove.queue(b.table, c.SetDeleteElements))
		b.keep(add.queue(b.table, c.SetAddElements))
		removeChains(b, now, old)
		return b.err
	})
	if err != nil {
		return true, t.commit() // the whole says the same
	}
	return true, nil
}

// sameForm: the plans differ in elements, and in chains they lead to, alone.
func (p *plan) sameForm(o *plan) bool {
	return p.uplink == o.uplink && p.deny == o.deny && slices.Equal(p.subnets, o.subnets) && slices.Equal(p.gateways, o.gateways)
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
	if err != nil || gen == t.gen {
		return err == nil, err
	}
	same, gen, err := kernel.Read(func() (bool, error) {
		print, err := readPrint()
		if err != nil || print != t.print {
			return false, err
		}
		return t.wanted().inForce()
	})
	if err != nil || !same {
		return false, nil // should it only be unreadable: making it again is safe
	}
	t.gen = gen // the change was of other people's rules
	return true, nil
}

func (t *Table) wanted() *plan {
	if t.plan == nil {
		return emptyPlan()
	}
	return t.plan
}

// readPrint is of all but the elements, which are compared one by one.
func readPrint() (kernel.Fingerprint, error) { return kernel.ReadStructure(arpTable(), inetTable()) }

// commit replaces the whole in one transaction.
func (t *Table) commit() error {
	if err := t.keepCounters(); err != nil {
		return err
	}
	return t.transaction(t.replace)
}

func (t *Table) replace(c *nftables.Conn) error {
	for _, table := range []*nftables.Table{arpTable(), inetTable()} {
		c.AddTable(table) // deleting what does not exist is an error
		c.DelTable(table)
	}
	return t.wanted().build(c)
}

func (t *Table) transaction(queue func(c *nftables.Conn) error) (err error) {
	t.gen = 0
	t.print, t.gen, err = kernel.Commit(func(c *nftables.Conn, attempt int) error {
		if attempt > 0 { // somebody may have changed the table
			return t.replace(c)
		}
		return queue(c)
	}, readPrint)
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
