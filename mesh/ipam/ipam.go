// Package ipam says which addresses a network has to give, and in which order
// they are tried.
//
// It owns the division of a subnet: endpoints have the lower three quarters of
// it, virtual addresses the upper quarter, and nobody the network's own address,
// the gateway and the last one. Neither gives more than MaxRoom addresses. Of an
// IPv6 subnet it uses the lowest 2³² addresses and no more.
//
// It keeps nothing and knows no store: who asks says what is taken, by Key. It
// never tries addresses from the start of a range: the seed (an id, which is
// random) says where to begin, and the search goes on in blocks of 256 addresses,
// each of which costs one look at what is taken of it. An address that became
// free is thus not the next to be given, and two who ask at the same moment
// rarely want the same one.
package ipam

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net/netip"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

const (
	// blockBits is how many addresses are looked at together, as a power of two:
	// two hexadecimal digits.
	blockBits = 8
	// maxHostBits bounds how much of a subnet is used.
	maxHostBits = 32
	// MaxRoom bounds either part of a subnet, and with it the tasks and the
	// services that nodes are told of for one network, however large its subnet is.
	MaxRoom = 1 << 14
	// MaxShared bounds the endpoints of all ingress networks, which have one subnet
	// in common, and of which an entry node is told all.
	MaxShared = 1 << 16
)

// Key is an address as the unique indexes have it: hexadecimal digits, 8 for
// IPv4 and 32 for IPv6, so that neighbours begin alike. It is empty for what is
// no address.
func Key(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return hex.EncodeToString(a.AsSlice())
}

// KeyOf is Key of an address as text.
func KeyOf(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	return Key(a)
}

// Prefixes are the beginnings of the keys of a subnet's addresses, at most 8.
// Keys of other subnets never begin so; in the last digit a subnet may have a
// part of 16.
func Prefixes(p netip.Prefix) (out []string) {
	key, digits, rest := Key(p.Masked().Addr()), p.Bits()/4, p.Bits()%4
	if rest == 0 {
		return []string{key[:digits]}
	}
	first, _ := hexDigit(key[digits])
	for d := first; d < first+1<<(4-rest); d++ {
		out = append(out, key[:digits]+string("0123456789abcdef"[d]))
	}
	return out
}

func hexDigit(c byte) (int, bool) {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0'), true
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10, true
	}
	return 0, false
}

// Range is a part of a subnet to give addresses from.
type Range struct {
	base         netip.Addr // offset 0
	first, after uint64     // offsets
	not          [3]netip.Addr
}

// Endpoints is what tasks' addresses of a resolved subnet come from.
func Endpoints(s *meshpb.Subnet) (Range, error) { return part(s, 0, 3, MaxRoom) }

// Shared is Endpoints of a subnet that many networks have in common.
func Shared(s *meshpb.Subnet) (Range, error) { return part(s, 0, 3, MaxShared) }

// VIPs is what virtual addresses of a resolved subnet come from.
func VIPs(s *meshpb.Subnet) (Range, error) { return part(s, 3, 4, MaxRoom) }

// All is every address of a prefix but the first and the last.
func All(p netip.Prefix) Range {
	p = p.Masked()
	return Range{base: p.Addr(), after: size(p), not: [3]netip.Addr{p.Addr(), Last(p)}}
}

func part(s *meshpb.Subnet, from, to, most uint64) (Range, error) {
	subnet, err := netip.ParsePrefix(s.GetSubnet())
	if err != nil {
		return Range{}, fmt.Errorf("subnet: %w", err)
	}
	p := subnet
	if s.GetIpRange() != "" {
		if p, err = netip.ParsePrefix(s.GetIpRange()); err != nil {
			return Range{}, fmt.Errorf("range: %w", err)
		}
	}
	gateway, err := netip.ParseAddr(s.GetGateway())
	if err != nil {
		return Range{}, fmt.Errorf("gateway: %w", err)
	}
	n := size(p)
	first := n / 4 * from
	return Range{base: p.Masked().Addr(), first: first, after: min(n/4*to, first+most),
		not: [3]netip.Addr{subnet.Masked().Addr(), gateway, Last(subnet)}}, nil
}

func size(p netip.Prefix) uint64 { return 1 << min(p.Addr().BitLen()-p.Bits(), maxHostBits) }

// Last is the last address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Room is how many addresses the range has in all.
func (r Range) Room() uint64 {
	n := r.after - r.first
	for i, a := range r.not {
		if off, ok := r.offset(a); ok && off >= r.first && off < r.after && (i == 0 || a != r.not[i-1]) {
			n--
		}
	}
	return n
}

// Taken calls mark with the keys that begin with prefix and are held.
type Taken func(prefix string, mark func(key string))

// Pick finds an address that nobody holds; none: all are taken. What it costs
// are the blocks it has to look at, each of which but the last is full.
func (r Range) Pick(seed string, taken Taken) (netip.Addr, bool) {
	h := fnv.New64a()
	h.Write([]byte(seed)) // never fails
	start := h.Sum64()
	firstBlock, blocks := r.first>>blockBits, (r.after-1)>>blockBits-r.first>>blockBits+1
	for i := range blocks {
		block := firstBlock + (start%blocks+i)%blocks
		var held [1 << blockBits]bool
		low := r.at(block << blockBits) // its last two digits tell offsets apart
		key := Key(low)
		prefix := key[:len(key)-2]
		base := low.AsSlice()[low.BitLen()/8-1]
		taken(prefix, func(key string) {
			if b, err := hex.DecodeString(key); err == nil && len(b) == low.BitLen()/8 && key[:len(prefix)] == prefix {
				held[b[len(b)-1]-base] = true
			}
		})
		for j := range uint64(1 << blockBits) {
			k := (start>>32 + j) % (1 << blockBits)
			off := block<<blockBits + k
			if off < r.first || off >= r.after || held[k] {
				continue
			}
			if a := r.at(off); a != r.not[0] && a != r.not[1] && a != r.not[2] {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// at is the address at an offset. The base has no bits where offsets have.
func (r Range) at(off uint64) netip.Addr {
	b := r.base.AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+uint32(off))
	a, _ := netip.AddrFromSlice(b)
	return a
}

// offset is where an address is, counted from the base.
func (r Range) offset(a netip.Addr) (uint64, bool) {
	if !a.IsValid() || a.BitLen() != r.base.BitLen() {
		return 0, false
	}
	x, y := a.AsSlice(), r.base.AsSlice()
	n := len(x) - 4
	if string(x[:n]) != string(y[:n]) || binary.BigEndian.Uint32(x[n:]) < binary.BigEndian.Uint32(y[n:]) {
		return 0, false
	}
	return uint64(binary.BigEndian.Uint32(x[n:]) - binary.BigEndian.Uint32(y[n:])), true
}
