package netd

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// prints are those of the tables that are replaced together, and of the one
// that counts.
type prints struct{ rules, flows kernel.Fingerprint }

func readPrints(nf *kernel.Netfilter) (p prints, err error) {
	if p.rules, err = nf.Fingerprint(twoTables()...); err == nil {
		p.flows, err = nf.Fingerprint(flows())
	}
	return p, err
}

// commit replaces both tables in one transaction: packets see the old rules or
// the new ones. The table that counts is replaced when bounds are given, and is
// left as it is otherwise. It returns the fingerprints and the ruleset
// generation they were read at.
func commit(nf *kernel.Netfilter, r ruleset, bounds *flowBounds) (p prints, gen uint32, err error) {
	gen, err = nf.CommitAndRead(0, allTables(), func(b *kernel.Batch, _ bool) error {
		c, remove := b.Words(), twoTables()
		if bounds != nil {
			remove = append(remove, flows())
		}
		for _, t := range remove {
			c.AddTable(t) // deleting what does not exist is an error
			c.DelTable(t)
		}
		if err := r.build(b); err != nil || bounds == nil {
			return err
		}
		return bounds.build(b)
	}, func() (err error) {
		p, err = readPrints(nf)
		return err
	})
	if err != nil {
		return p, 0, fmt.Errorf("table %s: %w", tableName, err)
	}
	return p, gen, nil
}

func twoTables() []*nftables.Table {
	inet, bridge := tables()
	return []*nftables.Table{inet, bridge}
}

func allTables() []*nftables.Table { return append(twoTables(), flows()) }

// removeTables deletes all; it is no error when there are none.
func removeTables(nf *kernel.Netfilter) error {
	_, err := nf.Commit(0, allTables(), func(b *kernel.Batch, _ bool) error {
		for _, t := range allTables() {
			b.Words().AddTable(t)
			b.Words().DelTable(t)
		}
		return nil
	})
	return err
}

// readOpened returns the interfaces in the live table's set of opened ones and
// whether there is such a table.
func readOpened(nf *kernel.Netfilter) (names []string, found bool, err error) {
	inet, _ := tables()
	if there, err := nf.Has(inet); err != nil || !there {
		return nil, false, err
	}
	err = nf.EachElement(&nftables.Set{Table: inet, Name: openedSet}, func() { names = nil }, func(key, _ []byte, _ bool) {
		name, _, _ := bytes.Cut(key, []byte{0})
		names = append(names, string(name))
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, false, nil // no table of ours has not this set
	}
	return names, err == nil, err
}
