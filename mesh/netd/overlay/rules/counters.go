package rules

import (
	"maps"
	"slices"
	"strings"
)

// Counters are the flows that each rule in force let in, by its id, and the
// packets that were dropped, by reason, since this Table was made. Flows that
// services have among themselves are of no rule.
func (t *Table) Counters() (allowed, dropped map[string]uint64, err error) {
	allowed, dropped = make(map[string]uint64), make(map[string]uint64)
	if t.counting {
		found, err := t.nf.Counters(arpTable(), inetTable())
		if err != nil {
			return nil, nil, err
		}
		for name, packets := range found {
			if id, ok := strings.CutPrefix(name, rulePrefix); ok {
				allowed[id] += packets
			} else {
				dropped[name] += packets
			}
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
