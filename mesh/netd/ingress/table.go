package ingress

import (
	"fmt"
	"maps"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A table is what stands in the kernel of a content.
//
// What it has is known without reading it as long as nobody but this process
// commits in the namespace. After somebody else's transaction chains, rules and
// forms of sets are compared with what they were when we made them, and elements
// one by one with the content. So chains are read once when they are made, and
// elements only when in doubt.
type table struct {
	have  *content     // in force; nil: not known
	parts kernel.Parts // of the first table, but its elements
	gen   uint32       // ruleset generation at which both were true; 0: never
	// alone: nobody else has a table in the namespace. Then the generation says it
	// all, and nothing is read back: parts stays empty.
	alone bool
	// dropped are the counters of tables that were replaced since.
	dropped map[string]uint64
	memory  memory[part]
}

// set puts the content in force and reports whether somebody had changed what was.
func (t *table) set(nf *kernel.Netfilter, want *content) (repaired bool, err error) {
	if t.have != nil {
		ok, err := t.intact(nf)
		if err != nil {
			return false, err
		}
		if ok && t.have.same(want) {
			t.have = want // which has its parts in common with the next one
			return false, nil
		}
		if !ok {
			repaired, t.have = true, nil
		}
	}
	was := t.have
	if was == nil || was.frame != want.frame {
		was = nil
		t.keepCounters(nf, want)
	}
	known := t.gen
	t.have, t.gen = nil, 0
	if err = t.commit(nf, known, was, want); err != nil && was != nil {
		// Perhaps somebody took a part away: the whole of it says the same.
		err = t.commit(nf, 0, nil, want)
	}
	if err != nil {
		return repaired, fmt.Errorf("table %s: %w", tableName, err)
	}
	t.have = want
	return repaired, nil
}

// commit makes what was the content that is wanted, or, where that is nil or in
// force no more, makes all of it.
func (t *table) commit(nf *kernel.Netfilter, known uint32, was, want *content) (err error) {
	whole := true
	var chains []string
	queue := func(to *kernel.Batch, same bool) (err error) {
		if whole = was == nil || !same; whole { // somebody may have changed the table
			return want.build(to)
		}
		chains, err = was.change(to, want)
		return err
	}
	if t.alone {
		t.gen, err = nf.Commit(known, want.tables, queue)
		return err
	}
	t.gen, err = nf.CommitAndRead(known, want.tables, queue, func() (err error) {
		if whole || len(chains) > maxReread {
			t.parts, err = nf.Parts(want.tables[0])
			return err
		}
		return nf.Reread(want.tables[0], t.parts, chains)
	})
	return err
}

// holds reports whether nobody else changed anything since the content was put in
// force, if one was.
func (t *table) holds(nf *kernel.Netfilter) bool {
	if t.have == nil {
		return t.gen == 0
	}
	_, ok, err := nf.Holds(t.gen, t.have.tables...)
	return ok && err == nil
}

func (t *table) intact(nf *kernel.Netfilter) (bool, error) {
	gen, ok, err := nf.Holds(t.gen, t.have.tables...)
	if err != nil {
		return false, err
	}
	if ok {
		t.gen = gen
		return true, nil
	}
	if t.alone {
		return false, nil
	}
	same := false
	gen, err = nf.Read(func() error {
		same = false
		parts, err := nf.Parts(t.have.tables[0])
		if err != nil || !parts.Same(t.parts) {
			return err
		}
		same, err = t.have.inForce(nf)
		return err
	})
	if err != nil || !same {
		return false, nil // should it only be unreadable: making it again is safe
	}
	t.gen = gen // the change was of other people's rules
	return true, nil
}

// counters are how many packets were dropped, by reason.
func (t *table) counters(nf *kernel.Netfilter, of *nftables.Table) map[string]uint64 {
	sum := maps.Clone(t.dropped)
	if sum == nil {
		sum = make(map[string]uint64)
	}
	if found, err := nf.Counters(of); err == nil {
		for name, n := range found {
			sum[name] += n
		}
	}
	return sum
}

// keepCounters adds those of a table that is about to be replaced.
func (t *table) keepCounters(nf *kernel.Netfilter, want *content) {
	if t.gen != 0 { // not those of an earlier process
		t.dropped = t.counters(nf, want.tables[0])
	}
}

// removeTables takes them away; none is fine, and no change.
func removeTables(tables ...*nftables.Table) error {
	return kernel.WithNFT(func(c *nftables.Conn) error {
		some := false
		for _, t := range tables {
			there, err := kernel.Exists(c, t)
			if err != nil {
				return err
			}
			if some = some || there; there {
				c.DelTable(t)
			}
		}
		if !some {
			return nil
		}
		return c.Flush()
	})
}
