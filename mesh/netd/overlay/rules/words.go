package rules

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Small words from which the rules are written. Register 1 holds what is
// compared; keys of several parts fill the 32-bit registers that begin there.

type match []expr.Any

const keyReg = unix.NFT_REG32_00 // = the first quarter of register 1

// ipFamily is what differs between IPv4 and IPv6.
type ipFamily struct {
	proto      byte
	size       uint32 // of an address
	from, to   uint32 // offsets of addresses in the header
	icmp       byte
	echo       byte
	echoReply  byte
	quotedTo   uint32 // offset of the quoted packet's destination in an ICMP error
	pins, ids  int    // sets
	vips       int
	backends   int
	hairpin    int
	gateways   int
	virtual    int
	balancer   string // prefix of chains
	backendReg uint32
}

var ipv4 = ipFamily{proto: unix.NFPROTO_IPV4, size: 4, from: 12, to: 16, icmp: unix.IPPROTO_ICMP, echo: 8, echoReply: 0, quotedTo: 8 + 16,
	pins: setPins4, ids: setIDs4, vips: setVIPs4, backends: setBackends4, hairpin: setHairpin4, gateways: setGateways4, virtual: setVirtual4,
	balancer: "balance4_", backendReg: unix.NFT_REG_2}

var ipv6 = ipFamily{proto: unix.NFPROTO_IPV6, size: 16, from: 8, to: 24, icmp: unix.IPPROTO_ICMPV6, echo: 128, echoReply: 129, quotedTo: 8 + 24,
	pins: setPins6, ids: setIDs6, vips: setVIPs6, backends: setBackends6, hairpin: setHairpin6, gateways: setGateways6, virtual: setVirtual6,
	balancer: "balance6_", backendReg: unix.NFT_REG_3}

var families = []*ipFamily{&ipv4, &ipv6}

func (f *ipFamily) is() match { return match{meta(expr.MetaKeyNFPROTO, 1), equals(f.proto)} }

func (f *ipFamily) saddr(reg uint32) expr.Any {
	return payload(expr.PayloadBaseNetworkHeader, f.from, f.size, reg)
}

func (f *ipFamily) daddr(reg uint32) expr.Any {
	return payload(expr.PayloadBaseNetworkHeader, f.to, f.size, reg)
}

// errors are the types of ICMP errors that are used; of IPv4 there are others,
// which nobody may send: redirects, and source quench.
func (f *ipFamily) errors() []byte {
	if f == &ipv4 {
		return []byte{3, 11, 12}
	}
	return []byte{1, 2, 3, 4}
}

func (f *ipFamily) notUsed() []byte {
	if f == &ipv4 {
		return []byte{4, 5}
	}
	return []byte{137}
}

func (f *ipFamily) icmpOf(kind byte) match {
	return slices.Concat(f.is(), proto(f.icmp), match{transport(0, 1), equals(kind)})
}

func ifname(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }
func equals(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}
}
func differs(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data}
}

func payload(base expr.PayloadBase, offset, n, reg uint32) expr.Any {
	return &expr.Payload{Base: base, Offset: offset, Len: n, DestRegister: reg}
}

func transport(offset, n uint32) expr.Any {
	return payload(expr.PayloadBaseTransportHeader, offset, n, keyReg)
}

func proto(p byte) match { return match{meta(expr.MetaKeyL4PROTO, 1), equals(p)} }

func ports(first, last uint16) match {
	from, to := binary.BigEndian.AppendUint16(nil, first), binary.BigEndian.AppendUint16(nil, last)
	if first == last {
		return match{transport(2, 2), equals(from...)}
	}
	return match{transport(2, 2), &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: from, ToData: to}}
}

// Bits of `ct state` and `ct status` (linux/netfilter/nf_conntrack_common.h).
const ctConfirmed = 1 << 3

func ctBits(key expr.CtKey, bits uint32, then expr.Any) match {
	return match{&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(bits), Xor: make([]byte, 4)}, then}
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func state(bits uint32) match { return ctBits(expr.CtKeySTATE, bits, differs(0, 0, 0, 0)) }

// begins matches the first packet of a flow: the kernel has no entry of it yet.
func begins() match { return ctBits(expr.CtKeySTATUS, ctConfirmed, equals(0, 0, 0, 0)) }

// answers matches packets from the end that did not begin the flow.
func answers() match {
	return match{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equals(1)}
}

// firstOf matches packets by which one end begins, of the protocols that say so: SYN
// without ACK, and INIT, which is alone in its packet.
var firstOf = []match{
	append(proto(unix.IPPROTO_TCP), transport(13, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpACK | tcpSYN}, Xor: []byte{0}}, equals(tcpSYN)),
	append(proto(unix.IPPROTO_SCTP), transport(12, 1), equals(1)),
}

var accept = match{&expr.Verdict{Kind: expr.VerdictAccept}}

func count(counter string) expr.Any {
	return &expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counter}
}

func drop(counter string) match { return match{count(counter), &expr.Verdict{Kind: expr.VerdictDrop}} }

func goTo(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

// builder queues parts of a table. Errors of the library are kept for the end.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error
}

// newBuilder makes the table, which may be there already.
func newBuilder(to *kernel.Batch, t *nftables.Table) *builder {
	return &builder{conn: to.Words(), table: to.Words().AddTable(t)}
}

func (b *builder) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority, policy nftables.ChainPolicy) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Table: b.table, Name: name, Type: kind, Hooknum: hook, Priority: &priority, Policy: &policy})
}

func (b *builder) chain(name string) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Table: b.table, Name: name})
}

func (b *builder) rule(c *nftables.Chain, ms ...match) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: slices.Concat(ms...)})
}

func (b *builder) counter(name string) {
	b.conn.AddObj(&nftables.NamedObj{Table: b.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
}

func (b *builder) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}
