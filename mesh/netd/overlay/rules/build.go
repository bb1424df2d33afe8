package rules

import (
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// tableName is that of the tables in the namespace of every network.
const tableName = "redoubt_overlay"

// Chains that drop what they do not let through.
const (
	chainArrive  = "arrive"
	chainForward = "forward"
	chainInput   = "input"
	chainOutput  = "output"
)

func inetTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

func arpTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyARP}
}

// Counters of what was dropped, by what it was.
const (
	droppedARP       = "arp"               // nobody needs it
	droppedMulticast = "multicast"         // not to this end of the link: neighbour discovery, DHCP, mDNS …
	droppedSpoofed   = "spoofed"           // from a local port, with a MAC or address that is not its own
	droppedUplink    = "uplink_spoofed"    // from a node that has no such endpoint
	droppedError     = "icmp_forged"       // an ICMP error about packets of somebody else
	droppedInvalid   = "invalid"           // of no flow, and beginning none
	droppedTransit   = "transit"           // from the uplink to the uplink
	droppedPolicy    = "policy"            // between endpoints that no rule lets talk so
	droppedStray     = "not_in_network"    // to no endpoint
	droppedBound     = "too_many_flows"    // more than one sender may begin or have open
	droppedAgain     = "vip_asked_again"   // the first refusal by a backend; the caller asks again
	refusedVIP       = "vip_refused"       // to a virtual address where nobody serves; answered
	droppedInput     = "to_node"           // to an address of the namespace itself
	droppedOutput    = "sent_by_namespace" // what the namespace itself would send
)

var droppedReasons = []string{droppedMulticast, droppedSpoofed, droppedUplink, droppedError, droppedInvalid, droppedTransit,
	droppedPolicy, droppedBound, droppedStray, droppedAgain, refusedVIP, droppedInput, droppedOutput}

// beforeDefrag: fragments are still single. One with a forged source must not get
// into another's packet.
const beforeDefrag = -450

// closed queues tables that let nothing pass: what policies drop needs no rule.
func closed(to *kernel.Batch) {
	buildARP(newBuilder(to, arpTable()))
	b := newBuilder(to, inetTable())
	b.base(chainArrive, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, beforeDefrag, nftables.ChainPolicyDrop)
	for name, hook := range closedHooks {
		b.base(name, nftables.ChainTypeFilter, hook, *nftables.ChainPriorityFilter, nftables.ChainPolicyDrop)
	}
}

// closedHooks are the chains that drop what is not let through, besides that
// where everything arrives.
var closedHooks = map[string]*nftables.ChainHook{chainForward: nftables.ChainHookForward, chainInput: nftables.ChainHookInput, chainOutput: nftables.ChainHookOutput}

// build queues the whole: the table, and that which takes away ARP.
func (p *plan) build(to *kernel.Batch, most *bounds) error {
	buildARP(newBuilder(to, arpTable()))
	b := newBuilder(to, inetTable())
	for i := range sets {
		b.keep(b.conn.AddSet(set(b.table, i), nil))
	}
	for _, name := range droppedReasons {
		b.counter(name)
	}
	b.addAskedAgain()
	p.arrive(b)
	p.balance(b)
	p.forward(b)
	p.own(b)
	if most != nil {
		p.bound(b, *most)
	}
	b.addChains(&chainChange{now: p.policy, come: slices.Collect(maps.Keys(p.balancers))})
	if p.deny {
		b.rule(b.chain(sameService), accept)
	}
	b.keep(p.elements().queue(b.table, to.Add))
	return b.err
}

var arpChains = []string{chainArrive, "leave"}

func buildARP(b *builder) {
	b.counter(droppedARP)
	for i, name := range arpChains { // the numbers of ARP's hooks
		c := b.base(name, nftables.ChainTypeFilter, nftables.ChainHookRef(nftables.ChainHook(i)), *nftables.ChainPriorityFilter, nftables.ChainPolicyDrop)
		b.rule(c, drop(droppedARP))
	}
}

func (p *plan) fromUplink() match {
	return match{meta(expr.MetaKeyIIFNAME, 1), equals(ifname(p.uplink)...)}
}
func (p *plan) notFromUplink() match {
	return match{meta(expr.MetaKeyIIFNAME, 1), differs(ifname(p.uplink)...)}
}

// arrive: who may send what, packet by packet.
func (p *plan) arrive(b *builder) {
	arrive := b.base(chainArrive, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, beforeDefrag, nftables.ChainPolicyDrop)
	sender := match{meta(expr.MetaKeyIIFNAME, keyReg), payload(expr.PayloadBaseLLHeader, 6, 6, keyReg+4)}
	b.rule(arrive, match{meta(expr.MetaKeyPKTTYPE, 1), differs(unix.PACKET_HOST)}, drop(droppedMulticast))
	for _, f := range families {
		errors := "arrive_errors4"
		if f == &ipv6 {
			errors = "arrive_errors6"
		}
		// The quoted packet was for an endpoint behind this port and MAC. It
		// comes from that endpoint, or from a remote namespace, which speaks as
		// the gateway.
		c := b.chain(errors)
		quoted := payload(expr.PayloadBaseTransportHeader, f.quotedTo, f.size, keyReg+6)
		b.rule(c, f.is(), sender, match{f.saddr(keyReg + 6), in(f.pins)}, sender, match{quoted, in(f.pins)}, accept)
		b.rule(c, f.is(), p.fromUplink(), match{f.saddr(keyReg), in(f.gateways)}, sender, match{quoted, in(f.pins)}, accept)
		b.rule(c, drop(droppedError))

		for _, kind := range f.errors() {
			b.rule(arrive, f.icmpOf(kind), goTo(errors))
		}
		for _, kind := range f.notUsed() {
			b.rule(arrive, f.icmpOf(kind), drop(droppedError))
		}
		b.rule(arrive, f.is(), sender, match{f.saddr(keyReg + 6), in(f.pins)}, accept)
	}
	b.rule(arrive, p.fromUplink(), drop(droppedUplink))
	b.rule(arrive, drop(droppedSpoofed))
}

// balance: from a virtual address to a backend, for what local endpoints begin,
// and back to the caller itself by way of the gateway.
func (p *plan) balance(b *builder) {
	choose := b.base("balance", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest, nftables.ChainPolicyAccept)
	source := b.base("hairpin", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, nftables.ChainPolicyAccept)
	for _, f := range families {
		for _, l4 := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			b.rule(choose, f.is(), p.notFromUplink(), proto(l4), match{f.daddr(keyReg), verdict(f.vips, keyReg)})
		}
		b.rule(source, f.is(), match{f.saddr(keyReg), f.daddr(keyReg + f.size/4), lookup(f.hairpin, keyReg, f.backendReg),
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.proto), RegAddrMin: f.backendReg}})
	}
}

// forward: from endpoint to endpoint. The packets of who began a flow are looked
// up each time; the answers pass as long as the flow is known. Services are put
// into the marks of packet and flow, which nobody reads but the next rule.
func (p *plan) forward(b *builder) {
	forward := b.base(chainForward, nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter, nftables.ChainPolicyDrop)
	b.rule(forward, p.fromUplink(), match{meta(expr.MetaKeyOIFNAME, 1), equals(ifname(p.uplink)...)}, drop(droppedTransit))
	b.rule(forward, state(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), drop(droppedInvalid))
	judge := b.chain("judge")
	for _, f := range families {
		from := match{f.saddr(keyReg), lookup(f.ids, keyReg, 1), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
		to := match{f.daddr(keyReg), lookup(f.ids, keyReg, 1), &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1}}
		toAny := match{f.daddr(keyReg), lookup(f.ids, keyReg, 1), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
		b.askAgain(forward, f)
		b.rule(forward, f.is(), state(expr.CtStateBitRELATED), proto(f.icmp), toAny, accept)
		if p.deny {
			// What begins is no answer, whatever flow it has the ports of: who is called,
			// and does not answer, could otherwise begin one to the port he was called from.
			for _, begins := range firstOf {
				b.rule(forward, f.is(), answers(), begins, goTo(judge.Name))
			}
		}
		b.rule(forward, f.is(), answers(), toAny, accept)
		b.rule(forward, f.is(), answers(), drop(droppedStray))
		if !p.deny {
			b.rule(judge, f.is(), from, to, accept)
			continue
		}
		b.rule(judge, f.is(), from, to, match{meta(expr.MetaKeyMARK, keyReg), &expr.Ct{Key: expr.CtKeyMARK, Register: keyReg + 1}, verdict(setPairs, keyReg)})
		b.rule(judge, f.is(), from, to, drop(droppedPolicy))
	}
	b.rule(judge, drop(droppedStray))
	b.rule(forward, goTo(judge.Name))
}

// own: the namespace answers ICMP echo to its addresses, refuses what virtual
// addresses do not lead anywhere, and says nothing else.
func (p *plan) own(b *builder) {
	input := b.base(chainInput, nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter, nftables.ChainPolicyDrop)
	b.rule(input, p.fromUplink(), drop(droppedInput))
	b.rule(input, state(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), drop(droppedInvalid))
	for _, f := range families {
		echo := f.icmpOf(f.echo)
		b.rule(input, echo, match{f.daddr(keyReg), in(f.gateways)}, accept)
		b.rule(input, echo, match{f.daddr(keyReg), in(f.virtual)}, accept)
		virtual := slices.Concat(f.is(), match{f.daddr(keyReg), in(f.virtual)})
		b.rule(input, virtual, proto(unix.IPPROTO_TCP), match{count(refusedVIP), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
		b.rule(input, virtual, match{count(refusedVIP), &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
	}
	b.rule(input, drop(droppedInput))

	output := b.base(chainOutput, nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter, nftables.ChainPolicyDrop)
	reset := match{transport(13, 1), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{4}, Xor: []byte{0}}, differs(0)}
	for _, f := range families {
		b.askAgain(output, f)
	}
	b.rule(output, proto(unix.IPPROTO_TCP), reset, accept)
	for _, f := range families {
		b.rule(output, f.icmpOf(f.echoReply), accept)
		for _, kind := range f.errors() { // too big, time exceeded, refused; no redirect
			b.rule(output, f.icmpOf(kind), accept)
		}
	}
	b.rule(output, drop(droppedOutput))
}

// addChains queues those that come, in the order in which they lead to each
// other.
func (b *builder) addChains(c *chainChange) {
	for id := range c.now.ids {
		if !c.old.ids[id] {
			b.counter(rulePrefix + id)
			chain := b.chain(rulePrefix + id)
			b.rule(chain, begins(), match{count(rulePrefix + id)})
			b.rule(chain, accept)
		}
	}
	for name, list := range c.now.lists {
		if c.old.lists[name] == nil {
			b.addList(b.chain(name), list)
		}
	}
	for _, x := range c.come {
		f := x.family
		b.rule(b.chain(x.name()), match{f.daddr(keyReg), &expr.Numgen{Register: keyReg + f.size/4, Modulus: uint32(x.backends), Type: unix.NFT_NG_RANDOM},
			lookup(f.backends, keyReg, f.backendReg),
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: f.backendReg}})
	}
}

// addList queues what a pair of services may; who comes to its end may not.
func (b *builder) addList(c *nftables.Chain, list []Rule) {
	for _, r := range list {
		var port match
		if r.First != 0 {
			port = ports(r.First, r.Last)
		}
		to := goTo(rulePrefix + r.ID)
		ps := r.protocols()
		if len(ps) == 0 {
			b.rule(c, to)
		}
		for _, l4 := range ps {
			b.rule(c, proto(l4), port, to)
		}
	}
	b.rule(c, drop(droppedPolicy))
}

// removeChains queues the end of those that nothing leads to any more.
func (b *builder) removeChains(c *chainChange) {
	gone := func(name string) { b.conn.DelChain(&nftables.Chain{Table: b.table, Name: name}) }
	for name := range c.old.lists {
		if c.now.lists[name] == nil {
			gone(name)
		}
	}
	for id := range c.old.ids {
		if !c.now.ids[id] {
			gone(rulePrefix + id)
			b.conn.DeleteObject(&nftables.NamedObj{Table: b.table, Name: rulePrefix + id, Type: nftables.ObjTypeCounter})
		}
	}
	for _, x := range c.gone {
		gone(x.name())
	}
}
