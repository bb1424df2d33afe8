package ingress

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
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
	droppedClaimed = "claimed" // a client who claims an address that no client has
	droppedRouted  = "routed"  // what this node would not route before netd did
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
	name += familyOf(p.Host).suffix
	if p.Host.IsUnspecified() {
		return fmt.Sprintf("%s_%d", name, p.Number)
	}
	return fmt.Sprintf("%s_%d_%s", name, p.Number, strings.ReplaceAll(p.Host.String(), ":", "_"))
}

// outside is the table of an entry node that answers on these ports.
func (p *plan) outside(m *memory[part], published map[port]*service, at sight) *content {
	c := &content{tables: outsideTables, parts: make(map[string]*part), frame: fmt.Sprint(p.subnets, p.mesh, at, p.poolsKey, p.kernel)}
	for _, f := range p.families() {
		c.specs = append(c.specs, f.outsideSets()...)
	}
	made := m.recall(c.frame)
	for _, s := range p.services {
		// Not all ports of a service need be free.
		var which [2 * maxServicePorts / 64]uint64
		for n, x := range s.ports {
			if published[x] == s {
				which[n/64] |= 1 << (n % 64)
			}
		}
		c.parts[s.id] = made(s, which, func() *part { return s.outside(published) })
	}
	c.fixed = func(b *builder) { p.outsideRules(b, at) }
	return c
}

// outside says where the service's ports lead.
func (s *service) outside(published map[port]*service) *part {
	to := newPart()
	for _, x := range s.ports {
		if published[x] != s {
			continue
		}
		f := familyOf(x.Host)
		for _, e := range s.endpoints {
			if a := e.at(f); a.IsValid() {
				to.put(setTargets+f.suffix, []byte(targetKey(a, x.proto(), x.target)), nil)
			}
		}
		key, served, unserved := serviceKey(x.proto(), x.Number), setPublished, setUnserved
		if !x.Host.IsUnspecified() {
			key, served, unserved = append(x.Host.AsSlice(), key...), setPublishedOn, setUnservedOn
		}
		targets := s.targets(x)
		if len(targets) == 0 {
			to.put(unserved+f.suffix, key, nil)
			continue
		}
		for n, target := range targets {
			to.put(setBackends+f.suffix, placeKey(x, uint32(n)), target)
		}
		to.balance[x.chainName()] = balance{x, uint32(len(targets))}
		to.put(served+f.suffix, key, []byte(x.chainName()))
	}
	return to
}

func (f *family) outsideSets() []nftables.Set {
	t := outsideTables[0]
	return []nftables.Set{
		{Table: t, Name: setPublished + f.suffix, IsMap: true, KeyType: typeService, DataType: nftables.TypeVerdict, Concatenation: true},
		{Table: t, Name: setPublishedOn + f.suffix, IsMap: true, KeyType: f.addrSvc, DataType: nftables.TypeVerdict, Concatenation: true},
		{Table: t, Name: setUnserved + f.suffix, KeyType: typeService, Concatenation: true},
		{Table: t, Name: setUnservedOn + f.suffix, KeyType: f.addrSvc, Concatenation: true},
		{Table: t, Name: setBackends + f.suffix, IsMap: true, KeyType: f.place, DataType: f.target, Concatenation: true},
		{Table: t, Name: setTargets + f.suffix, KeyType: f.addrSvc, Concatenation: true},
	}
}

// targets are where new flows to the port are led, in an order that is always the
// same.
func (s *service) targets(p port) (out [][]byte) {
	for _, e := range s.chosen(p) {
		out = append(out, append(e.at(familyOf(p.Host)).AsSlice(), portBytes(p.target)...))
	}
	return sorted(out)
}

func (p *plan) outsideRules(b *builder, at sight) {
	for _, name := range []string{droppedSpoofed, droppedRefused, droppedForeign, droppedClaimed} {
		b.counter(name)
	}
	if at.guard {
		b.counter(droppedRouted) // the next process sees by it that there was a guard
	}
	// Before connections are looked at: tasks' addresses are on this way alone.
	raw := b.base("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *beforeFragments)
	for _, f := range p.families() {
		b.rule(raw, iif(NodeLink), f.is(), f.within(f.daddr, f.loopback(), is), drop(droppedSpoofed))
		b.rule(raw, iif(NodeLink), f.is(), f.within(f.saddr, p.subnet(f), is), accept)
	}
	b.rule(raw, iif(NodeLink), drop(droppedSpoofed))
	for _, f := range p.families() {
		b.rule(raw, f.is(), f.within(f.saddr, p.subnet(f), is), drop(droppedForeign))
		b.rule(raw, f.is(), f.within(f.daddr, p.subnet(f), is), drop(droppedForeign))
	}
	p.askAgain(b)
	p.boundClients(b)
	// What tasks answer has passed; without the mark it goes no further (unjudged.go).
	judged := b.base("judged", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, kernel.JudgedAt)
	b.rule(judged, iif(NodeLink), kernel.Judged(kernel.JudgedByIngress))
	outer := b.base("from_outside", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	own := b.base("from_node", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	source := b.base("source", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	for _, f := range p.families() {
		publish := b.conn.AddChain(&nftables.Chain{Table: b.table, Name: "publish" + f.suffix})
		for _, not := range p.notPublished(f) {
			b.rule(publish, f.within(f.daddr, not, is), match{&expr.Verdict{Kind: expr.VerdictReturn}})
		}
		b.rule(publish, f.toService(keyReg), match{leads(b.sets[setPublishedOn+f.suffix])})
		b.rule(publish, service2(keyReg), match{leads(b.sets[setPublished+f.suffix])})
		// 127.0.0.0/8 is for the node's own processes: a neighbour on the wire could
		// address a frame to it.
		b.rule(outer, notIif(NodeLink), f.is(), toLocal, f.within(f.daddr, f.loopback(), isNot), jump(publish))
		b.rule(own, f.is(), toLocal, jump(publish))
		// What means this node only on this node is not what a task could answer.
		b.rule(source, oif(NodeLink), f.is(), f.within(f.saddr, f.loopback(), is), match{&expr.Masq{}})
	}
	if p.mesh.IsValid() {
		b.rule(source, oif(NodeLink), four.is(), four.within(four.saddr, single(p.mesh), is), match{&expr.Masq{}})
	}

	claims := p.claims(b, at, source)

	answers := state(ctEstablished | ctRelated)
	forward := b.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	output := b.base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter)
	b.rule(forward, iif(NodeLink), firstOfTCP(), drop(droppedRefused)) // no answer (inside.go)
	b.rule(forward, iif(NodeLink), answers, accept)
	b.rule(forward, iif(NodeLink), drop(droppedRefused))
	if at.guard {
		b.rule(forward, six.is(), notOif(NodeLink), drop(droppedRouted))
	}
	b.rule(output, oif(NodeLink), asksAround, quietly)
	for _, c := range []*nftables.Chain{forward, output} {
		b.rule(c, notOif(NodeLink), accept)
		if c == forward {
			b.rule(c, jump(claims))
		}
		for _, f := range p.families() {
			b.rule(c, f.is(), ctBits(expr.CtKeySTATUS, ctDNAT), f.toService(keyReg), match{in(b.sets[setTargets+f.suffix])}, accept)
		}
		b.rule(c, state(ctRelated), accept)
		b.rule(c, drop(droppedRefused))
	}
	input := b.base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter)
	b.rule(input, iif(NodeLink), answers, accept)
	b.rule(input, iif(NodeLink), drop(droppedRefused))
	for _, f := range p.families() {
		for _, which := range []match{append(f.toService(keyReg), in(b.sets[setUnservedOn+f.suffix])), append(service2(keyReg), in(b.sets[setUnserved+f.suffix]))} {
			b.rule(input, f.is(), which, match{meta(expr.MetaKeyL4PROTO, 1), equals(unix.IPPROTO_TCP), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
			b.rule(input, f.is(), which, match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
		}
	}
}

// notPublished are addresses of the node that ports are not answered on: that in
// the mesh, and those that mean a machine on one wire alone, as the answer comes
// from another.
func (p *plan) notPublished(f *family) (out []netip.Prefix) {
	switch {
	case f == six:
		return []netip.Prefix{netip.MustParsePrefix("fe80::/10")}
	case p.mesh.IsValid():
		return []netip.Prefix{single(p.mesh)}
	}
	return nil
}
