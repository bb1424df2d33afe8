package ingress

import (
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A family is IPv4 or IPv6: the same is done for both, in sets of their own.
type family struct {
	suffix       string // of names of sets and chains
	af           int
	nf           byte
	bits         int
	saddr, daddr uint32 // where addresses are in the header
	size         uint32 // of an address
	table        nftables.TableFamily
	// Keys of sets, and registers: an address fills regs of them.
	regs    uint32
	target  nftables.SetDatatype // address, port
	addrSvc nftables.SetDatatype // address, protocol, port
	linkSvc nftables.SetDatatype // interface, address, protocol, port
	place   nftables.SetDatatype // see placeKey
	from    nftables.SetDatatype // interface, MAC, address
	// What balanced finds is in these.
	toReg, portReg uint32
}

var (
	four = &family{af: unix.AF_INET, nf: unix.NFPROTO_IPV4, bits: 32, saddr: 12, daddr: 16, size: 4, regs: 1, table: nftables.TableFamilyIPv4,
		target:  nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
		addrSvc: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
		linkSvc: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
		place:   nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark),
		from:    nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr),
		toReg:   unix.NFT_REG_2, portReg: unix.NFT_REG32_05}
	six = &family{suffix: "6", af: unix.AF_INET6, nf: unix.NFPROTO_IPV6, bits: 128, saddr: 8, daddr: 24, size: 16, regs: 4, table: nftables.TableFamilyIPv6,
		target:  nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService),
		addrSvc: nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService),
		linkSvc: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService),
		place:   nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark),
		from:    nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIP6Addr),
		toReg:   unix.NFT_REG_3, portReg: unix.NFT_REG32_12}
)

func familyOf(a netip.Addr) *family {
	if a.Is4() {
		return four
	}
	return six
}

// index is the family's place in pairs.
func (f *family) index() int {
	if f == four {
		return 0
	}
	return 1
}

// families are those in which ports are answered on.
func (p *plan) families() []*family {
	if p.subnets[1].IsValid() {
		return []*family{four, six}
	}
	return []*family{four}
}

func (p *plan) subnet(f *family) netip.Prefix { return p.subnets[f.index()] }

// at is the task's address of the family; invalid: none.
func (e endpoint) at(f *family) netip.Addr { return e.addrs[f.index()] }

// everywhere is the prefix of all addresses.
func (f *family) everywhere() netip.Prefix {
	if f == four {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func (f *family) is() match { return match{meta(expr.MetaKeyNFPROTO, 1), equals(f.nf)} }

// address loads one of the header.
func (f *family) address(at, reg uint32) expr.Any {
	return load(expr.PayloadBaseNetworkHeader, at, f.size, reg)
}

// within compares an address with a prefix of any length.
func (f *family) within(at uint32, p netip.Prefix, op func(...byte) expr.Any) match {
	mask := make([]byte, f.size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return match{f.address(at, 1), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		op(p.Masked().Addr().AsSlice()...)}
}

func is(d ...byte) expr.Any    { return equals(d...) }
func isNot(d ...byte) expr.Any { return differs(d...) }

// loopback is what means this node on every node.
func (f *family) loopback() netip.Prefix {
	if f == four {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	}
	return single(netip.IPv6Loopback())
}

// toService fills registers with destination, protocol and port.
func (f *family) toService(reg uint32) match {
	return append(match{f.address(f.daddr, reg)}, service2(reg+f.regs)...)
}

// hasIPv6 is false for a kernel without.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf/all")
	return err == nil
}
