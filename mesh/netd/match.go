package netd

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Small words from which rules.go is written. Register 1 holds what is matched;
// keys of several parts fill the 32-bit registers that begin there.

type match []expr.Any

const keyReg = unix.NFT_REG32_00 // = the first quarter of register 1

func when(ms ...match) (out []expr.Any) {
	for _, m := range ms {
		out = append(out, m...)
	}
	return out
}

func ifname(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

func load(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

func loadPayload(base expr.PayloadBase, offset, length, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length}
}

func equals(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func differs(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data} }

func in(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, SetName: s.Name, SetID: s.ID}
}

func iif(name string) match    { return match{load(expr.MetaKeyIIFNAME, 1), equals(ifname(name))} }
func notIif(name string) match { return match{load(expr.MetaKeyIIFNAME, 1), differs(ifname(name))} }
func oif(name string) match    { return match{load(expr.MetaKeyOIFNAME, 1), equals(ifname(name))} }
func notOif(name string) match { return match{load(expr.MetaKeyOIFNAME, 1), differs(ifname(name))} }

// A prefix of the name: the comparison covers fewer bytes than the register.
func iifPort() match    { return match{load(expr.MetaKeyIIFNAME, 1), equals([]byte(portPrefix))} }
func notIifPort() match { return match{load(expr.MetaKeyIIFNAME, 1), differs([]byte(portPrefix))} }
func oifPort() match    { return match{load(expr.MetaKeyOIFNAME, 1), equals([]byte(portPrefix))} }

func ipv4() match {
	return match{load(expr.MetaKeyNFPROTO, 1), equals([]byte{unix.NFPROTO_IPV4})}
}

func l4(proto byte) match { return match{load(expr.MetaKeyL4PROTO, 1), equals([]byte{proto})} }

const tcpSYN, tcpACK = 1 << 1, 1 << 4

// tcpFlags needs l4 before it.
func tcpFlags(mask, want byte) match {
	return match{loadPayload(expr.PayloadBaseTransportHeader, 13, 1, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}}, equals([]byte{want})}
}

// dportIn needs l4 before it, daddrPortIn also ipv4.
func dportIn(s *nftables.Set) match {
	return match{loadPayload(expr.PayloadBaseTransportHeader, 2, 2, keyReg), in(s)}
}
func daddrPortIn(s *nftables.Set) match {
	return match{loadPayload(expr.PayloadBaseNetworkHeader, 16, 4, keyReg),
		loadPayload(expr.PayloadBaseTransportHeader, 2, 2, keyReg+1), in(s)}
}

// Prefixes of whole bytes. They need ipv4 before them.
func saddrStarts(b ...byte) match {
	return match{loadPayload(expr.PayloadBaseNetworkHeader, 12, uint32(len(b)), 1), equals(b)}
}
func daddrStarts(b ...byte) match {
	return match{loadPayload(expr.PayloadBaseNetworkHeader, 16, uint32(len(b)), 1), equals(b)}
}
func daddrStartsNot(b ...byte) match {
	return match{loadPayload(expr.PayloadBaseNetworkHeader, 16, uint32(len(b)), 1), differs(b)}
}

func saddrIn(s *nftables.Set) match {
	return match{loadPayload(expr.PayloadBaseNetworkHeader, 12, 4, 1), in(s)}
}

func daddrIn(s *nftables.Set) match {
	return match{loadPayload(expr.PayloadBaseNetworkHeader, 16, 4, 1), in(s)}
}

func saddrWithin(p netip.Prefix) match { return within(12, p) }
func daddrWithin(p netip.Prefix) match { return within(16, p) }

func within(at uint32, p netip.Prefix) match {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return match{loadPayload(expr.PayloadBaseNetworkHeader, at, 4, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)}, equals(p.Masked().Addr().AsSlice())}
}

// sourceIs: the source is an address of that type.
func sourceIs(kind uint32) match {
	return match{&expr.Fib{Register: 1, FlagSADDR: true, ResultADDRTYPE: true}, equals(binary.NativeEndian.AppendUint32(nil, kind))}
}

func marked(mark uint32) match {
	return match{load(expr.MetaKeyMARK, 1), equals(binary.NativeEndian.AppendUint32(nil, mark))}
}

func setMark(mark uint32) match {
	return match{&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint32(nil, mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
}

// toNode: the destination is an address of this node.
func toNode() match {
	return match{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		equals(binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))}
}

// Bits of `ct state` and `ct status` (linux/netfilter/nf_conntrack_common.h).
const (
	ctEstablished = 1 << 1
	ctRelated     = 1 << 2
	ctNew         = 1 << 3
	ctConfirmed   = 1 << 3
	ctDNAT        = 1 << 5
)

func ctBit(key expr.CtKey, bit uint32) match {
	mask := binary.NativeEndian.AppendUint32(nil, bit)
	return match{&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)}}
}

func ct(key expr.CtKey, bit uint32) match { return append(ctBit(key, bit), differs(make([]byte, 4))) }

func ctNot(key expr.CtKey, bit uint32) match { return append(ctBit(key, bit), equals(make([]byte, 4))) }

func state(bit uint32) match { return ct(expr.CtKeySTATE, bit) }

// loadService fills the registers from reg on with protocol and port.
func loadService(reg uint32) match {
	return match{load(expr.MetaKeyL4PROTO, reg), loadPayload(expr.PayloadBaseTransportHeader, 2, 2, reg+1)}
}

func accept() match { return match{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() match   { return match{&expr.Verdict{Kind: expr.VerdictDrop}} }
func jump(c *nftables.Chain) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}

// dnatFrom looks the key up in a map of address and port, and goes there.
func dnatFrom(s *nftables.Set) match {
	return match{
		&expr.Lookup{SourceRegister: keyReg, DestRegister: unix.NFT_REG_2, IsDestRegSet: true, SetName: s.Name, SetID: s.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4,
			RegAddrMin: unix.NFT_REG_2, RegProtoMin: unix.NFT_REG32_05},
	}
}
