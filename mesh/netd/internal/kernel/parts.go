package kernel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Parts are what Structure hashes of one table, part by part: each chain with its
// rules by its name, and flags and sets under "". Who changes a few chains reads
// these again, and knows the whole.
type Parts map[string]Fingerprint

// Same reports whether nothing differs.
func (p Parts) Same(o Parts) bool { return maps.Equal(p, o) }

// Parts reads all of a table; none if it is not there.
func (n *Netfilter) Parts(t *nftables.Table) (Parts, error) {
	flags, there, err := n.tableFlags(t)
	if err != nil || !there {
		return nil, readError(t, err)
	}
	name := AppendAttribute(nil, unix.NFTA_TABLE_NAME, append([]byte(t.Name), 0))
	frame := sha256.New()
	fmt.Fprintf(frame, "flags %d\n", flags)
	var sets [][]byte
	err = n.s.DumpAll(nftMessage(unix.NFT_MSG_GETSET, 0, byte(t.Family), name), func() { sets = nil }, func(_ uint16, body []byte) {
		if !ofAnother(body, t.Name) {
			sets = append(sets, settled(unix.NFT_MSG_GETSET, body))
		}
	})
	if err != nil {
		return nil, readError(t, err)
	}
	for _, s := range sets {
		fmt.Fprintf(frame, "%d:%s", len(s), s)
	}
	found := make(chains)
	if err := n.readChains(t, unix.NFT_MSG_GETCHAIN, name, found); err != nil {
		return nil, err
	}
	if err := n.readChains(t, unix.NFT_MSG_GETRULE, name, found); err != nil {
		return nil, err
	}
	p := found.parts()
	p[""] = Fingerprint(frame.Sum(nil))
	return p, nil
}

// Reread reads these chains of the table again. One that is not there is no part
// any more.
func (n *Netfilter) Reread(t *nftables.Table, p Parts, names []string) error {
	found := make(chains)
	for _, name := range names {
		delete(p, name)
		attrs := AppendAttribute(nil, unix.NFTA_CHAIN_TABLE, append([]byte(t.Name), 0))
		err := n.s.Ask(nftMessage(unix.NFT_MSG_GETCHAIN, 0, byte(t.Family), AppendAttribute(attrs, unix.NFTA_CHAIN_NAME, append([]byte(name), 0))),
			func(_ uint16, body []byte) { found.add(unix.NFT_MSG_GETCHAIN, body) })
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return readError(t, err)
		}
		// Not every kernel looks at the chain.
		attrs = AppendAttribute(attrs[:len(attrs):len(attrs)], unix.NFTA_RULE_CHAIN, append([]byte(name), 0))
		one := make(chains)
		if err := n.readChains(t, unix.NFT_MSG_GETRULE, attrs, one); err != nil {
			return err
		}
		found[name] = append(found[name], one[name]...)
	}
	maps.Copy(p, found.parts())
	return nil
}

// chains are what is said of each and of its rules, in their order.
type chains map[string][][]byte

func (c chains) add(kind int, body []byte) {
	attribute := uint16(unix.NFTA_CHAIN_NAME)
	if kind == unix.NFT_MSG_GETRULE {
		attribute = unix.NFTA_RULE_CHAIN
	}
	name := ""
	attributes(body, func(a uint16, v []byte) {
		if a == attribute {
			name = string(bytes.TrimRight(v, "\x00"))
		}
	})
	c[name] = append(c[name], settled(kind, body))
}

func (c chains) parts() Parts {
	p := make(Parts, len(c)+1)
	sum := sha256.New()
	for name, said := range c {
		sum.Reset()
		for _, m := range said {
			fmt.Fprintf(sum, "%d:", len(m))
			sum.Write(m)
		}
		p[name] = Fingerprint(sum.Sum(nil))
	}
	return p
}

// readChains adds what a dump says; one that is begun again counts alone.
func (n *Netfilter) readChains(t *nftables.Table, kind int, attrs []byte, to chains) error {
	var bodies [][]byte
	err := n.s.DumpAll(nftMessage(kind, 0, byte(t.Family), attrs), func() { bodies = nil }, func(_ uint16, body []byte) {
		if !ofAnother(body, t.Name) {
			bodies = append(bodies, bytes.Clone(body))
		}
	})
	if err != nil {
		return readError(t, err)
	}
	for _, b := range bodies {
		to.add(kind, b)
	}
	return nil
}

func readError(t *nftables.Table, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("nftables: read table %s: %w", t.Name, err)
}
