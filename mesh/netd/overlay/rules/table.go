package rules

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Table is the ruleset of one namespace: what it is to be and whether it is. Its
// owner lets one call in at a time.
type Table struct {
	nf   *kernel.Netfilter
	plan *plan  // nil: nothing passes
	gen  uint32 // ruleset generation at which the plan was in force; 0: not known
	// print is that of all but the elements, read when there is time for it; nil:
	// not yet.
	print  *kernel.Fingerprint
	bounds *bounds // nil: the kernel cannot count connections
	// stale: connections may be there that the plan has no place for.
	stale *stale
	// departed are addresses that went lately.
	departed map[netip.Addr]departure
	// allowed and dropped are the counters of tables that were replaced since.
	allowed, dropped map[string]uint64
	counting         bool // the table in force is this Table's
}

// New returns the table of the namespace that nf speaks to, of which nothing is
// known yet. nf stays the caller's.
func New(nf *kernel.Netfilter) *Table {
	return &Table{nf: nf, bounds: &usualBounds, departed: make(map[netip.Addr]departure)}
}

// Deny puts a table in force that lets nothing pass. It is made before any link
// exists in the namespace.
func Deny(nf *kernel.Netfilter) error { return New(nf).commit() }

// Present reports whether there is a table that drops what it does not let
// through, as an earlier process left it.
func Present(nf *kernel.Netfilter) (bool, error) {
	for _, table := range ownTables() {
		drops, err := nf.Dropping(table)
		if err != nil {
			return false, err
		}
		for _, name := range dropping(table) {
			if !drops[name] {
				return false, nil
			}
		}
	}
	return true, nil
}

// Set makes the ruleset that of n, and reports whether it was another one. Where
// it fails, what was in force before is in force still, and Ensure tries again.
// Afterwards there may be connections that the caller has to Forget, soon.
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
	if err != nil || t.stale == nil || len(t.stale.moved) == 0 {
		return changed, err
	}
	// What was sent to one task must not come to another.
	return changed, t.Forget()
}

// commitChange puts the change in force; should that fail, the whole says the
// same.
func (t *Table) commitChange(c *change) error {
	if !c.chains.empty() {
		t.print = nil
	}
	err := t.transaction(func(to *kernel.Batch, same bool) error {
		if !same { // what differs from a table that somebody changed is not known
			return t.replace(to)
		}
		b := newBuilder(to, inetTable())
		b.addChains(&c.chains)
		b.keep(c.remove.queue(b.table, to.Remove))
		b.keep(c.add.queue(b.table, to.Add))
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
			return false, nil
		}
		repaired = true
	}
	return repaired, t.commit()
}

// Bounded reports whether connections of each sender are bounded, which takes a
// kernel that can count them.
func (t *Table) Bounded() bool { return t.bounds != nil }

// Touched reports whether anybody else changed something of the namespace's
// ruleset, or what is in force is not known.
func (t *Table) Touched() (bool, error) {
	_, same, err := t.nf.Holds(t.gen, ownTables()...)
	return !same, err
}

// intact compares all of the table with the plan, if anything was changed.
func (t *Table) intact() (bool, error) {
	gen, ok, err := t.nf.Holds(t.gen, ownTables()...)
	if err != nil {
		return false, err
	}
	if ok {
		t.gen = gen
		if t.print != nil {
			return true, nil
		}
	}
	known, same := t.gen, false
	var print kernel.Fingerprint
	gen, err = t.nf.Read(func() (err error) {
		// Elements are compared one by one.
		if print, err = t.nf.Structure(ownTables()...); err != nil || t.print == nil || print != *t.print {
			return err
		}
		same, err = t.wanted().inForce(t.nf)
		return err
	})
	switch {
	case err != nil:
		return false, nil // should it only be unreadable: making it again is safe
	case gen == known:
		t.print = &print // nobody else changed anything before this was read
		return true, nil
	case same:
		t.gen = gen // the change was of other people's rules
		return true, nil
	}
	return false, nil
}

func ownTables() []*nftables.Table { return []*nftables.Table{arpTable(), inetTable()} }

// dropping are the chains of a table, of a closed one as of any other, that drop
// what they do not let through.
func dropping(t *nftables.Table) []string {
	if t.Family == nftables.TableFamilyARP {
		return arpChains
	}
	return append(slices.Collect(maps.Keys(closedHooks)), chainArrive)
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
	err := t.transaction(func(to *kernel.Batch, _ bool) error { return t.replace(to) })
	if err == nil || t.bounds == nil || t.plan == nil || !(errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)) {
		return err
	}
	t.bounds = nil // not every kernel can count, and none has to
	if again := t.transaction(func(to *kernel.Batch, _ bool) error { return t.replace(to) }); again != nil {
		t.bounds = &usualBounds
		return err
	}
	return nil
}

func (t *Table) replace(to *kernel.Batch) error {
	t.print = nil
	for _, table := range ownTables() {
		to.Words().AddTable(table) // deleting what does not exist is an error
		to.Words().DelTable(table)
	}
	if t.plan == nil {
		closed(to)
		return nil
	}
	return t.plan.build(to, t.bounds)
}

func (t *Table) transaction(queue func(to *kernel.Batch, same bool) error) (err error) {
	known := t.gen
	t.gen = 0
	if t.gen, err = t.nf.Commit(known, ownTables(), queue); err != nil {
		t.gen = 0
		return fmt.Errorf("table %s: %w", tableName, err)
	}
	t.counting = true
	return nil
}

// inForce reports whether the kernel's sets have the plan's elements, and no
// others.
func (p *plan) inForce(nf *kernel.Netfilter) (bool, error) {
	want := p.elements()
	for i := range sets {
		var count int
		var differs bool
		err := nf.EachElement(set(inetTable(), i), func() { count, differs = 0, false }, func(key, data []byte, _ bool) {
			count++
			val, ok := want[i][string(key)]
			if ok && isVerdict(i) {
				val = kernel.Element{Chain: val}.Told()
			}
			differs = differs || !ok || val != string(data)
		})
		if err != nil || differs || count != len(want[i]) {
			return false, err
		}
	}
	return true, nil
}
