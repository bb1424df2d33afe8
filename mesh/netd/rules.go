package netd

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/mesh/netd/ingress"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/pools"
)

// ruleset is everything the two tables are made from.
type ruleset struct {
	subnet    netip.Prefix // of the bridge
	endpoints []endpoint
	// opened are interfaces on which netd turned forwarding on; from them
	// packets go to containers only. bridges are the node's other bridges:
	// with br_netfilter their frames pass the forward hook too, from the
	// bridge to itself, and are none of netd's business.
	opened, bridges []string
	allowLinkLocal  bool
	managers        managers
	pools           pools.Pools
	lans            []pools.LAN // that have something in common with pools
	reach           reach
	strayed         uint64          // what the counter begins with
	mayReach        []portname.Port // of nodes, whoever publishes them or not; of the configuration
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
	batch *kernel.Batch
	conn  *nftables.Conn // its words
	table *nftables.Table
	setID uint32
	err   error
}

func newBuilder(batch *kernel.Batch, t *nftables.Table) *builder {
	return &builder{batch: batch, conn: batch.Words(), table: batch.Words().AddTable(t)}
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
	b.keep(b.conn.AddSet(&s, nil))
	list := make([]kernel.Element, len(elements))
	for i, e := range elements {
		list[i] = kernel.Element{Key: string(e.Key), Val: string(e.Val)}
	}
	b.keep(b.batch.Add(&s, list))
	return &s
}

func (b *builder) keep(err error) {
	if b.err == nil {
		b.err = err
	}
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
func (r ruleset) build(batch *kernel.Batch) error {
	inet, bridge := tables()
	b := newBuilder(batch, inet)
	r.inet(b)
	b.table = b.conn.AddTable(bridge)
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
	setNodes := b.set(nftables.Set{Name: "nodes", KeyType: typeAddr}, r.reach.nodeKeys())
	setTargets := b.set(nftables.Set{Name: "targets", KeyType: typeAddrSvc, Concatenation: true}, targets)
	mapAnywhere := b.set(nftables.Set{Name: "published", IsMap: true, KeyType: typeService, DataType: typeTarget, Concatenation: true}, anywhere)
	mapOn := b.set(nftables.Set{Name: "published_on", IsMap: true, KeyType: typeAddrSvc, DataType: typeTarget, Concatenation: true}, on)

	filter, nat := nftables.ChainTypeFilter, nftables.ChainTypeNAT

	// Before connection tracking: no container speaks for an address that is
	// not one's of this bridge, nor reaches 127.0.0.0/8, which route_localnet
	// would otherwise allow it to. And nobody elsewhere speaks for a container or
	// is on the bridge's subnet: to its addresses the node leads by itself.
	raw := b.base("raw", filter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	outside := b.chain("from_elsewhere")
	b.rule(outside, iif("lo"), accept())
	if r.subnet.IsValid() { // otherwise nothing is known of a bridge yet
		b.rule(outside, ipv4(), saddrWithin(r.subnet), drop())
		b.rule(outside, ipv4(), daddrWithin(r.subnet), drop())
	}
	b.rule(outside, accept())
	b.rule(raw, notIif(bridgeName), jump(outside))
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

	// What containers send has passed what is before; without the mark it goes no
	// further (kernel.Unjudged). What is sent to them needs none: it was translated.
	judged := b.base("judged", filter, nftables.ChainHookPrerouting, kernel.JudgedAt)
	b.rule(judged, iif(bridgeName), kernel.Judged(kernel.JudgedByBridge))

	masquerade := match{&expr.Masq{}}
	source := b.base("source", nat, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	// Who is called from here may be an accomplice on another node, who goes on to
	// send to where the call came from: to a port at which no node serves anything.
	b.keep(b.batch.MasqueradeTo(source, firstOut, lastOut, when(ipv4(), saddrIn(setAddresses), daddrIn(setNodes))...))
	b.rule(source, ipv4(), saddrIn(setAddresses), masquerade)
	b.rule(source, oif(bridgeName), ipv4(), saddrStarts(127), masquerade)
	claims := r.claims(b, source)

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

	// A first packet of TCP is no answer, whatever flow it has the ports of: one that
	// ended, or one that was begun from outside and never answered. In both the kernel
	// goes along with it.
	from := b.chain("from_containers")
	begun := b.chain("from_containers_begun")
	b.rule(from, l4(unix.IPPROTO_TCP), tcpFlags(tcpSYN|tcpACK, tcpSYN), jump(begun))
	answers(from)
	b.rule(from, jump(begun))
	b.rule(begun, oif(bridgeName), ipv4(), published, accept())
	b.rule(begun, oif(bridgeName), drop())
	b.rule(begun, l4(unix.IPPROTO_TCP), dportIn(setManagement), drop())
	b.rule(begun, l4(unix.IPPROTO_TCP), ipv4(), daddrPortIn(setManagers), drop())
	if !r.allowLinkLocal {
		b.rule(begun, ipv4(), daddrStarts(169, 254), drop())
	}
	r.toNodes(b, begun, setNodes)
	b.rule(begun, state(ctNew|ctEstablished), accept())
	b.rule(begun, drop())

	to := b.chain("to_containers")
	answers(to)
	b.rule(to, jump(claims))
	b.rule(to, ipv4(), published, accept())
	b.rule(to, drop())

	forward := b.base("forward", filter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	b.rule(forward, iif(bridgeName), jump(from))
	b.rule(forward, oif(bridgeName), jump(to))
	b.rule(forward, match{load(expr.MetaKeyIIFNAME, keyReg), load(expr.MetaKeyOIFNAME, keyReg+4), in(setBridges)}, accept())
	b.rule(forward, oif(ingress.NodeLink), accept()) // ingress says what passes there
	b.rule(forward, match{load(expr.MetaKeyIIFNAME, keyReg), in(setOpened)}, drop())
}

// claims makes the chain that judges a client's address before he is led to a
// published port: see package ingress, which does the same where ports are
// answered for the whole cluster. Hosts of a LAN that lies in a pool are led in as
// the node itself.
func (r ruleset) claims(b *builder, source *nftables.Chain) *nftables.Chain {
	c := b.chain("claims")
	for _, kind := range []uint32{unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_MULTICAST} {
		b.rule(c, ipv4(), sourceIs(kind), drop())
	}
	for _, l := range r.lans {
		if l.Prefix.Addr().Is4() {
			b.rule(c, iif(l.Link), ipv4(), saddrWithin(l.Prefix), match{&expr.Verdict{Kind: expr.VerdictReturn}})
		}
	}
	b.setID++
	never := &nftables.Set{Table: b.table, Name: "never", KeyType: typeAddr, ID: b.setID}
	b.keep(r.pools.And(pools.Nobodys...).Add(b.conn, never, true))
	b.rule(c, ipv4(), saddrIn(never), drop())
	b.rule(source, oif(bridgeName), ipv4(), saddrIn(never), match{&expr.Masq{}})
	return c
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
	return r.subnet == o.subnet && slices.Equal(r.pools, o.pools) && slices.Equal(r.lans, o.lans) && r.allowLinkLocal == o.allowLinkLocal && r.reach.same(o.reach) && r.managers.same(o.managers) && slices.Equal(r.opened, o.opened) && slices.Equal(r.bridges, o.bridges) &&
		slices.EqualFunc(r.endpoints, o.endpoints, endpoint.same)
}
