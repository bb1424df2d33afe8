package ingress

import (
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A container that is killed refuses connections until its entry nodes have heard that
// it is gone: by a reset while its sandbox is there. Of a connection to a published
// port the first such answer is dropped by the entry node: a client's kernel that hears
// nothing sends its first packet again after a second, and by then a task is chosen
// anew, among those that serve. After a reset that is so because the kernel has
// forgotten the flow with it. An error of ICMP, as a firewall inside may send it,
// leaves the flow; where the sandbox is gone there is no answer at all. So flows that
// nobody has answered are forgotten as soon as their task stops serving (flows.go). The
// second answer passes: where really nobody listens, clients are told so a second late.
// (mesh/netd/overlay/rules does the same for virtual addresses, and says what is not
// dropped.)

const setAskedAgain = "asked_again" // clients' ends whose refusal was dropped lately; packets put them in

const droppedAgain = "asked_again" // the first refusal by a task

const (
	// againFor is longer than the second after which a first packet is sent again.
	againFor = 2500 * time.Millisecond
	// maxAskedAgain bounds them; of more, the first refusal passes.
	maxAskedAgain = 16384

	tcpRST, tcpACK, tcpFINSYN = 0x04, 0x10, 0x03
)

// isReset: a reset in answer to a first packet, which has no number of its own.
var isReset = match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_TCP),
	load(expr.PayloadBaseTransportHeader, 13, 1, 1),
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpRST | tcpACK | tcpFINSYN}, Xor: []byte{0}}, equals(tcpRST | tcpACK),
	load(expr.PayloadBaseTransportHeader, 4, 4, 1), equals(0, 0, 0, 0)}

// unreachable matches errors that say a packet of TCP did not get where it was to,
// whatever is said to be the cause, and returns where the port it came from is quoted.
func (f *family) unreachable() (quoted match, port uint32) {
	at := func(offset uint32, is expr.Any) match {
		return match{load(expr.PayloadBaseTransportHeader, offset, 1, 1), is}
	}
	if f == four {
		const unreachable, tooBig, noOptions = 3, 4, 0x45
		return slices.Concat(f.is(), match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_ICMP)},
			at(0, equals(unreachable)), at(1, differs(tooBig)), at(8, equals(noOptions)), at(8+9, equals(unix.IPPROTO_TCP))), 8 + 20
	}
	const unreachable = 1 // too big is a kind of its own
	return slices.Concat(f.is(), match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_ICMPV6)}, at(0, equals(unreachable)), at(8+6, equals(unix.IPPROTO_TCP))), 8 + 40
}

// unanswered: the flow was led somewhere, and nobody has answered.
var unanswered = match{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(ctDNAT | ctSeenReply), Xor: make([]byte, 4)}, equals(native32(ctDNAT)...)}

func (p *plan) askAgain(b *builder) {
	b.counter(droppedAgain)
	c := b.base("again", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle)
	for _, f := range p.families() {
		s := b.number(&nftables.Set{Table: b.table, Name: setAskedAgain + f.suffix, KeyType: f.target, Concatenation: true,
			Dynamic: true, HasTimeout: true, Timeout: againFor, Size: maxAskedAgain})
		b.keep(b.conn.AddSet(s, nil))
		once := func(port uint32) match {
			return match{f.address(f.daddr, keyReg), load(expr.PayloadBaseTransportHeader, port, 2, keyReg+f.regs), notIn(s),
				&expr.Dynset{SrcRegKey: keyReg, SetName: s.Name, SetID: s.ID, Operation: unix.NFT_DYNSET_OP_ADD}}
		}
		b.rule(c, iif(NodeLink), f.is(), replies, isReset, ctBits(expr.CtKeySTATUS, ctDNAT), once(2), drop(droppedAgain))
		// What an error quotes belongs to the flow that it is about, says conntrack.
		quoted, port := f.unreachable()
		b.rule(c, iif(NodeLink), replies, quoted, unanswered, once(port), drop(droppedAgain))
	}
}
