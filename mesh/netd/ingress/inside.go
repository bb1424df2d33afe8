package ingress

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// The tables in the namespace of the ingress networks: who may send what, and the
// way back.

var insideTables = []*nftables.Table{{Name: tableName, Family: nftables.TableFamilyINet}, {Name: tableName, Family: nftables.TableFamilyNetdev}}

const (
	setPins    = "pins"    // which address comes with which MAC from where
	setEntries = "entries" // which entry nodes a network has, and the mark of each
	setServed  = "served"  // what entry nodes may ask of tasks here
	setNodes   = "nodes"   // MAC of the entry node by its number
)

func sorted(keys [][]byte) [][]byte {
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

func jump(c *nftables.Chain) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}

// fromKey is from(true), or from(false) where there is no address.
func fromKey(link string, mac [6]byte, a netip.Addr) string {
	k := append(append(ifname(link), mac[:]...), 0, 0)
	if a.IsValid() {
		k = append(k, a.AsSlice()...)
	}
	return string(k)
}

// inside is what stands in the namespace. devices are the VXLAN devices that are
// there.
func (p *plan) inside(m *marks, devices map[string]bool) *content {
	c := &content{tables: insideTables, hooks: map[string]bool{}, sets: map[string]elements{
		setPins: {}, setEntries: {}, setServed: {}, setTargets: {}, setNodes: {}}}
	inet, netdev := insideTables[0], insideTables[1]
	c.specs = []nftables.Set{
		{Table: inet, Name: setPins, KeyType: typeLinkFrom, Concatenation: true},
		{Table: inet, Name: setEntries, IsMap: true, KeyType: typeLinkMAC, DataType: nftables.TypeMark, Concatenation: true},
		{Table: inet, Name: setServed, KeyType: typeLinkSvc, Concatenation: true},
		{Table: inet, Name: setTargets, KeyType: typeAddrSvc, Concatenation: true},
		{Table: netdev, Name: setNodes, IsMap: true, KeyType: nftables.TypeMark, DataType: nftables.TypeEtherAddr},
	}
	for _, s := range p.services {
		asks, asked := p.uplink(s)
		device := uplinkName(s.vni)
		if asked {
			for a := range p.entries {
				c.sets[setPins][fromKey(device, routerMAC(a), nodeEnd(p.subnet, a))] = nil
				c.sets[setEntries][fromKey(device, routerMAC(a), netip.Addr{})] = native32(m.of(s.vni, a))
				mac := routerMAC(a)
				c.sets[setNodes][string(native32(uint32(m.node(a))))] = mac[:]
			}
			if devices[device] {
				c.hooks[device] = true
			}
		}
		for _, e := range s.endpoints {
			switch {
			case e.isLocal():
				c.sets[setPins][fromKey(portName(e.task), sandboxMAC(e.addr), e.addr)] = nil
			case asks:
				c.sets[setPins][fromKey(device, routerMAC(e.node), e.addr)] = nil
			}
			for _, x := range s.ports {
				to := append(e.addr.AsSlice(), serviceKey(x.proto(), x.target)...)
				if p.entry {
					c.sets[setTargets][string(to)] = nil
				}
				if asked && e.isLocal() {
					c.sets[setServed][string(append(ifname(device), to...))] = nil
				}
			}
		}
	}
	own := nodeEnd(p.subnet, p.mesh)
	c.frame = fmt.Sprint(p.subnet, own)
	c.fixed = func(b *builder) { insideRules(b, p.subnet, own) }
	return c
}

func insideRules(b *builder, subnet netip.Prefix, own netip.Addr) {
	for _, name := range []string{droppedSpoofed, droppedRefused} {
		b.counter(name)
	}
	high := upper(subnet)
	fromSubnet := func(op func(...byte) expr.Any) match {
		return append(masked(saddrAt, subnet.Bits()), op(subnet.Addr().AsSlice()...))
	}
	isNot := func(d ...byte) expr.Any { return differs(d...) }
	is := func(d ...byte) expr.Any { return equals(d...) }
	setMark := match{&expr.Ct{Register: dataReg, SourceRegister: true, Key: expr.CtKeyMARK}}
	marked := match{&expr.Ct{Register: 1, Key: expr.CtKeyMARK}, differs(0, 0, 0, 0)}

	// Before connections are looked at: nobody speaks for another. An entry node
	// speaks for its clients, and no client has an address of the subnet.
	raw := b.base("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	b.rule(raw, iif(insideLink), ipv4, fromSubnet(is), match{address(saddrAt, 1), differs(own.AsSlice()...)}, drop(droppedSpoofed))
	b.rule(raw, iif(insideLink), ipv4, accept)
	b.rule(raw, ipv4, from(true), match{in(b.sets[setPins])}, accept)
	b.rule(raw, ipv4, fromSubnet(isNot), from(false), match{says(b.sets[setEntries])}, accept)
	b.rule(raw, drop(droppedSpoofed))

	// A flow goes back to the entry node that it came from.
	mark := b.base("mark", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle)
	b.rule(mark, ipv4, state(ctNew), fromSubnet(isNot), from(false), match{says(b.sets[setEntries])}, setMark)
	b.rule(mark, ipv4, state(ctNew), masked(saddrAt, high.Bits()), match{equals(high.Addr().AsSlice()...)}, from(false), match{says(b.sets[setEntries])}, setMark)
	b.rule(mark, ipv4, replies, marked, match{&expr.Ct{Register: 1, Key: expr.CtKeyMARK}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}})

	forward := b.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	b.rule(forward, state(ctEstablished|ctRelated), accept)
	target := append(match{address(daddrAt, keyReg)}, service2(keyReg+1)...)
	b.rule(forward, state(ctNew), iif(insideLink), ipv4, target, match{in(b.sets[setTargets])}, accept)
	served := append(match{meta(expr.MetaKeyIIFNAME, keyReg), address(daddrAt, keyReg+4)}, service2(keyReg+5)...)
	b.rule(forward, state(ctNew), ipv4, marked, served, match{in(b.sets[setServed])}, accept)
	b.rule(forward, drop(droppedRefused))

	// The namespace itself says what does not fit, and no more.
	input := b.base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter)
	b.rule(input, drop(droppedRefused))
	output := b.base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter)
	b.rule(output, ipv4, isICMP, accept)
	b.rule(output, drop(droppedRefused))
}
