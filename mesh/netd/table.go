package netd

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// fingerprint identifies what the kernel holds of the owned tables. What packets
// change is not part of it, so it stays the same until somebody changes them.
type fingerprint [sha256.Size]byte

// prints are those of the tables that are replaced together, and of the one
// that counts.
type prints struct{ rules, flows fingerprint }

func readPrints() (p prints, err error) {
	if p.rules, err = readFingerprint(twoTables()...); err == nil {
		p.flows, err = readFingerprint(flows())
	}
	return p, err
}

// nftSocketBuffer takes a whole batch or dump.
const nftSocketBuffer = 8 << 20

// bounded limits how long one kernel request may take. It is generic because
// the connection's type belongs to a library this package does not name.
func bounded[C interface {
	SetDeadline(time.Time) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}](c C) error {
	return errors.Join(c.SetReadBuffer(nftSocketBuffer), c.SetWriteBuffer(nftSocketBuffer),
		c.SetDeadline(time.Now().Add(netlinkTimeout)))
}

// withNFT runs fn with a connection to the nftables of the calling thread's
// network namespace.
func withNFT(fn func(c *nftables.Conn) error) error {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(bounded))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return errors.Join(fn(c), c.CloseLasting())
}

// commit replaces both tables in one transaction: packets see the old rules or
// the new ones. The table that counts is replaced when bounds are given, and is
// left as it is otherwise. It returns the fingerprints and the ruleset
// generation they were read at.
func commit(r ruleset, bounds *flowBounds) (p prints, gen uint32, err error) {
	for range maxCommits {
		before, err := generation()
		if err != nil {
			return p, 0, err
		}
		err = withNFT(func(c *nftables.Conn) error {
			remove := twoTables()
			if bounds != nil {
				remove = append(remove, flows())
			}
			for _, t := range remove {
				c.AddTable(t) // deleting what does not exist is an error
				c.DelTable(t)
			}
			if err := r.build(c); err != nil {
				return err
			}
			if bounds != nil {
				if err := bounds.build(c); err != nil {
					return err
				}
			}
			return c.Flush()
		})
		if err != nil {
			return p, 0, fmt.Errorf("nftables: replace table %s: %w", tableName, err)
		}
		if p, err = readPrints(); err != nil {
			return p, 0, err
		}
		// One commit is one generation. More mean that somebody else's fell
		// between ours and the reading, and may have changed our table.
		if gen, err = generation(); err != nil || gen == before+1 {
			return p, gen, err
		}
	}
	return p, 0, errors.New("nftables: the ruleset of this node is changed by others without pause: stop what does it")
}

func twoTables() []*nftables.Table {
	inet, bridge := tables()
	return []*nftables.Table{inet, bridge}
}

func allTables() []*nftables.Table { return append(twoTables(), flows()) }

// removeTables deletes all; it is no error when there are none.
func removeTables() error {
	return withNFT(func(c *nftables.Conn) error {
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
	err = withNFT(func(c *nftables.Conn) error {
		inet, _ := tables()
		there, err := exists(c, inet)
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

func exists(c *nftables.Conn, t *nftables.Table) (bool, error) {
	all, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return false, fmt.Errorf("nftables: list tables: %w", err)
	}
	return slices.ContainsFunc(all, func(x *nftables.Table) bool { return x.Name == t.Name }), nil
}

func nftRequest(kind, flags int, family nftables.TableFamily, attrs ...*nl.RtAttr) ([][]byte, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	for _, a := range attrs {
		req.AddData(a)
	}
	return req.Execute(unix.NETLINK_NETFILTER, 0)
}

// generation is the number of the namespace's ruleset; each commit of anybody
// increases it.
func generation() (uint32, error) {
	msgs, err := nftRequest(unix.NFT_MSG_GETGEN, 0, 0)
	if err != nil {
		return 0, fmt.Errorf("nftables generation: %w", err)
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[min(len(m), nl.SizeofNfgenmsg):])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type&nl.NLA_TYPE_MASK == unix.NFTA_GEN_ID && len(a.Value) == 4 {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, errors.New("nftables: the kernel did not say its ruleset's generation")
}

// readFingerprint hashes chains, rules, sets and elements of the tables as the
// kernel tells them; not elements that packets add. A table that does not exist has a fingerprint as well.
func readFingerprint(tables ...*nftables.Table) (fp fingerprint, err error) {
	sum := sha256.New()
	put := func(kind string, items [][]byte) {
		fmt.Fprintf(sum, "%s %d\n", kind, len(items))
		for _, b := range items {
			fmt.Fprintf(sum, "%d:%s", len(b), b)
		}
	}
	err = withNFT(func(c *nftables.Conn) error {
		for _, t := range tables {
			there, err := exists(c, t)
			if err != nil {
				return err
			}
			if !there {
				put("absent", nil)
				continue
			}
			name := nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.Name)) // the same number for chains and sets
			for _, kind := range []int{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE} {
				msgs, err := nftRequest(kind, unix.NLM_F_DUMP, t.Family, name)
				if err != nil {
					return fmt.Errorf("nftables: read table %s: %w", t.Name, err)
				}
				var ours [][]byte
				for _, m := range msgs {
					if !ofAnother(m, t.Name) { // the header holds the ruleset's generation
						ours = append(ours, m[min(len(m), nl.SizeofNfgenmsg):])
					}
				}
				put("messages", ours)
			}
			sets, err := c.GetSets(t)
			if err != nil {
				return fmt.Errorf("nftables: read sets: %w", err)
			}
			for _, s := range sets {
				if s.Dynamic {
					put("set "+s.Name, nil)
					continue
				}
				elements, err := c.GetSetElements(s)
				if err != nil {
					return fmt.Errorf("nftables: read set %s: %w", s.Name, err)
				}
				var items [][]byte
				for _, e := range elements {
					items = append(items, append(slices.Clone(e.Key), e.Val...))
				}
				// The order in a hash table is the kernel's.
				slices.SortFunc(items, bytes.Compare)
				put("set "+s.Name, items)
			}
		}
		return nil
	})
	return fingerprint(sum.Sum(nil)), err
}

// ofAnother reports whether a message is about another table. Not every kernel
// filters a dump of chains.
func ofAnother(m []byte, table string) bool {
	attrs, err := nl.ParseRouteAttr(m[min(len(m), nl.SizeofNfgenmsg):])
	if err != nil {
		return false
	}
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK == unix.NFTA_RULE_TABLE {
			return string(bytes.TrimRight(a.Value, "\x00")) != table
		}
	}
	return false
}
