package kernel

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Fingerprint identifies what the kernel holds of the owned tables. What packets
// change is not part of it, so it stays the same until somebody changes them.
type Fingerprint [sha256.Size]byte

// Structure hashes the flags, chains, rules and sets of the tables as the kernel
// tells them, without the elements of sets: those are for the caller to compare.
func (n *Netfilter) Structure(tables ...*nftables.Table) (Fingerprint, error) {
	sum := sha256.New()
	for _, t := range tables {
		name := AppendAttribute(nil, unix.NFTA_TABLE_NAME, append([]byte(t.Name), 0)) // the same number for chains, rules and sets
		flags, there, err := n.tableFlags(t)
		if err != nil {
			return Fingerprint{}, fmt.Errorf("nftables: read table %s: %w", t.Name, err)
		}
		if !there {
			fmt.Fprint(sum, "absent\n")
			continue
		}
		fmt.Fprintf(sum, "flags %d\n", flags) // a dormant table has all its rules and none in force
		for _, kind := range []int{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET} {
			var ours [][]byte
			reset := func() { ours = ours[:0] }
			err := n.s.DumpAll(nftMessage(kind, 0, byte(t.Family), name), reset, func(_ uint16, body []byte) {
				if m := settled(kind, body); !ofAnother(body, t.Name) {
					ours = append(ours, m)
				}
			})
			if err != nil {
				return Fingerprint{}, fmt.Errorf("nftables: read table %s: %w", t.Name, err)
			}
			fmt.Fprintf(sum, "%d %d\n", kind, len(ours))
			for _, m := range ours {
				fmt.Fprintf(sum, "%d:", len(m))
				sum.Write(m)
			}
		}
	}
	return Fingerprint(sum.Sum(nil)), nil
}

// Fingerprint is Structure with the elements of sets, but of those that packets
// add to.
func (n *Netfilter) Fingerprint(tables ...*nftables.Table) (Fingerprint, error) {
	structure, err := n.Structure(tables...)
	if err != nil {
		return Fingerprint{}, err
	}
	sum := sha256.New()
	sum.Write(structure[:])
	for _, t := range tables {
		sets, err := n.staticSets(t)
		if err != nil {
			return Fingerprint{}, readError(t, err)
		}
		for _, s := range sets {
			var items []string
			err := n.EachElement(s, func() { items = items[:0] }, func(key, val []byte, end bool) {
				items = append(items, fmt.Sprintf("%d:%s%d:%s%t", len(key), key, len(val), val, end))
			})
			if err != nil {
				return Fingerprint{}, err
			}
			slices.Sort(items) // the order in a hash table is the kernel's
			fmt.Fprintf(sum, "%s %d\n%s", s.Name, len(items), strings.Join(items, ""))
		}
	}
	return Fingerprint(sum.Sum(nil)), nil
}

// staticSets are those of a table that packets add nothing to, by name; none if it
// is not there.
func (n *Netfilter) staticSets(t *nftables.Table) (sets []*nftables.Set, err error) {
	name := AppendAttribute(nil, unix.NFTA_SET_TABLE, append([]byte(t.Name), 0))
	err = n.s.DumpAll(nftMessage(unix.NFT_MSG_GETSET, 0, byte(t.Family), name), func() { sets = nil }, func(_ uint16, body []byte) {
		s, flags := &nftables.Set{Table: t}, uint32(0)
		attributes(body, func(kind uint16, v []byte) {
			switch {
			case kind == unix.NFTA_SET_NAME:
				s.Name = string(bytes.TrimRight(v, "\x00"))
			case kind == unix.NFTA_SET_FLAGS && len(v) == 4:
				flags = binary.BigEndian.Uint32(v)
			}
		})
		if !ofAnother(body, t.Name) && flags&unix.NFT_SET_EVAL == 0 {
			sets = append(sets, s)
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return sets, err
}

// ofAnother reports whether a message is about another table. Not every kernel
// filters a dump of chains.
func ofAnother(m []byte, table string) (another bool) {
	attributes(m, func(kind uint16, v []byte) {
		if kind == unix.NFTA_RULE_TABLE { // the same number for chains, sets and objects
			another = string(bytes.TrimRight(v, "\x00")) != table
		}
	})
	return another
}

// settled is what is said of a part of a table, without the header, which holds
// the generation, and without what elements change: how much leads to a chain, and
// how many a set has.
func settled(kind int, body []byte) []byte {
	var out []byte
	attributes(body, func(a uint16, v []byte) {
		if kind == unix.NFT_MSG_GETCHAIN && a == unix.NFTA_CHAIN_USE || kind == unix.NFT_MSG_GETSET && a > setExpressions {
			return
		}
		out = AppendAttribute(out, a, v)
	})
	return out
}

// setExpressions is the last attribute that says what a set is (NFTA_SET_EXPRESSIONS).
const setExpressions = 18

func (n *Netfilter) tableFlags(t *nftables.Table) (flags uint32, there bool, err error) {
	err = n.s.DumpAll(nftMessage(unix.NFT_MSG_GETTABLE, 0, byte(t.Family), nil), func() { there = false }, func(_ uint16, body []byte) {
		var name []byte
		var set uint32
		attributes(body, func(kind uint16, v []byte) {
			switch {
			case kind == unix.NFTA_TABLE_NAME:
				name = bytes.TrimRight(v, "\x00")
			case kind == unix.NFTA_TABLE_FLAGS && len(v) == 4:
				set = binary.BigEndian.Uint32(v)
			}
		})
		if string(name) == t.Name && body[0] == byte(t.Family) {
			flags, there = set, true
		}
	})
	return flags, there, err
}

// Has reports whether there is such a table.
func (n *Netfilter) Has(t *nftables.Table) (bool, error) {
	_, there, err := n.tableFlags(t)
	return there, err
}

// EachElement calls fn with each element of a set; val is what the kernel says of
// what the key leads to: the value, or the attributes of a verdict; end that the
// key is the first beyond an interval. They are not to be kept. What was called
// before reset counts no more.
func (n *Netfilter) EachElement(s *nftables.Set, reset func(), fn func(key, val []byte, end bool)) error {
	attrs := AppendAttribute(nil, unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(s.Table.Name), 0))
	attrs = AppendAttribute(attrs, unix.NFTA_SET_ELEM_LIST_SET, append([]byte(s.Name), 0))
	err := n.s.DumpAll(nftMessage(unix.NFT_MSG_GETSETELEM, 0, byte(s.Table.Family), attrs), reset, func(_ uint16, body []byte) {
		attributes(body, func(kind uint16, list []byte) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return
			}
			EachAttribute(list, func(_ uint16, element []byte) {
				var key, val []byte
				end := false
				EachAttribute(element, func(kind uint16, v []byte) {
					switch kind {
					case unix.NFTA_SET_ELEM_KEY:
						EachAttribute(v, func(_ uint16, data []byte) { key = data })
					case unix.NFTA_SET_ELEM_DATA:
						EachAttribute(v, func(_ uint16, data []byte) { val = data })
					case unix.NFTA_SET_ELEM_FLAGS:
						end = len(v) == 4 && binary.BigEndian.Uint32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
					}
				})
				fn(key, val, end)
			})
		})
	})
	if err != nil {
		return fmt.Errorf("nftables: read set %s: %w", s.Name, err)
	}
	return nil
}

// Counters are the packets that the named counters of the tables counted; those
// of tables that are not there are none.
func (n *Netfilter) Counters(tables ...*nftables.Table) (map[string]uint64, error) {
	sum := make(map[string]uint64)
	for _, t := range tables {
		attrs := AppendAttribute(nil, unix.NFTA_OBJ_TABLE, append([]byte(t.Name), 0))
		attrs = AppendAttribute(attrs, unix.NFTA_OBJ_TYPE, binary.BigEndian.AppendUint32(nil, unix.NFT_OBJECT_COUNTER))
		var got map[string]uint64
		err := n.s.DumpAll(nftMessage(unix.NFT_MSG_GETOBJ, 0, byte(t.Family), attrs), func() { got = make(map[string]uint64) }, func(_ uint16, body []byte) {
			if ofAnother(body, t.Name) {
				return
			}
			var name string
			var packets uint64
			attributes(body, func(kind uint16, v []byte) {
				switch kind {
				case unix.NFTA_OBJ_NAME:
					name = string(bytes.TrimRight(v, "\x00"))
				case unix.NFTA_OBJ_DATA:
					EachAttribute(v, func(kind uint16, v []byte) {
						if kind == unix.NFTA_COUNTER_PACKETS && len(v) == 8 {
							packets = binary.BigEndian.Uint64(v)
						}
					})
				}
			})
			got[name] = packets
		})
		if err != nil {
			return nil, fmt.Errorf("nftables: read counters of table %s: %w", t.Name, err)
		}
		for name, packets := range got {
			sum[name] += packets
		}
	}
	return sum, nil
}

// Dropping are the chains of the table that packets come to from the kernel and
// that drop what they do not let through; none of a table that is not there or is
// dormant.
func (n *Netfilter) Dropping(t *nftables.Table) (names map[string]bool, err error) {
	flags, there, err := n.tableFlags(t)
	if err != nil || !there || flags&unix.NFT_TABLE_F_DORMANT != 0 {
		return nil, err
	}
	err = n.s.DumpAll(nftMessage(unix.NFT_MSG_GETCHAIN, 0, byte(t.Family), nil), func() { names = make(map[string]bool) }, func(_ uint16, body []byte) {
		var name string
		var hooked, drops bool
		attributes(body, func(kind uint16, v []byte) {
			switch kind {
			case unix.NFTA_CHAIN_NAME:
				name = string(bytes.TrimRight(v, "\x00"))
			case unix.NFTA_CHAIN_HOOK:
				hooked = true
			case unix.NFTA_CHAIN_POLICY:
				drops = len(v) == 4 && binary.BigEndian.Uint32(v) == 0 // NF_DROP
			}
		})
		if hooked && drops && body[0] == byte(t.Family) && !ofAnother(body, t.Name) {
			names[name] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("nftables: read chains of table %s: %w", t.Name, err)
	}
	return names, nil
}
