package netd

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// reach is what containers reach of the cluster's nodes. Nothing of their own node
// but published ports answers them (chain input); other nodes would take them for
// neighbours on the wire, as what leaves has the node's address. So it is held
// back where it leaves: what goes to a node is for a published port, or is dropped
// and counted. Echo requests are, too: their own node does not answer those either.
//
// Each list is in order and without duplicates. Containers have no IPv6.
type reach struct {
	nodes     []netip.Addr
	published []portname.Port
	// resolvers answer on port 53, nodes or not.
	resolvers []netip.Addr
}

// parseReach checks what redoubtd says of it.
func parseReach(m *netdpb.Reach) (r reach, err error) {
	if len(m.GetNodes()) > maxNodes || len(m.GetPublished()) > portname.Max || len(m.GetResolvers()) > maxResolvers {
		return r, fmt.Errorf("%d nodes, %d published ports and %d resolvers exceed the limits of %d, %d and %d",
			len(m.GetNodes()), len(m.GetPublished()), len(m.GetResolvers()), maxNodes, portname.Max, maxResolvers)
	}
	if r.nodes, err = parseHosts("node", m.GetNodes()); err != nil {
		return reach{}, err
	}
	if r.resolvers, err = parseHosts("resolver", m.GetResolvers()); err != nil {
		return reach{}, err
	}
	for _, s := range m.GetPublished() {
		p, err := portname.Parse(s)
		if err != nil {
			return reach{}, fmt.Errorf("published port: %w", err)
		}
		r.published = append(r.published, p)
	}
	slices.SortFunc(r.published, portname.Port.Compare)
	r.published = slices.Compact(r.published)
	return r, nil
}

// parseHosts leaves out those of IPv6.
func parseHosts(what string, texts []string) (out []netip.Addr, err error) {
	for _, s := range texts {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return nil, fmt.Errorf("%s %.60q is no address", what, s)
		}
		if a.Is4() {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

func (r reach) same(o reach) bool {
	return slices.Equal(r.nodes, o.nodes) && slices.Equal(r.published, o.published) && slices.Equal(r.resolvers, o.resolvers)
}

func (r reach) nodeKeys() (out []nftables.SetElement) {
	for _, a := range r.nodes {
		out = append(out, nftables.SetElement{Key: addrKey(a)})
	}
	return out
}

// strayedCounter counts what is dropped.
const strayedCounter = "strayed"

// toNodes makes the chain that judges what containers send to nodes, and leads
// there from their way out. Only what begins a flow, or a connection
// of TCP in one that was there, gets this far.
func (r ruleset) toNodes(b *builder, from *nftables.Chain, nodes *nftables.Set) {
	var open, resolvers []nftables.SetElement
	all := slices.Concat(r.reach.published, r.mayReach)
	slices.SortFunc(all, portname.Port.Compare)
	for _, p := range slices.Compact(all) {
		open = append(open, nftables.SetElement{Key: serviceKey(port{udp: p.UDP, published: p.Number})})
	}
	for _, a := range r.reach.resolvers {
		for _, udp := range []bool{false, true} {
			resolvers = append(resolvers, nftables.SetElement{Key: append(addrKey(a), serviceKey(port{udp: udp, published: 53})...)})
		}
	}
	setOpen := b.set(nftables.Set{Name: "open_on_nodes", KeyType: typeService, Concatenation: true}, open)
	setResolvers := b.set(nftables.Set{Name: "resolvers", KeyType: typeAddrSvc, Concatenation: true}, resolvers)
	b.conn.AddObj(&nftables.NamedObj{Table: b.table, Name: strayedCounter, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{Packets: r.strayed}})

	c := b.chain("to_nodes")
	back := match{&expr.Verdict{Kind: expr.VerdictReturn}}
	ported := func(ms ...match) {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} { // of others, what stands there is no port
			b.rule(c, append([]match{l4(proto)}, append(ms, back)...)...)
		}
	}
	ported(loadService(keyReg), match{in(setOpen)})
	ported(match{loadPayload(expr.PayloadBaseNetworkHeader, 16, 4, keyReg)}, loadService(keyReg+1), match{in(setResolvers)})
	b.rule(c, match{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: strayedCounter}}, drop())
	b.rule(from, ipv4(), daddrIn(nodes), jump(c))
}

// strayedNow is how many packets were dropped. A table is replaced with each change,
// and the next one goes on from there; what is counted between a look and that is
// lost. n.mu is held, and n.nf open.
func (n *Node) strayedNow() uint64 {
	inet, _ := tables()
	counters, err := n.nf.Counters(inet)
	if err != nil {
		n.log.Debug("what containers sent to nodes was not counted", "err", err)
	}
	n.strayed = max(n.strayed, counters[strayedCounter]) // less: somebody took the table away
	return n.strayed
}

// strayedTold is strayedNow for who asks. n.mu is held.
func (n *Node) strayedTold() (packets uint64) {
	if err := n.onNode(func(*netlink.Handle) error {
		packets = n.strayedNow()
		return nil
	}); err != nil {
		return n.strayed
	}
	return packets
}
