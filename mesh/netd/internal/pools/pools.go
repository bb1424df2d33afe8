// Package pools has the addresses that are the cluster's alone: what it gives its
// networks, its tasks and its nodes inside the tunnels. Nobody outside has one, so
// a client of a published port who comes with one lies: the program behind the
// port would take him for a member of a private network. The tables of a node drop
// him.
//
// An operator may have chosen pools in which the node's own LAN lies. Its hosts
// must not be cut off, nor be believed to be containers: they are led in as the
// node itself (Within finds them).
package pools

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Nobodys are addresses that belong to no host.
var Nobodys = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/16"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// Pools are disjoint, in order. They are not changed.
type Pools []netip.Prefix

// Parse reads them, in any order; one may be a part of another.
func Parse(texts []string) (Pools, error) {
	if len(texts) > maxPools {
		return nil, fmt.Errorf("%d pools exceed the limit of %d", len(texts), maxPools)
	}
	all := make(Pools, 0, len(texts))
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() || p.Bits() < minBits || p.Addr().Is6() && p.Bits() < minBits6 || !p.Addr().IsGlobalUnicast() {
			return nil, fmt.Errorf("pool %.60q is no prefix of /%d (IPv6: /%d) or longer, such as 10.200.0.0/13", text, minBits, minBits6)
		}
		all = append(all, p)
	}
	return all.And(), nil
}

// And are these and more.
func (p Pools) And(more ...netip.Prefix) Pools {
	all := slices.Concat(p, more)
	slices.SortFunc(all, netip.Prefix.Compare)
	out := all[:0]
	for _, p := range all { // what holds another comes before it
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// Add puts a constant set of those of one family in a table. As long as a rule
// looks at it, the kernel lets nobody change what is in it.
func (p Pools) Add(c *nftables.Conn, s *nftables.Set, four bool) error {
	s.Interval, s.Constant = true, true
	if err := c.AddSet(s, nil); err != nil {
		return err
	}
	for part := range slices.Chunk(p.elements(four), maxElementsPerMessage) {
		if err := c.SetAddElements(s, part); err != nil {
			return err
		}
	}
	return nil
}

// elements are where each range begins, and where it is over. Neighbours are one.
func (p Pools) elements(four bool) (out []nftables.SetElement) {
	var end netip.Addr // of the range before; invalid: there is none, or it has no end
	for _, x := range p {
		if x.Addr().Is4() != four {
			continue
		}
		if end == x.Addr() {
			out = out[:len(out)-1]
		} else {
			out = append(out, nftables.SetElement{Key: x.Addr().AsSlice()})
		}
		if end = last(x).Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Overlaps is the pool that has something in common with the prefix; invalid:
// none.
func (p Pools) Overlaps(with netip.Prefix) netip.Prefix {
	for _, x := range p {
		if x.Overlaps(with) {
			return x
		}
	}
	return netip.Prefix{}
}

// A LAN is a network that the node is on by one of its interfaces.
type LAN struct {
	Link   string
	Prefix netip.Prefix
}

func (l LAN) String() string { return l.Prefix.String() + " of " + l.Link }

// LANs are those of the calling thread's namespace, in order, but for interfaces
// that skip names. Of IPv6, what routers announced does not count: whoever is on
// the wire may be one of them, and would choose whom he may be.
func LANs(h *netlink.Handle, skip func(link string) bool) ([]LAN, error) {
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := kernel.Whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []LAN
	for _, a := range addrs {
		p, ok := kernel.PrefixOf(a.IPNet)
		name := names[a.LinkIndex]
		switch {
		case !ok || name == "" || skip(name) || !p.Addr().IsGlobalUnicast():
		case p.Addr().Is6() && a.Flags&unix.IFA_F_PERMANENT == 0:
		default:
			out = append(out, LAN{name, p.Masked()})
		}
	}
	slices.SortFunc(out, func(a, b LAN) int { return cmp.Or(cmp.Compare(a.Link, b.Link), a.Prefix.Compare(b.Prefix)) })
	return slices.Compact(out), nil
}

// Within are the LANs that have something in common with a pool.
func (p Pools) Within(all []LAN) (out []LAN) {
	for _, l := range all {
		if p.Overlaps(l.Prefix).IsValid() {
			out = append(out, l)
		}
	}
	return out
}
