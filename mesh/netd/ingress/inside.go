package ingress

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The tables in the namespace of the ingress networks: who may send what, and the
// way back.

var insideTables = []*nftables.Table{{Name: tableName, Family: nftables.TableFamilyINet}, {Name: tableName, Family: nftables.TableFamilyNetdev}}

const (
	setPins    = "pins"    // which address comes with which MAC from where
	setEntries = "entries" // which entry nodes a network has, and the mark of each
	setOpeners = "openers" // the same, to be looked up with the mark of a flow
	setServed  = "served"  // what entry nodes may ask of tasks here
	setNodes   = "nodes"   // MAC of the entry node by its number
)

func sorted(keys [][]byte) [][]byte {
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

// beforeFragments: the kernel puts them together at -400, whoever sent them.
var beforeFragments = nftables.ChainPriorityRef(-450)

func jump(c *nftables.Chain) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}

// fromKey is fromAddress, or fromNode where there is no address.
func fromKey(link string, mac [6]byte, a netip.Addr) string {
	k := append(append(ifname(link), mac[:]...), 0, 0)
	if a.IsValid() {
		k = append(k, a.AsSlice()...)
	}
	return string(k)
}

// inside is what stands in the namespace. devices are the VXLAN devices that are
// there.
func (p *plan) inside(mem *memory[part], m *marks, devices map[string]bool) *content {
	inet, netdev := insideTables[0], insideTables[1]
	c := &content{tables: insideTables, parts: make(map[string]*part), frame: fmt.Sprint(p.subnets, p.mesh, p.poolsKey, p.kernel)}
	c.specs = []nftables.Set{
		{Table: inet, Name: setEntries, IsMap: true, KeyType: typeLinkMAC, DataType: nftables.TypeMark, Concatenation: true},
		{Table: inet, Name: setOpeners, KeyType: typeOpener, Concatenation: true},
		{Table: netdev, Name: setNodes, IsMap: true, KeyType: nftables.TypeMark, DataType: nftables.TypeEtherAddr},
	}
	for _, f := range p.families() {
		for name, key := range map[string]nftables.SetDatatype{setPins: f.from, setServed: f.linkSvc, setTargets: f.addrSvc} {
			c.specs = append(c.specs, nftables.Set{Table: inet, Name: name + f.suffix, KeyType: key, Concatenation: true})
		}
	}
	slices.SortFunc(c.specs, func(a, b nftables.Set) int { return strings.Compare(a.Name, b.Name) })
	made := mem.recall(c.frame)
	for _, s := range p.services {
		device := uplinkName(s.vni)
		c.parts[s.id] = made(s, devices[device], func() *part { return p.insideOf(s, m, device, devices[device]) })
	}
	// Entry nodes have one number for all services.
	nodes := newPart()
	for a, n := range m.nodes.of {
		mac := routerMAC(a)
		nodes.put(setNodes, native32(uint32(n)), mac[:])
	}
	c.parts[""] = nodes
	c.fixed = func(b *builder) { p.insideRules(b) }
	return c
}

func (p *plan) insideOf(s *service, m *marks, device string, there bool) *part {
	to := newPart()
	asks, asked := p.uplink(s)
	if asked {
		for a := range s.entries {
			from, mark := []byte(fromKey(device, routerMAC(a), netip.Addr{})), native32(m.of(s.vni, a))
			to.put(setEntries, from, mark)
			to.put(setOpeners, append(from, mark...), nil)
		}
		if there {
			to.hooks[device] = true
		}
	}
	for _, f := range p.families() {
		p.passes(f, s, to, asks, asked)
	}
	return to
}

// passes says who may send what of a service.
func (p *plan) passes(f *family, s *service, to *part, asks, asked bool) {
	device, pins := uplinkName(s.vni), setPins+f.suffix
	pin := func(link string, mac [6]byte, a netip.Addr) { to.put(pins, []byte(fromKey(link, mac, a)), nil) }
	if asked {
		for a := range s.entries {
			pin(device, routerMAC(a), nodeEnd(p.subnet(f), a))
		}
	}
	for _, e := range s.endpoints {
		addr := e.at(f)
		if !addr.IsValid() {
			continue
		}
		switch {
		case e.isLocal():
			pin(portName(e.task), e.mac(), addr)
		case asks:
			pin(device, routerMAC(e.node), addr)
		}
		for _, x := range s.ports {
			if familyOf(x.Host) != f {
				continue
			}
			key := []byte(targetKey(addr, x.proto(), x.target))
			if s.entry {
				to.put(setTargets+f.suffix, key, nil)
			}
			if asked && e.isLocal() {
				to.put(setServed+f.suffix, append(ifname(device), key...), nil)
			}
		}
	}
}

func (p *plan) insideRules(b *builder) {
	for _, name := range []string{droppedSpoofed, droppedRefused} {
		b.counter(name)
	}
	setMark := match{&expr.Ct{Register: dataReg, SourceRegister: true, Key: expr.CtKeyMARK}}
	marked := match{&expr.Ct{Register: 1, Key: expr.CtKeyMARK}, differs(0, 0, 0, 0)}
	entered := append(fromNode(), says(b.sets[setEntries]))

	// Before fragments are put together, and connections looked at: nobody speaks
	// for another. An entry node speaks for its clients, and no client has an address
	// of the subnet, nor any other that no client has.
	raw := b.base("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *beforeFragments)
	for _, f := range p.families() {
		subnet, own := p.subnet(f), nodeEnd(p.subnet(f), p.mesh)
		never := p.neverSet(b, f)
		client := slices.Concat(f.is(), f.within(f.saddr, subnet, isNot), match{f.address(f.saddr, 1), notIn(never)})
		b.rule(raw, iif(insideLink), f.is(), f.within(f.saddr, single(own), is), accept)
		b.rule(raw, iif(insideLink), client, accept)
		b.rule(raw, iif(insideLink), f.is(), drop(droppedSpoofed))
		b.rule(raw, f.is(), f.fromAddress(), match{in(b.sets[setPins+f.suffix])}, accept)
		b.rule(raw, client, entered, accept)
	}
	b.rule(raw, drop(droppedSpoofed))

	// A flow goes back to the entry node that it came from.
	mark := b.base("mark", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle)
	for _, f := range p.families() {
		b.rule(mark, f.is(), state(ctNew), f.within(f.saddr, p.subnet(f), isNot), entered, setMark)
		b.rule(mark, f.is(), state(ctNew), f.within(f.saddr, upper(p.subnet(f)), is), entered, setMark)
	}
	// And is that entry node's alone. Another one could otherwise speak in it, and one
	// that opens it first, for a client of another, would hear the answers to that.
	b.rule(mark, iifBegins(uplinkPrefix), requests, append(fromNode(), &expr.Ct{Key: expr.CtKeyMARK, Register: keyReg + 6}, notIn(b.sets[setOpeners])), drop(droppedRefused))
	b.rule(mark, replies, marked, match{&expr.Ct{Register: 1, Key: expr.CtKeyMARK}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}})

	p.boundEntries(b)
	forward := b.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	// Tasks begin nothing here, also not in a flow that they never answered: it may come
	// from a port that its node serves.
	b.rule(forward, iifBegins(portPrefix), state(ctEstablished|ctRelated), firstOfTCP(), drop(droppedRefused))
	b.rule(forward, state(ctEstablished|ctRelated), accept)
	for _, f := range p.families() {
		b.rule(forward, state(ctNew), iif(insideLink), f.is(), f.toService(keyReg), match{in(b.sets[setTargets+f.suffix])}, accept)
		served := append(match{meta(expr.MetaKeyIIFNAME, keyReg)}, f.toService(keyReg+4)...)
		b.rule(forward, state(ctNew), f.is(), marked, served, match{in(b.sets[setServed+f.suffix])}, accept)
	}
	// A task that has no other way out hears at once that this is none.
	b.rule(forward, iifBegins(portPrefix), match{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: droppedRefused},
		&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_NO_ROUTE}})
	b.rule(forward, drop(droppedRefused))

	// The namespace itself says what does not fit, and no more.
	input := b.base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter)
	b.rule(input, drop(droppedRefused))
	output := b.base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter)
	for _, f := range p.families() {
		b.rule(output, f.is(), f.isError(), accept)
	}
	b.rule(output, asksAround, quietly)
	b.rule(output, drop(droppedRefused))
}
