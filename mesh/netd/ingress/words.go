package ingress

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Small words from which the rules are written. Register 1 holds what is matched;
// keys of several parts fill the 32-bit registers that begin there.

type match []expr.Any

const (
	keyReg  = unix.NFT_REG32_00 // = the first quarter of register 1
	dataReg = unix.NFT_REG_3    // beyond the longest key: what a map says
)

var (
	typeTarget   = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	typeService  = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	typeAddrSvc  = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	typeLinkSvc  = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	typePlace    = nftables.MustConcatSetType(nftables.TypeInteger, nftables.TypeInteger, nftables.TypeInteger)
	typeLinkMAC  = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr)
	typeLinkFrom = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
)

func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func ifname(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }
func equals(data ...byte) expr.Any               { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
func differs(data ...byte) expr.Any              { return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data} }

func load(base expr.PayloadBase, offset, n, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: n}
}

func iif(name string) match    { return match{meta(expr.MetaKeyIIFNAME, 1), equals(ifname(name)...)} }
func notIif(name string) match { return match{meta(expr.MetaKeyIIFNAME, 1), differs(ifname(name)...)} }
func oif(name string) match    { return match{meta(expr.MetaKeyOIFNAME, 1), equals(ifname(name)...)} }
func notOif(name string) match { return match{meta(expr.MetaKeyOIFNAME, 1), differs(ifname(name)...)} }

var (
	ipv4    = match{meta(expr.MetaKeyNFPROTO, 1), equals(unix.NFPROTO_IPV4)}
	isUDP   = match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_UDP)}
	isICMP  = match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_ICMP)}
	toLocal = match{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, equals(native32(unix.RTN_LOCAL)...)}
	accept  = match{&expr.Verdict{Kind: expr.VerdictAccept}}
)

const (
	saddrAt, daddrAt = 12, 16
)

func address(at, reg uint32) expr.Any { return load(expr.PayloadBaseNetworkHeader, at, 4, reg) }

// within and outside compare an address with a prefix of any length.
func masked(at uint32, bits int) match {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-bits))
	return match{address(at, 1), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)}}
}

// service fills two registers from reg on with protocol and port.
func service2(reg uint32) match {
	return match{meta(expr.MetaKeyL4PROTO, reg), load(expr.PayloadBaseTransportHeader, 2, 2, reg+1)}
}

func in(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, SetName: s.Name, SetID: s.ID}
}

// says looks up in a map; what is not in it ends the rule.
func says(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, DestRegister: dataReg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

// leads looks up in a map of verdicts.
func leads(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

// from fills registers with interface, source MAC and, if wanted, source address.
func from(withAddr bool) match {
	m := match{meta(expr.MetaKeyIIFNAME, keyReg), load(expr.PayloadBaseLLHeader, 6, 6, keyReg+4)}
	if withAddr {
		m = append(m, address(saddrAt, keyReg+6))
	}
	return m
}

func drop(counter string) match {
	return match{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counter}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// Bits of `ct state` and `ct status` (linux/netfilter/nf_conntrack_common.h).
const (
	ctEstablished = 1 << 1
	ctRelated     = 1 << 2
	ctNew         = 1 << 3
	ctDNAT        = 1 << 5
)

func ctBits(key expr.CtKey, bits uint32) match {
	return match{&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(bits), Xor: make([]byte, 4)}, differs(0, 0, 0, 0)}
}

func state(bits uint32) match { return ctBits(expr.CtKeySTATE, bits) }

// replies: the packet goes against the flow's direction.
var replies = match{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equals(1)}

// placeKey is where the n-th task of a port stands in setBackends.
func placeKey(p port, n uint32) []byte {
	return append(append(p.Host.AsSlice(), p.proto(), 0, byte(p.Number>>8), byte(p.Number)), native32(n)...)
}

// balanced is the rule of a port's chain.
func balanced(backends *nftables.Set, to balance) match {
	key := placeKey(to.port, 0)
	return match{
		&expr.Immediate{Register: keyReg, Data: key[:4]}, &expr.Immediate{Register: keyReg + 1, Data: key[4:8]},
		&expr.Numgen{Register: keyReg + 2, Modulus: to.n, Type: unix.NFT_NG_INCREMENTAL},
		&expr.Lookup{SourceRegister: keyReg, DestRegister: unix.NFT_REG_2, IsDestRegSet: true, SetName: backends.Name, SetID: backends.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: unix.NFT_REG_2, RegProtoMin: unix.NFT_REG32_05},
	}
}

// toEntry gives a frame the MAC that the lower half of its mark stands for.
func toEntry(nodes *nftables.Set) match {
	return match{meta(expr.MetaKeyMARK, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(nodeMask), Xor: make([]byte, 4)},
		says(nodes),
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: dataReg, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6}}
}
