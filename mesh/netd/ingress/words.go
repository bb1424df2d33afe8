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
	typeService = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	typeLinkMAC = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr)
	typeOpener  = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeMark)
)

func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func ifname(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

// isError: an error of ICMP, and nothing else of it.
func (f *family) isError() match {
	if f == four {
		return match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_ICMP)}
	}
	return match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_ICMPV6), load(expr.PayloadBaseTransportHeader, 0, 1, 1),
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: []byte{128}}}
}

// asksAround is what the kernel says of itself on every interface with IPv6: who is
// in which group. There is nobody to hear it.
var asksAround = match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_ICMPV6), load(expr.PayloadBaseTransportHeader, 0, 1, 1),
	&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{130}}}

var quietly = match{&expr.Verdict{Kind: expr.VerdictDrop}}

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }
func equals(data ...byte) expr.Any               { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
func differs(data ...byte) expr.Any              { return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data} }

func load(base expr.PayloadBase, offset, n, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: n}
}

func iif(name string) match    { return match{meta(expr.MetaKeyIIFNAME, 1), equals(ifname(name)...)} }
func iifBegins(s string) match { return match{meta(expr.MetaKeyIIFNAME, 1), equals([]byte(s)...)} }
func notIif(name string) match { return match{meta(expr.MetaKeyIIFNAME, 1), differs(ifname(name)...)} }
func oif(name string) match    { return match{meta(expr.MetaKeyOIFNAME, 1), equals(ifname(name)...)} }
func notOif(name string) match { return match{meta(expr.MetaKeyOIFNAME, 1), differs(ifname(name)...)} }

var (
	isUDP   = match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_UDP)}
	toLocal = match{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, equals(native32(unix.RTN_LOCAL)...)}
	accept  = match{&expr.Verdict{Kind: expr.VerdictAccept}}
)

// service fills two registers from reg on with protocol and port.
func service2(reg uint32) match {
	return match{meta(expr.MetaKeyL4PROTO, reg), load(expr.PayloadBaseTransportHeader, 2, 2, reg+1)}
}

func in(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, SetName: s.Name, SetID: s.ID}
}

func notIn(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, SetName: s.Name, SetID: s.ID, Invert: true}
}

// says looks up in a map; what is not in it ends the rule.
func says(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, DestRegister: dataReg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

// leads looks up in a map of verdicts.
func leads(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

// fromNode fills registers with interface and source MAC.
func fromNode() match {
	return match{meta(expr.MetaKeyIIFNAME, keyReg), load(expr.PayloadBaseLLHeader, 6, 6, keyReg+4)}
}

// fromAddress has the source address besides.
func (f *family) fromAddress() match {
	return append(fromNode(), f.address(f.saddr, keyReg+6))
}

func drop(counter string) match {
	return match{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counter}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// Bits of `ct state` and `ct status` (linux/netfilter/nf_conntrack_common.h).
const (
	ctEstablished = 1 << 1
	ctRelated     = 1 << 2
	ctNew         = 1 << 3
	ctSeenReply   = 1 << 1
	ctDNAT        = 1 << 5
	ctConfirmed   = 1 << 3
)

func ctBits(key expr.CtKey, bits uint32) match {
	return match{&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(bits), Xor: make([]byte, 4)}, differs(0, 0, 0, 0)}
}

// firstOfTCP is a first packet, whatever flow it is of.
func firstOfTCP() match {
	return match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_TCP), load(expr.PayloadBaseTransportHeader, 13, 1, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{1<<4 | 1<<1}, Xor: []byte{0}}, equals(1 << 1)}
}

func state(bits uint32) match { return ctBits(expr.CtKeySTATE, bits) }

// replies: the packet goes against the flow's direction; requests: with it.
var (
	replies  = match{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equals(1)}
	requests = match{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equals(0)}
)

// placeKey is where the n-th task of a port stands in setBackends.
func placeKey(p port, n uint32) []byte {
	return append(append(p.Host.AsSlice(), serviceKey(p.proto(), p.Number)...), native32(n)...)
}

// balanced is the rule of a port's chain.
func balanced(backends *nftables.Set, to balance) match {
	key, f := placeKey(to.port, 0), familyOf(to.port.Host)
	return match{
		&expr.Immediate{Register: keyReg, Data: key[:f.size]}, &expr.Immediate{Register: keyReg + f.regs, Data: key[f.size : f.size+4]},
		&expr.Immediate{Register: keyReg + f.regs + 1, Data: key[f.size+4 : f.size+8]},
		&expr.Numgen{Register: keyReg + f.regs + 2, Modulus: to.n, Type: unix.NFT_NG_INCREMENTAL},
		&expr.Lookup{SourceRegister: keyReg, DestRegister: f.toReg, IsDestRegSet: true, SetName: backends.Name, SetID: backends.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nf), RegAddrMin: f.toReg, RegProtoMin: f.portReg},
	}
}

// toEntry gives a frame the MAC that the lower half of its mark stands for.
func toEntry(nodes *nftables.Set) match {
	return match{meta(expr.MetaKeyMARK, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(nodeMask), Xor: make([]byte, 4)},
		says(nodes),
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: dataReg, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6}}
}
