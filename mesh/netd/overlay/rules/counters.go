package rules

import (
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Counters are the flows that each rule in force let in, by its id, and the
// packets that were dropped, by reason, since this Table was made. Flows that
// services have among themselves are of no rule.
func (t *Table) Counters() (allowed, dropped map[string]uint64, err error) {
	allowed, dropped = make(map[string]uint64), make(map[string]uint64)
	if t.counting {
		if err := readCounters(allowed, dropped); err != nil {
			return nil, nil, err
		}
	}
	for id := range t.wanted().policy.ids {
		allowed[id] += t.allowed[id]
	}
	maps.DeleteFunc(allowed, func(id string, _ uint64) bool { return !t.wanted().policy.ids[id] })
	for _, reason := range append(slices.Clone(droppedReasons), droppedARP) {
		dropped[reason] += t.dropped[reason]
	}
	return allowed, dropped, nil
}

// keepCounters adds those of a table that is about to be replaced. What is
// counted between this and the replacement is lost.
func (t *Table) keepCounters() (err error) {
	if t.counting { // not those of an earlier process
		t.allowed, t.dropped, err = t.Counters()
		t.counting = false
	}
	return err
}

// readCounters adds none of a table that is not there.
func readCounters(allowed, dropped map[string]uint64) error {
	return kernel.WithNFT(func(c *nftables.Conn) error {
		for _, table := range []*nftables.Table{arpTable(), inetTable()} {
			objects, err := c.GetObjects(table)
			if err != nil {
				return err
			}
			for _, o := range objects {
				n, ok := o.(*nftables.CounterObj)
				if !ok {
					continue
				}
				if id, ok := strings.CutPrefix(n.Name, rulePrefix); ok {
					allowed[id] += n.Packets
				} else {
					dropped[n.Name] += n.Packets
				}
			}
		}
		return nil
	})
}
