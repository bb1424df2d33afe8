package netd

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// prints are those of the tables that are replaced together, and of the one
// that counts.
type prints struct{ rules, flows kernel.Fingerprint }

func readPrints() (p prints, err error) {
	if p.rules, err = kernel.ReadFingerprint(twoTables()...); err == nil {
		p.flows, err = kernel.ReadFingerprint(flows())
	}
	return p, err
}

// commit replaces both tables in one transaction: packets see the old rules or
// the new ones. The table that counts is replaced when bounds are given, and is
// left as it is otherwise. It returns the fingerprints and the ruleset
// generation they were read at.
func commit(r ruleset, bounds *flowBounds) (p prints, gen uint32, err error) {
	p, gen, err = kernel.Commit(func(c *nftables.Conn, _ int) error {
		remove := twoTables()
		if bounds != nil {
			remove = append(remove, flows())
		}
		for _, t := range remove {
			c.AddTable(t) // deleting what does not exist is an error
			c.DelTable(t)
		}
		if err := r.build(c); err != nil || bounds == nil {
			return err
		}
		return bounds.build(c)
	}, readPrints)
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
func removeTables() error {
	return kernel.WithNFT(func(c *nftables.Conn) error {
		for _, t := range allTables() {
			c.AddTable(t)
			c.DelTable(t)
		}
		return c.Flush()
	})
}

// readOpened returns the interfaces in the live table's set of opened ones and
// whether there is such a table.
func readOpened() (names []string, found bool, err error) {
	err = kernel.WithNFT(func(c *nftables.Conn) error {
		inet, _ := tables()
		there, err := kernel.Exists(c, inet)
		if err != nil || !there {
			return err
		}
		sets, err := c.GetSets(inet)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(sets, func(s *nftables.Set) bool { return s.Name == openedSet })
		if i < 0 {
			return nil
		}
		set := sets[i]
		found = true
		elements, err := c.GetSetElements(set)
		for _, e := range elements {
			name, _, _ := bytes.Cut(e.Key, []byte{0})
			names = append(names, string(name))
		}
		return err
	})
	return names, found, err
}
