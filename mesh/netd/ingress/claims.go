package ingress

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/pools"
)

// Clients have addresses of the world outside. One who comes with an address of a
// pool is no client: the program that he asks would take him for a member of a
// private network. He is dropped where he comes in, by the entry node, and once
// more by the node of the task, which believes no entry node about such an
// address.
//
// A LAN that lies in a pool is a mistake of who chose the pools, and its hosts
// are clients all the same. They are led in as the node itself, so that no task
// takes one for what it is not. A LAN that meets the subnet of tasks leaves no
// room: the way to one would be the way to the other. Such a node answers on no
// ports; the others do.

// setNever holds what no client has.
const setNever = "never"

// withPools sets them, and returns p.
func (p *plan) withPools(all pools.Pools) *plan {
	p.pools, p.never, p.poolsKey = all, all.And(pools.Nobodys...), fmt.Sprint(all)
	return p
}

// neverSet puts the set of what no client has in the table; no element of it can
// be changed there while a rule looks at it.
func (p *plan) neverSet(b *builder, f *family) *nftables.Set {
	s := b.number(&nftables.Set{Table: b.table, Name: setNever + f.suffix, KeyType: f.addressType()})
	b.keep(p.never.Add(b.conn, s, f == four))
	return s
}

// sight is what an entry node's table depends on besides what was declared.
type sight struct {
	guard bool        // the node routes IPv6 for nobody else
	lans  []pools.LAN // parts of pools, or the other way round
}

func (i *Ingress) sight() sight { return sight{i.guarded, i.plan.pools.Within(i.lans)} }

// lookAround sees which networks the node is on. Addresses that come or go are
// told by the kernel, and all is looked at then.
func (i *Ingress) lookAround(h *netlink.Handle, all bool) (err error) {
	if all || i.lans == nil {
		if i.lans, err = pools.LANs(h, func(link string) bool { return Owns(link) || fabric.Owns(link) }); err != nil {
			return err
		}
	}
	var notes []string
	if !i.plan.entry() {
		i.notes = nil
		return nil
	}
	for _, l := range i.tasksLANs() {
		notes = append(notes, fmt.Sprintf("this node answers on no published ports: their pool overlaps its network %s: choose another pool when a cluster is made, or another network", l))
	}
	if len(notes) == 0 {
		for _, l := range i.plan.pools.Within(i.lans) {
			notes = append(notes, fmt.Sprintf("clients in %s are seen as the node itself: the cluster's pool %s overlaps that network", l, i.plan.pools.Overlaps(l.Prefix)))
		}
	}
	if !slices.Equal(notes, i.notes) && len(notes) > 0 {
		i.log.Warn("the cluster's pools overlap a network of the node", "what", strings.Join(notes, "; "))
	}
	i.notes = notes
	return nil
}

// tasksLANs are networks of the node that meet the subnet of tasks.
func (i *Ingress) tasksLANs() (out []pools.LAN) {
	for _, l := range i.lans {
		for _, s := range i.plan.subnets {
			if s.IsValid() && s.Overlaps(l.Prefix) {
				out = append(out, l)
			}
		}
	}
	return out
}

// answers is whether this node is an entry for any service, and can be.
func (i *Ingress) answers() bool { return i.plan.entry() && len(i.tasksLANs()) == 0 }

// claims makes the chain that judges a client's address, before he is led in.
func (p *plan) claims(b *builder, at sight, source *nftables.Chain) *nftables.Chain {
	c := b.conn.AddChain(&nftables.Chain{Table: b.table, Name: "claims"})
	// The node's own, and what means many hosts.
	for _, kind := range []uint32{unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST} {
		b.rule(c, match{&expr.Fib{Register: 1, FlagSADDR: true, ResultADDRTYPE: true}, equals(native32(kind)...)}, drop(droppedClaimed))
	}
	for _, f := range p.families() {
		for _, l := range at.lans {
			if familyOf(l.Prefix.Addr()) == f {
				b.rule(c, iif(l.Link), f.is(), f.within(f.saddr, l.Prefix, is), match{&expr.Verdict{Kind: expr.VerdictReturn}})
			}
		}
		never := p.neverSet(b, f)
		b.rule(c, f.is(), match{f.address(f.saddr, 1), in(never)}, drop(droppedClaimed))
		// Who passed, and the node's own processes.
		b.rule(source, oif(NodeLink), f.is(), match{f.address(f.saddr, 1), in(never)}, match{&expr.Masq{}})
	}
	return c
}
