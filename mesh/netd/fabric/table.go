package fabric

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A table is the kernel's table and what it is to be. Its owner lets one call in
// at a time.
//
// What is in force is known without reading it as long as nobody but this process
// commits in the namespace. After somebody else's transaction chains, rules and
// forms of sets are compared with what they were when they were made, and elements
// one by one with the content.
type table struct {
	nf      *kernel.Netfilter
	link    string
	content content
	print   kernel.Fingerprint // of all but the elements
	gen     uint32             // ruleset generation at which both were in force; 0: not known
	// dropped are the counters of tables that were replaced since.
	dropped  map[string]uint64
	counting bool // the table in force is this process's
}

// adopt begins with what the table of an earlier process lets through, if there
// is one. Its rules are not trusted: they are made anew, around the same sets.
func (t *table) adopt() error {
	t.content = content{assigned: map[[16]byte]bool{}}
	there, err := t.nf.Has(meshTable())
	if err != nil || !there {
		return err
	}
	found := content{assigned: map[[16]byte]bool{}}
	for _, name := range setNames {
		read, err := t.read(name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		found.take(name, read)
	}
	// Without an address or a mesh the rest has no meaning.
	if found.own.IsValid() && found.mesh.Contains(found.own) {
		t.content = found
	}
	return nil
}

// read returns the elements of a set.
func (t *table) read(name string) (all []nftables.SetElement, err error) {
	err = t.nf.EachElement(&nftables.Set{Table: meshTable(), Name: name}, func() { all = nil }, func(key, _ []byte, end bool) {
		all = append(all, nftables.SetElement{Key: slices.Clone(key), IntervalEnd: end})
	})
	return all, err
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
	tables := []*nftables.Table{meshTable()}
	gen, ok, err := t.nf.Holds(t.gen, tables...)
	if err != nil {
		return false, err
	}
	if ok {
		t.gen = gen
		return true, nil
	}
	same := false
	gen, err = t.nf.Read(func() error {
		same = false
		print, err := t.nf.Structure(tables...)
		if err != nil || print != t.print {
			return err
		}
		same, err = t.inForce()
		return err
	})
	if err != nil || !same {
		return false, nil // should it only be unreadable: making it again is safe
	}
	t.gen = gen // the change was of other people's rules
	return true, nil
}

// inForce reports whether the kernel's sets have the content's elements, and no
// others.
func (t *table) inForce() (bool, error) {
	want := t.content.elements()
	for _, name := range setNames {
		read, err := t.read(name)
		if err != nil {
			return false, err
		}
		same := len(read) == len(want[name])
		if name == setAssigned {
			same = len(read) == len(t.content.assigned)
			for _, e := range read {
				same = same && len(e.Key) == 16 && t.content.assigned[[16]byte(e.Key)]
			}
		}
		for _, w := range want[name] {
			same = same && slices.ContainsFunc(read, func(e nftables.SetElement) bool { return bytes.Equal(e.Key, w.Key) && e.IntervalEnd == w.IntervalEnd })
		}
		if !same {
			return false, nil
		}
	}
	return true, nil
}

// set makes the content another one.
func (t *table) set(c content) error {
	if old := t.content; t.gen == 0 || c.own != old.own || c.mesh != old.mesh || c.control != old.control {
		t.content = c
		return t.commit()
	}
	// A difference to what somebody changed would be taken for what is to be.
	ok, err := t.intact()
	old := t.content
	t.content = c
	if err != nil || !ok {
		return kernel.OneLine(err, t.commit())
	}
	return t.change(missing(old.assigned, c.assigned), missing(c.assigned, old.assigned))
}

// admit takes these out of who may send what, and puts those in.
func (t *table) admit(gone, come map[[16]byte]bool) error {
	known, err := false, error(nil)
	if t.gen != 0 {
		known, err = t.intact()
	}
	add, remove := missing(come, t.content.assigned), missing(gone, nil)
	for k := range gone {
		delete(t.content.assigned, k)
	}
	maps.Copy(t.content.assigned, come)
	if err != nil || !known {
		return kernel.OneLine(err, t.commit())
	}
	return t.change(remove, add)
}

// change tells the kernel of the elements of assigned in which the content differs
// from what is in force.
func (t *table) change(remove, add []kernel.Element) (err error) {
	if len(add)+len(remove) == 0 {
		return nil
	}
	t.gen, err = t.nf.Commit(t.gen, []*nftables.Table{meshTable()}, func(b *kernel.Batch, same bool) error {
		if !same {
			return errMoved
		}
		s := &nftables.Set{Table: meshTable(), Name: setAssigned}
		return kernel.OneLine(b.Remove(s, remove), b.Add(s, add))
	})
	if err != nil {
		// Perhaps somebody took the table away: the whole of it says the same.
		return t.commit()
	}
	return nil
}

var errMoved = errors.New("the table is not known any more")

// missing are the elements that the other set has not.
func missing(of, from map[[16]byte]bool) (out []kernel.Element) {
	for k := range of {
		if !from[k] {
			out = append(out, kernel.Element{Key: string(k[:])})
		}
	}
	return out
}

// commit replaces the table in one transaction.
func (t *table) commit() (err error) {
	t.keepCounters()
	t.gen = 0
	tables := []*nftables.Table{meshTable()}
	gen, err := t.nf.CommitAndRead(0, tables, func(b *kernel.Batch, _ bool) error {
		b.Words().AddTable(meshTable()) // deleting what does not exist is an error
		b.Words().DelTable(meshTable())
		return t.content.build(b, t.link)
	}, func() (err error) {
		t.print, err = t.nf.Structure(tables...)
		return err
	})
	if err != nil {
		return fmt.Errorf("table %s: %w", tableName, err)
	}
	t.gen, t.counting = gen, true
	return nil
}

// counters are how many packets were dropped, by reason.
func (t *table) counters() map[string]uint64 {
	sum := maps.Clone(t.dropped)
	if sum == nil {
		sum = make(map[string]uint64)
	}
	// None of a table that is not there.
	if found, err := t.nf.Counters(meshTable()); err == nil {
		for _, name := range droppedReasons {
			sum[name] += found[name]
		}
	}
	return sum
}

// keepCounters adds those of a table that is about to be replaced.
func (t *table) keepCounters() {
	if t.counting { // not those of an earlier process
		t.dropped = t.counters()
	}
}

func removeTable() error {
	return kernel.WithNFT(func(c *nftables.Conn) error {
		c.AddTable(meshTable())
		c.DelTable(meshTable())
		return c.Flush()
	})
}
