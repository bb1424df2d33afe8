package kernel

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

// Fingerprint identifies what the kernel holds of the owned tables. What packets
// change is not part of it, so it stays the same until somebody changes them.
type Fingerprint [sha256.Size]byte

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
		c.SetDeadline(time.Now().Add(requestTimeout)))
}

// WithNFT runs fn with a connection to the nftables of the calling thread's
// network namespace.
func WithNFT(fn func(c *nftables.Conn) error) error {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(bounded))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return errors.Join(fn(c), c.CloseLasting())
}

// Exists reports whether there is such a table.
func Exists(c *nftables.Conn, t *nftables.Table) (bool, error) {
	all, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return false, fmt.Errorf("nftables: list tables: %w", err)
	}
	return slices.ContainsFunc(all, func(x *nftables.Table) bool { return x.Name == t.Name }), nil
}

// Request asks nftables something the library has no words for.
func Request(kind, flags int, family nftables.TableFamily, attrs ...*nl.RtAttr) ([][]byte, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	for _, a := range attrs {
		req.AddData(a)
	}
	return req.Execute(unix.NETLINK_NETFILTER, 0)
}

// generation is the number of the namespace's ruleset; each commit of anybody
// increases it.
func Generation() (uint32, error) {
	msgs, err := Request(unix.NFT_MSG_GETGEN, 0, 0)
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

// ReadFingerprint hashes chains, rules, sets and elements of the tables as the
// kernel tells them; not elements that packets add. A table that does not exist has a Fingerprint as well.
func ReadFingerprint(tables ...*nftables.Table) (Fingerprint, error) {
	return fingerprint(true, tables)
}

// ReadStructure is ReadFingerprint without the elements of sets, for who compares
// those by itself.
func ReadStructure(tables ...*nftables.Table) (Fingerprint, error) { return fingerprint(false, tables) }

func fingerprint(withElements bool, tables []*nftables.Table) (fp Fingerprint, err error) {
	sum := sha256.New()
	put := func(kind string, items [][]byte) {
		fmt.Fprintf(sum, "%s %d\n", kind, len(items))
		for _, b := range items {
			fmt.Fprintf(sum, "%d:%s", len(b), b)
		}
	}
	err = WithNFT(func(c *nftables.Conn) error {
		for _, t := range tables {
			all, err := c.ListTablesOfFamily(t.Family)
			if err != nil {
				return fmt.Errorf("nftables: list tables: %w", err)
			}
			i := slices.IndexFunc(all, func(x *nftables.Table) bool { return x.Name == t.Name })
			if i < 0 {
				put("absent", nil)
				continue
			}
			fmt.Fprintf(sum, "flags %d\n", all[i].Flags)                          // a dormant table has all its rules and none in force
			name := nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.Name)) // the same number for chains and sets
			for _, kind := range []int{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE} {
				msgs, err := Request(kind, unix.NLM_F_DUMP, t.Family, name)
				if err != nil {
					return fmt.Errorf("nftables: read table %s: %w", t.Name, err)
				}
				var ours [][]byte
				for _, m := range msgs {
					if !ofAnother(m, t.Name) { // the header holds the ruleset's generation
						m = m[min(len(m), nl.SizeofNfgenmsg):]
						if kind == unix.NFT_MSG_GETCHAIN && !withElements {
							m = withoutUse(m)
						}
						ours = append(ours, m)
					}
				}
				put("messages", ours)
			}
			sets, err := c.GetSets(t)
			if err != nil {
				return fmt.Errorf("nftables: read sets: %w", err)
			}
			for _, s := range sets {
				if s.Dynamic || !withElements {
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
	return Fingerprint(sum.Sum(nil)), err
}

// withoutUse leaves out of what is said of a chain how much leads to it, elements
// of sets included.
func withoutUse(m []byte) []byte {
	attrs, err := nl.ParseRouteAttr(m)
	if err != nil {
		return m
	}
	var out []byte
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK != unix.NFTA_CHAIN_USE {
			out = append(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(out, a.Attr.Len), a.Attr.Type), a.Value...)
		}
	}
	return out
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
