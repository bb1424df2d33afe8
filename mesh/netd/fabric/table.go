package fabric

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A table is the kernel's table and what it is to be. Its methods run on a
// thread in the node's namespace; the fabric's lock is held.
type table struct {
	link    string
	content content
	print   kernel.Fingerprint
	gen     uint32 // ruleset generation at which print was true; 0: not in force
	// dropped are the counters of tables that were replaced since.
	dropped map[string]uint64
}

// adopt begins with what the table of an earlier process lets through, if there
// is one. Its rules are not trusted: they are made anew, around the same sets.
func (t *table) adopt() error {
	return kernel.WithNFT(func(c *nftables.Conn) error {
		t.content = content{assigned: map[[16]byte]bool{}}
		there, err := kernel.Exists(c, meshTable())
		if err != nil || !there {
			return err
		}
		sets, err := c.GetSets(meshTable())
		if err != nil {
			return fmt.Errorf("nftables: read sets: %w", err)
		}
		for _, s := range sets {
			elements, err := c.GetSetElements(s)
			if err != nil {
				return fmt.Errorf("nftables: read set %s: %w", s.Name, err)
			}
			t.content.take(s.Name, elements)
		}
		// Without an address or a mesh the rest has no meaning.
		if !t.content.own.IsValid() || !t.content.mesh.Contains(t.content.own) {
			t.content = content{assigned: map[[16]byte]bool{}}
		}
		return nil
	})
}

// take reads the elements of a set; what has not the form that build gives them
// is left out.
func (c *content) take(set string, elements []nftables.SetElement) {
	var start, end []byte
	for _, e := range elements {
		switch {
		case set == setOwn && len(e.Key) == 4:
			c.own, _ = netip.AddrFromSlice(e.Key)
		case set == setMesh && len(e.Key) == 4 && e.IntervalEnd:
			end = e.Key
		case set == setMesh && len(e.Key) == 4:
			start = e.Key
		case set == setControl && len(e.Key) == 2:
			c.control = uint16(e.Key[0])<<8 | uint16(e.Key[1])
		case set == setAssigned && len(e.Key) == 16:
			c.assigned[[16]byte(e.Key)] = true
		}
	}
	if a, ok := netip.AddrFromSlice(start); ok && set == setMesh {
		for bits := minPrefix; bits <= maxPrefix; bits++ {
			p := netip.PrefixFrom(a, bits)
			want := content{mesh: p}.elements()[setMesh]
			if p.Masked() == p && bytes.Equal(want[1].Key, end) {
				c.mesh = p
			}
		}
	}
}

// ensure puts the table in force if it is not, and reports whether somebody else
// had changed it.
func (t *table) ensure() (repaired bool, err error) {
	if t.gen != 0 {
		ok, err := t.intact()
		if ok || err != nil {
			return false, err
		}
		repaired = true
	}
	return repaired, t.commit()
}

func (t *table) intact() (bool, error) {
	gen, err := kernel.Generation()
	if err != nil || gen == t.gen {
		return err == nil, err
	}
	found, gen, err := kernel.Read(readPrint)
	if err != nil || found != t.print {
		return false, nil // should it only be unreadable: making it again is safe
	}
	t.gen = gen // the change was of other people's rules
	return true, nil
}

func readPrint() (kernel.Fingerprint, error) { return kernel.ReadFingerprint(meshTable()) }

// set makes the content another one.
func (t *table) set(c content) error {
	old := t.content
	t.content = c
	if t.gen == 0 || c.own != old.own || c.mesh != old.mesh || c.control != old.control {
		return t.commit()
	}
	// A difference to what somebody changed would be taken for what is to be.
	if ok, err := t.intact(); !ok || err != nil {
		return errors.Join(err, t.commit())
	}
	var add, remove []nftables.SetElement
	for k := range c.assigned {
		if !old.assigned[k] {
			add = append(add, nftables.SetElement{Key: slices.Clone(k[:])})
		}
	}
	for k := range old.assigned {
		if !c.assigned[k] {
			remove = append(remove, nftables.SetElement{Key: slices.Clone(k[:])})
		}
	}
	if len(add)+len(remove) == 0 {
		return nil
	}
	known := t.gen
	err := t.transaction(func(c *nftables.Conn) error {
		if gen, err := kernel.Generation(); err != nil || gen != known {
			return t.replace(c)
		}
		s := &nftables.Set{Table: meshTable(), Name: setAssigned, KeyType: typeAssigned, Concatenation: true}
		for part := range slices.Chunk(remove, maxElementsPerMessage) {
			if err := c.SetDeleteElements(s, part); err != nil {
				return err
			}
		}
		return addElements(c, s, add)
	})
	if err != nil {
		// Perhaps somebody took the table away: the whole of it says the same.
		return t.commit()
	}
	return nil
}

// commit replaces the table in one transaction.
func (t *table) commit() error {
	t.keepCounters()
	return t.transaction(t.replace)
}

func (t *table) replace(c *nftables.Conn) error {
	c.AddTable(meshTable()) // deleting what does not exist is an error
	c.DelTable(meshTable())
	return t.content.build(c, t.link)
}

func (t *table) transaction(queue func(c *nftables.Conn) error) (err error) {
	t.gen = 0
	t.print, t.gen, err = kernel.Commit(func(c *nftables.Conn, attempt int) error {
		if attempt > 0 { // somebody may have changed the table
			return t.replace(c)
		}
		return queue(c)
	}, readPrint)
	if err != nil {
		return fmt.Errorf("table %s: %w", tableName, err)
	}
	return nil
}

// counters are how many packets were dropped, by reason.
func (t *table) counters() map[string]uint64 {
	sum := maps.Clone(t.dropped)
	if sum == nil {
		sum = make(map[string]uint64)
	}
	for name, n := range readCounters() {
		sum[name] += n
	}
	return sum
}

// keepCounters adds those of a table that is about to be replaced.
func (t *table) keepCounters() {
	if t.print != (kernel.Fingerprint{}) { // not those of an earlier process
		t.dropped = t.counters()
	}
}

// readCounters has none of a table that is not there.
func readCounters() map[string]uint64 {
	found := make(map[string]uint64)
	kernel.WithNFT(func(c *nftables.Conn) error {
		objects, err := c.GetObjects(meshTable())
		for _, o := range objects {
			if n, ok := o.(*nftables.CounterObj); ok && slices.Contains(droppedReasons, n.Name) {
				found[n.Name] = n.Packets
			}
		}
		return err
	})
	return found
}

func removeTable() error {
	return kernel.WithNFT(func(c *nftables.Conn) error {
		c.AddTable(meshTable())
		c.DelTable(meshTable())
		return c.Flush()
	})
}
