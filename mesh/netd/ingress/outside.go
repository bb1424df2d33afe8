package ingress

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table in the node's namespace: what an entry node leads in, and how little
// of it comes out again.

var outsideTables = []*nftables.Table{{Name: tableName, Family: nftables.TableFamilyINet}}

const (
	setPublished   = "published"    // on every address
	setPublishedOn = "published_on" // on one
	setUnserved    = "unserved"     // published, and nobody serves it
	setUnservedOn  = "unserved_on"
	setBackends    = "backends" // the tasks of a port that serve it, each with a place
	setTargets     = "targets"  // where flows may be led
)

// Counters of what was dropped, by what it was.
const (
	droppedSpoofed = "spoofed" // from an address that its sender has not
	droppedRefused = "refused" // no part of a flow that was led in
	droppedForeign = "foreign" // from or to tasks' addresses on another way
)

func (p port) proto() byte {
	if p.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// Parts of set keys, each padded to whole registers.
func portBytes(n uint16) []byte { return []byte{byte(n >> 8), byte(n), 0, 0} }

func serviceKey(proto byte, n uint16) []byte {
	return append([]byte{proto, 0, 0, 0}, portBytes(n)...)
}

// chainName is of the port's chain.
func (p port) chainName() string {
	name := "tcp"
	if p.UDP {
		name = "udp"
	}
	if p.Host.IsUnspecified() {
		return fmt.Sprintf("%s_%d", name, p.Number)
	}
	return fmt.Sprintf("%s_%d_%s", name, p.Number, p.Host)
}

// outside is the table of an entry node that answers on these ports.
func (p *plan) outside(published map[port]*service) *content {
	c := &content{tables: outsideTables, balance: map[string]balance{}, sets: map[string]elements{
		setPublished: {}, setPublishedOn: {}, setUnserved: {}, setUnservedOn: {}, setBackends: {}, setTargets: {}}}
	t := outsideTables[0]
	c.specs = []nftables.Set{
		{Table: t, Name: setPublished, IsMap: true, KeyType: typeService, DataType: nftables.TypeVerdict, Concatenation: true},
		{Table: t, Name: setPublishedOn, IsMap: true, KeyType: typeAddrSvc, DataType: nftables.TypeVerdict, Concatenation: true},
		{Table: t, Name: setUnserved, KeyType: typeService, Concatenation: true},
		{Table: t, Name: setUnservedOn, KeyType: typeAddrSvc, Concatenation: true},
		{Table: t, Name: setBackends, IsMap: true, KeyType: typePlace, DataType: typeTarget, Concatenation: true},
		{Table: t, Name: setTargets, KeyType: typeAddrSvc, Concatenation: true},
	}
	for x, s := range published {
		for _, e := range s.endpoints {
			c.sets[setTargets][string(append(e.addr.AsSlice(), serviceKey(x.proto(), x.target)...))] = nil
		}
		key, served, unserved := serviceKey(x.proto(), x.Number), setPublished, setUnserved
		if !x.Host.IsUnspecified() {
			key, served, unserved = append(x.Host.AsSlice(), key...), setPublishedOn, setUnservedOn
		}
		to := s.targets(x)
		if len(to) == 0 {
			c.sets[unserved][string(key)] = nil
			continue
		}
		for n, target := range to {
			c.sets[setBackends][string(placeKey(x, uint32(n)))] = target
		}
		c.balance[x.chainName()] = balance{x, uint32(len(to))}
		c.sets[served][string(key)] = []byte(x.chainName())
	}
	c.frame = fmt.Sprint(p.subnet, p.mesh)
	c.fixed = func(b *builder) { outsideRules(b, p.subnet, p.mesh) }
	return c
}

// targets are where new flows to the port are led, in an order that is always the
// same.
func (s *service) targets(p port) (out [][]byte) {
	for _, e := range s.chosen(p) {
		out = append(out, append(e.addr.AsSlice(), portBytes(p.target)...))
	}
	return sorted(out)
}

func outsideRules(b *builder, subnet netip.Prefix, mesh netip.Addr) {
	for _, name := range []string{droppedSpoofed, droppedRefused, droppedForeign} {
		b.counter(name)
	}
	inSubnet := func(at uint32) match {
		return append(masked(at, subnet.Bits()), equals(subnet.Addr().AsSlice()...))
	}
	loopback := func(op func(...byte) expr.Any) match {
		return match{load(expr.PayloadBaseNetworkHeader, daddrAt, 1, 1), op(127)}
	}
	addrService := append(match{address(daddrAt, keyReg)}, service2(keyReg+1)...)
	targets := append(append(ctBits(expr.CtKeySTATUS, ctDNAT), addrService...), in(b.sets[setTargets]))

	// Before connections are looked at: tasks' addresses are on this way alone.
	raw := b.base("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	b.rule(raw, iif(NodeLink), ipv4, loopback(func(d ...byte) expr.Any { return equals(d...) }), drop(droppedSpoofed))
	b.rule(raw, iif(NodeLink), ipv4, inSubnet(saddrAt), accept)
	b.rule(raw, iif(NodeLink), drop(droppedSpoofed))
	b.rule(raw, ipv4, inSubnet(saddrAt), drop(droppedForeign))
	b.rule(raw, ipv4, inSubnet(daddrAt), drop(droppedForeign))

	publish := b.conn.AddChain(&nftables.Chain{Table: b.table, Name: "publish"})
	if mesh.IsValid() {
		b.rule(publish, match{address(daddrAt, 1), equals(mesh.AsSlice()...)}, match{&expr.Verdict{Kind: expr.VerdictReturn}})
	}
	b.rule(publish, addrService, match{leads(b.sets[setPublishedOn])})
	b.rule(publish, service2(keyReg), match{leads(b.sets[setPublished])})

	// 127.0.0.0/8 is for the node's own processes: a neighbour on the wire could
	// address a frame to it.
	outer := b.base("from_outside", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	b.rule(outer, notIif(NodeLink), ipv4, toLocal, loopback(func(d ...byte) expr.Any { return differs(d...) }), jump(publish))
	own := b.base("from_node", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	b.rule(own, ipv4, toLocal, jump(publish))

	// What means this node only on this node is not what a task could answer.
	source := b.base("source", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	b.rule(source, oif(NodeLink), ipv4, match{load(expr.PayloadBaseNetworkHeader, saddrAt, 1, 1), equals(127), &expr.Masq{}})
	if mesh.IsValid() {
		b.rule(source, oif(NodeLink), ipv4, match{address(saddrAt, 1), equals(mesh.AsSlice()...), &expr.Masq{}})
	}

	answers := state(ctEstablished | ctRelated)
	forward := b.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	output := b.base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter)
	b.rule(forward, iif(NodeLink), answers, accept)
	b.rule(forward, iif(NodeLink), drop(droppedRefused))
	for _, c := range []*nftables.Chain{forward, output} {
		b.rule(c, notOif(NodeLink), accept)
		b.rule(c, ipv4, targets, accept)
		b.rule(c, state(ctRelated), accept)
		b.rule(c, drop(droppedRefused))
	}
	input := b.base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter)
	b.rule(input, iif(NodeLink), answers, accept)
	b.rule(input, iif(NodeLink), drop(droppedRefused))
	for _, which := range []match{append(append(match{}, addrService...), in(b.sets[setUnservedOn])), append(service2(keyReg), in(b.sets[setUnserved]))} {
		b.rule(input, ipv4, which, match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_TCP), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
		b.rule(input, ipv4, which, match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
	}
}
