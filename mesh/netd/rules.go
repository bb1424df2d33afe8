package netd

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/ingress"
)

// ruleset is everything the two tables are made from.
type ruleset struct {
	endpoints []endpoint
	// opened are interfaces on which netd turned forwarding on; from them
	// packets go to containers only. bridges are the node's other bridges:
	// with br_netfilter their frames pass the forward hook too, from the
	// bridge to itself, and are none of netd's business.
	opened, bridges []string
	allowLinkLocal  bool
	managers        managers
}

func tables() (inet, bridge *nftables.Table) {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet},
		&nftables.Table{Name: tableName, Family: nftables.TableFamilyBridge}
}

// flows is the table that counts connections.
func flows() *nftables.Table {
	return &nftables.Table{Name: flowsName, Family: nftables.TableFamilyINet}
}

// builder queues one batch. Errors of the library are kept for the end.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	setID uint32
	err   error
}

func (b *builder) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return b.conn.AddChain(&nftables.Chain{Table: b.table, Name: name, Type: kind, Hooknum: hook, Priority: &priority, Policy: &policy})
}

func (b *builder) chain(name string) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Table: b.table, Name: name})
}

func (b *builder) rule(c *nftables.Chain, ms ...match) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: when(ms...)})
}

func (b *builder) set(s nftables.Set, elements []nftables.SetElement) *nftables.Set {
	b.setID++ // own numbers: the library's counter is shared and unguarded
	s.Table, s.ID = b.table, b.setID
	if err := b.conn.AddSet(&s, nil); err != nil && b.err == nil {
		b.err = err
	}
	for part := range slices.Chunk(elements, maxElementsPerMessage) {
		if err := b.conn.SetAddElements(&s, part); err != nil && b.err == nil {
			b.err = err
		}
	}
	return &s
}

var (
	typeAddr    = nftables.TypeIPAddr
	typeTarget  = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	typeService = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	typeAddrSvc = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	typePin     = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
	typePath    = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName)
)

// Parts of set keys, each padded to whole registers.

func addrKey(a netip.Addr) []byte { b := a.As4(); return b[:] }

func portKeyBytes(p uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, p), 0, 0) }

func serviceKey(p port) []byte {
	return append([]byte{p.proto(), 0, 0, 0}, portKeyBytes(p.published)...)
}

// build queues both tables as they are to be.
func (r ruleset) build(conn *nftables.Conn) error {
	inet, bridge := tables()
	b := &builder{conn: conn, table: conn.AddTable(inet)}
	r.inet(b)
	b.table = conn.AddTable(bridge)
	r.bridge(b)
	return b.err
}

// inet: routing, published ports and the node's own protection.
func (r ruleset) inet(b *builder) {
	var addresses, opened, bridges, anywhere, on, targets []nftables.SetElement
	for _, e := range r.endpoints {
		addr := e.addr.Addr()
		addresses = append(addresses, nftables.SetElement{Key: addrKey(addr)})
		known := map[port]bool{}
		for _, p := range e.ports {
			to := append(addrKey(addr), portKeyBytes(p.target)...)
			if p.host.IsUnspecified() {
				anywhere = append(anywhere, nftables.SetElement{Key: serviceKey(p), Val: to})
			} else {
				on = append(on, nftables.SetElement{Key: append(addrKey(p.host), serviceKey(p)...), Val: to})
			}
			target := port{udp: p.udp, published: p.target}
			if !known[target] { // two published ports may have one target
				known[target] = true
				targets = append(targets, nftables.SetElement{Key: append(addrKey(addr), serviceKey(target)...)})
			}
		}
	}
	for _, name := range r.opened {
		opened = append(opened, nftables.SetElement{Key: ifname(name)})
	}
	for _, name := range r.bridges {
		bridges = append(bridges, nftables.SetElement{Key: append(ifname(name), ifname(name)...)})
	}
	setAddresses := b.set(nftables.Set{Name: "addresses", KeyType: typeAddr}, addresses)
	setOpened := b.set(nftables.Set{Name: openedSet, KeyType: nftables.TypeIFName}, opened)
	setBridges := b.set(nftables.Set{Name: "bridges", KeyType: typePath, Concatenation: true}, bridges)
	setManagement := b.set(nftables.Set{Name: "management", KeyType: nftables.TypeInetService}, r.managers.everywhereKeys())
	setManagers := b.set(nftables.Set{Name: "managers", KeyType: typeTarget, Concatenation: true}, r.managers.atKeys())
	setTargets := b.set(nftables.Set{Name: "targets", KeyType: typeAddrSvc, Concatenation: true}, targets)
	mapAnywhere := b.set(nftables.Set{Name: "published", IsMap: true, KeyType: typeService, DataType: typeTarget, Concatenation: true}, anywhere)
	mapOn := b.set(nftables.Set{Name: "published_on", IsMap: true, KeyType: typeAddrSvc, DataType: typeTarget, Concatenation: true}, on)

	filter, nat := nftables.ChainTypeFilter, nftables.ChainTypeNAT

	// Before connection tracking: no container speaks for an address that is
	// not one's of this bridge, nor reaches 127.0.0.0/8, which route_localnet
	// would otherwise allow it to.
	raw := b.base("raw", filter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	b.rule(raw, notIif(bridgeName), accept())
	b.rule(raw, ipv4(), daddrStarts(127), drop())
	b.rule(raw, ipv4(), saddrIn(setAddresses), accept())
	b.rule(raw, drop())

	publish := b.chain("publish")
	b.rule(publish, match{loadPayload(expr.PayloadBaseNetworkHeader, 16, 4, keyReg)}, loadService(keyReg+1), dnatFrom(mapOn))
	b.rule(publish, loadService(keyReg), dnatFrom(mapAnywhere))

	// 127.0.0.0/8 is published to the node's processes alone: a neighbour on
	// the wire could otherwise address a frame to it.
	fromOutside := b.base("publish_outside", nat, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	b.rule(fromOutside, ipv4(), toNode(), daddrStartsNot(127), jump(publish))
	fromNode := b.base("publish_node", nat, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	b.rule(fromNode, ipv4(), toNode(), jump(publish))

	// A container's connection to a port that another one publishes. With
	// br_netfilter the kernel bridges it once its destination is translated;
	// the mark lets it pass between the ports then. No frame brings a mark
	// along: the kernel clears it between namespaces.
	hairpin := b.base("hairpin", filter, nftables.ChainHookPrerouting, -90)
	b.rule(hairpin, iif(bridgeName), ipv4(), ct(expr.CtKeySTATUS, ctDNAT), daddrIn(setAddresses), setMark(hairpinMark))

	masquerade := match{&expr.Masq{}}
	source := b.base("source", nat, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	b.rule(source, ipv4(), saddrIn(setAddresses), masquerade)
	b.rule(source, oif(bridgeName), ipv4(), saddrStarts(127), masquerade)

	published := append(append(ct(expr.CtKeySTATUS, ctDNAT), loadPayload(expr.PayloadBaseNetworkHeader, 16, 4, keyReg)),
		append(loadService(keyReg+1), in(setTargets))...)
	answers := func(c *nftables.Chain) {
		b.rule(c, state(ctEstablished), accept())
		b.rule(c, state(ctRelated), l4(unix.IPPROTO_ICMP), accept())
	}

	input := b.base("input", filter, nftables.ChainHookInput, *nftables.ChainPriorityFilter)
	b.rule(input, notIif(bridgeName), accept())
	answers(input)
	b.rule(input, drop())

	output := b.base("output", filter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter)
	b.rule(output, notOif(bridgeName), accept())
	answers(output)
	b.rule(output, ipv4(), published, accept())
	b.rule(output, drop())

	from := b.chain("from_containers")
	answers(from)
	b.rule(from, oif(bridgeName), ipv4(), published, accept())
	b.rule(from, oif(bridgeName), drop())
	b.rule(from, l4(unix.IPPROTO_TCP), dportIn(setManagement), drop())
	b.rule(from, l4(unix.IPPROTO_TCP), ipv4(), daddrPortIn(setManagers), drop())
	if !r.allowLinkLocal {
		b.rule(from, ipv4(), daddrStarts(169, 254), drop())
	}
	b.rule(from, state(ctNew), accept())
	b.rule(from, drop())

	to := b.chain("to_containers")
	answers(to)
	b.rule(to, ipv4(), published, accept())
	b.rule(to, drop())

	forward := b.base("forward", filter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	b.rule(forward, iif(bridgeName), jump(from))
	b.rule(forward, oif(bridgeName), jump(to))
	b.rule(forward, match{load(expr.MetaKeyIIFNAME, keyReg), load(expr.MetaKeyOIFNAME, keyReg+4), in(setBridges)}, accept())
	b.rule(forward, oif(ingress.NodeLink), accept()) // ingress says what passes there
	b.rule(forward, match{load(expr.MetaKeyIIFNAME, keyReg), in(setOpened)}, drop())
}

// openedSet doubles as netd's memory of the interfaces it opened.
const openedSet = "opened"

// bridge: each port speaks for one MAC and one address, and to nobody but the
// node. The port's name is part of the key, so a container cannot use what
// belongs to another. Anything but IPv4 and ARP ends here.
func (r ruleset) bridge(b *builder) {
	var pins []nftables.SetElement
	for _, e := range r.endpoints {
		key := append(ifname(portName(e.task)), e.mac[:]...)
		pins = append(pins, nftables.SetElement{Key: append(append(key, 0, 0), addrKey(e.addr.Addr())...)})
	}
	setPins := b.set(nftables.Set{Name: "pins", KeyType: typePin, Concatenation: true}, pins)

	const macReg, addrReg = keyReg + 4, keyReg + 6
	link, network := expr.PayloadBaseLLHeader, expr.PayloadBaseNetworkHeader
	etherType := func(t uint16) match {
		return match{loadPayload(link, 12, 2, 1), equals(binary.BigEndian.AppendUint16(nil, t))}
	}
	pinned := func(mac, addr expr.Any) match {
		return match{load(expr.MetaKeyIIFNAME, keyReg), mac, addr, in(setPins)}
	}
	frameMAC := loadPayload(link, 6, 6, macReg)
	sender := loadPayload(network, 14, 4, addrReg)

	guard := b.base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -350)
	b.rule(guard, notIifPort(), accept())
	b.rule(guard, etherType(unix.ETH_P_IP), pinned(frameMAC, loadPayload(network, 12, 4, addrReg)), accept())
	// Ethernet and IPv4 in the header, then the sender it claims, then the
	// frame it came in.
	b.rule(guard, etherType(unix.ETH_P_ARP),
		match{loadPayload(network, 0, 6, 1), equals([]byte{0, 1, 8, 0, 6, 4})},
		pinned(loadPayload(network, 8, 6, macReg), sender), pinned(frameMAC, sender), accept())
	b.rule(guard, drop())

	between := b.base("between", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	b.rule(between, iifPort(), marked(hairpinMark), accept())
	b.rule(between, iifPort(), drop())
	b.rule(between, oifPort(), drop())
}

// same reports whether both rulesets are the same.
func (r ruleset) same(o ruleset) bool {
	return r.allowLinkLocal == o.allowLinkLocal && r.managers.same(o.managers) && slices.Equal(r.opened, o.opened) && slices.Equal(r.bridges, o.bridges) &&
		slices.EqualFunc(r.endpoints, o.endpoints, endpoint.same)
}
