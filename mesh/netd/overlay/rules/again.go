package rules

import (
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A container that is killed refuses connections until everybody has heard that it is
// gone: by a reset while its sandbox is there, and by an ICMP error afterwards, of the
// namespace that has no way to it any more. Of a connection to a virtual address the
// first such answer is dropped on the caller's node: a kernel that hears nothing sends
// its first packet again after a second, and by then a backend is chosen anew, among
// those that serve. After a reset that is so because the kernel has forgotten the flow
// with it. An error of ICMP leaves it, so flows that nobody has answered are forgotten
// as soon as their backend stops serving (stale.go), whether an error came or nothing
// at all. The second answer passes: where really nobody listens, callers are told so a
// second late. That there is no way never passes: the sandbox is gone, and its
// withdrawal cannot be far.
//
// Errors that say of a packet what is wrong with it pass at once, and so does whatever
// is said about an established flow, or one of datagrams: nobody would send those again,
// and who asks by datagrams hears at once that he has to.
//
// askedAgain are the callers' ends whose reset was dropped lately. Packets put them in;
// they are no part of what is compared with the kernel.
var askedAgain = map[*ipFamily]nftables.Set{
	&ipv4: again("asked_again4", setCount+1, nftables.TypeIPAddr),
	&ipv6: again("asked_again6", setCount+2, nftables.TypeIP6Addr),
}

func again(name string, id uint32, addr nftables.SetDatatype) nftables.Set {
	s := keyed(name, addr, nftables.TypeInetService)
	s.ID, s.Dynamic, s.HasTimeout, s.Timeout, s.Size = id, true, true, againFor, maxAskedAgain
	return s
}

const (
	// againFor is longer than the second after which a first packet is sent again.
	againFor = 2500 * time.Millisecond
	// maxAskedAgain bounds them; of more, the first reset passes. The kernel takes
	// memory for as many beforehand, in each network.
	maxAskedAgain = 1024
)

const (
	ctSeenReply      = 1 << 1 // of `ct status`
	ctDestinationNAT = 1 << 5
	tcpSYN, tcpRST   = 0x02, 0x04
	tcpACK           = 0x10
	tcpFINSYN        = 0x03
)

// addAskedAgain makes the sets.
func (b *builder) addAskedAgain() {
	for _, f := range families {
		s := askedAgain[f]
		s.Table = b.table
		b.keep(b.conn.AddSet(&s, nil))
	}
}

// askAgain drops what passes through or is sent by the namespace itself.
func (b *builder) askAgain(c *nftables.Chain, f *ipFamily) {
	s := askedAgain[f]
	once := func(port uint32) match {
		return match{f.daddr(keyReg), payload(expr.PayloadBaseTransportHeader, port, 2, keyReg+f.size/4),
			&expr.Lookup{SourceRegister: keyReg, SetName: s.Name, SetID: s.ID, Invert: true},
			&expr.Dynset{SrcRegKey: keyReg, SetName: s.Name, SetID: s.ID, Operation: unix.NFT_DYNSET_OP_ADD}}
	}
	// A reset in answer to a first packet has no number of its own.
	reset := match{transport(13, 1), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpRST | tcpACK | tcpFINSYN}, Xor: []byte{0}}, equals(tcpRST | tcpACK),
		transport(4, 4), equals(0, 0, 0, 0)}
	b.rule(c, f.is(), answers(), proto(unix.IPPROTO_TCP), ctBits(expr.CtKeySTATUS, ctDestinationNAT, differs(0, 0, 0, 0)), reset, once(2), drop(droppedAgain))
	// What an error quotes belongs to the flow that it is about, says conntrack.
	unanswered := ctBits(expr.CtKeySTATUS, ctDestinationNAT|ctSeenReply, equals(native(ctDestinationNAT)...))
	quoted, port := f.unreachable()
	for _, code := range f.noWay() {
		b.rule(c, answers(), quoted, match{transport(1, 1), equals(code)}, unanswered, drop(droppedAgain))
	}
	b.rule(c, answers(), quoted, unanswered, once(port), drop(droppedAgain))
}

// noWay are the codes of "unreachable" by which a kernel says that it has no way to an
// address: that no connection is to be given up for them is an old rule, which kernels
// keep once it is established, and not while it is being made.
func (f *ipFamily) noWay() []byte {
	if f == &ipv4 {
		return []byte{0, 1} // network, host
	}
	return []byte{0, 3} // no route, address
}

// unreachable matches errors that say a packet of TCP did not get where it was to,
// whatever is said to be the cause, and returns where the port it came from is quoted.
func (f *ipFamily) unreachable() (quoted match, port uint32) {
	if f == &ipv4 {
		const unreachable, tooBig, noOptions = 3, 4, 0x45
		return slices.Concat(f.icmpOf(unreachable), match{transport(1, 1), differs(tooBig), transport(8, 1), equals(noOptions), transport(8+9, 1), equals(unix.IPPROTO_TCP)}), 8 + 20
	}
	const unreachable = 1 // too big is a kind of its own
	return slices.Concat(f.icmpOf(unreachable), match{transport(8+6, 1), equals(unix.IPPROTO_TCP)}), 8 + 40
}
