package ingress

import (
	"fmt"
	"maps"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A table is what stands in the kernel of a content. Its methods run on a thread
// in its namespace.
type table struct {
	have  *content // in force; nil: not known
	print kernel.Fingerprint
	gen   uint32 // ruleset generation at which print was true; 0: never
	// dropped are the counters of tables that were replaced since.
	dropped map[string]uint64
}

// set puts the content in force and reports whether somebody had changed what was.
func (t *table) set(want *content) (repaired bool, err error) {
	if t.have != nil {
		ok, err := t.intact()
		if err != nil {
			return false, err
		}
		if ok && t.have.same(want) {
			return false, nil
		}
		if !ok {
			repaired, t.have = true, nil
		}
	}
	was := t.have
	if was == nil || was.frame != want.frame {
		was = nil
		t.keepCounters(want)
	}
	t.have = nil
	t.print, t.gen, err = kernel.Commit(func(c *nftables.Conn, attempt int) error {
		if was == nil || attempt > 0 { // somebody may have changed the table
			return want.build(c)
		}
		return was.change(c, want)
	}, func() (kernel.Fingerprint, error) { return kernel.ReadFingerprint(want.tables...) })
	if err != nil && was != nil {
		// Perhaps somebody took a part away: the whole of it says the same.
		return t.set(want)
	}
	if err != nil {
		return repaired, fmt.Errorf("table %s: %w", tableName, err)
	}
	t.have = want
	return repaired, nil
}

func (t *table) intact() (bool, error) {
	gen, err := kernel.Generation()
	if err != nil || gen == t.gen {
		return err == nil, err
	}
	found, gen, err := kernel.Read(func() (kernel.Fingerprint, error) { return kernel.ReadFingerprint(t.have.tables...) })
	if err != nil || found != t.print {
		return false, nil // should it only be unreadable: making it again is safe
	}
	t.gen = gen // the change was of other people's rules
	return true, nil
}

// counters are how many packets were dropped, by reason.
func (t *table) counters(of *nftables.Table) map[string]uint64 {
	sum := maps.Clone(t.dropped)
	if sum == nil {
		sum = map[string]uint64{}
	}
	kernel.WithNFT(func(c *nftables.Conn) error {
		objects, err := c.GetObjects(of)
		for _, o := range objects {
			if n, ok := o.(*nftables.CounterObj); ok {
				sum[n.Name] += n.Packets
			}
		}
		return err
	})
	return sum
}

// keepCounters adds those of a table that is about to be replaced.
func (t *table) keepCounters(want *content) {
	if t.print != (kernel.Fingerprint{}) { // not those of an earlier process
		t.dropped = t.counters(want.tables[0])
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
