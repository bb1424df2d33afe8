package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/ingress"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/pools"
)

// reconcile makes the kernel's state that of the plan and returns what went
// wrong by task; the error is one that concerns all. With full unset, sandboxes
// whose host end looks right are not entered. n.mu is held.
//
// The order keeps every moment safe: ports are taken, interfaces made and left
// down, then the rules change in one transaction, then interfaces are set up
// and forwarding is turned on; what went is removed last, after no rule
// mentions it any more.
func (n *Node) reconcile(ctx context.Context, p plan, full bool) (bad map[string]error, changes []string, err error) {
	bad = make(map[string]error)
	changed := func(what string) { changes = append(changes, what) }
	err = n.onNode(func(h *netlink.Handle) error {
		if !p.bridge.IsValid() {
			return n.removeAll(h)
		}
		return n.converge(ctx, h, p, full, bad, changed)
	})
	return bad, changes, err
}

func (n *Node) converge(ctx context.Context, h *netlink.Handle, p plan, full bool, bad map[string]error, changed func(string)) error {
	if !n.known { // first time in this process
		opened, found, err := readOpened(n.nf)
		if err != nil {
			return err
		}
		n.opened, n.guarded, n.known = opened, found, true
	}
	on, err := brNetfilter()
	if err != nil {
		return fmt.Errorf("read bridge-nf-call-iptables: %w", err)
	}
	if on != n.brNetfilter {
		n.brNetfilter, full = on, true
	}
	bridge, err := ensureBridge(h, p.bridge, changed)
	if err != nil {
		return err
	}
	if err := n.step("bridge"); err != nil {
		return err
	}
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	ports := make(map[string]netlink.Link)
	for _, l := range links {
		if isPort(l.Attrs().Name) {
			ports[l.Attrs().Name] = l
		}
	}
	mtu, err := uplinkMTU(h, links)
	if err != nil {
		return err
	}
	if mtu != n.mtu {
		if n.mtu != 0 {
			changed(fmt.Sprintf("followed the MTU of the uplink to %d", mtu))
		}
		n.mtu, full = mtu, true
	}

	n.holds.keep(p.endpoints)
	gateway := net.IP(p.bridge.Addr().AsSlice())
	var good []endpoint
	for _, e := range p.endpoints {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := n.holds.take(e)
		if err == nil && (full || !looksRight(ports[portName(e.task)], bridge, mtu)) {
			err = n.attach(h, e, bridge, gateway, changed)
		}
		if errors.Is(err, errInjected) {
			return err
		}
		if err != nil {
			bad[e.task] = err
			continue
		}
		good = append(good, e)
	}
	n.holds.keep(good)
	slices.SortFunc(good, byTask)
	if err := n.step("attached"); err != nil {
		return err
	}
	if err := n.updateRules(h, good, p, changed); err != nil {
		return err
	}
	if err := n.dropUnjudged(p.bridge, changed); err != nil {
		return err
	}
	if err := n.step("rules"); err != nil {
		return err
	}
	if err := n.setUp(h, good, bridge, changed); err != nil {
		return err
	}
	return n.cleanUp(h, ports, good)
}

// looksRight judges a port from outside its sandbox: when the sandbox goes, so
// does the port.
func looksRight(l, bridge netlink.Link, mtu int) bool {
	return l != nil && l.Attrs().MTU == mtu && l.Attrs().MasterIndex == bridge.Attrs().Index && l.Attrs().Flags&net.FlagUp != 0
}

// updateRules commits the ruleset if it is not in force already.
func (n *Node) updateRules(h *netlink.Handle, good []endpoint, p plan, changed func(string)) error {
	open, bridges, err := uplinks(h, n.opened, n.guarded)
	if err != nil {
		return err
	}
	lans, err := pools.LANs(h, func(link string) bool { return link == bridgeName || fabric.Owns(link) || ingress.Owns(link) })
	if err != nil {
		return err
	}
	r := ruleset{subnet: p.bridge.Masked(), endpoints: good, opened: open, bridges: bridges, allowLinkLocal: n.config.AllowLinkLocal, managers: p.managers,
		pools: p.pools, lans: p.pools.Within(lans), reach: p.reach, mayReach: n.mayReach}
	if n.committed != nil && n.committed.same(r) {
		ok, err := n.rulesIntact()
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
		changed("put table " + tableName + " back")
		n.meddled.Note("table " + tableName)
	}
	bounds, err := n.boundsToSet()
	if err != nil {
		return err
	}
	r.strayed = n.strayedNow()
	print, gen, err := commit(n.nf, r, bounds)
	if err != nil {
		n.committed = nil // whatever is in force, it is not known
		return err
	}
	n.committed, n.print, n.gen = &r, print, gen
	n.opened, n.guarded = open, true
	return nil
}

// boundsToSet returns the bounds if the table that counts connections is to be
// made: at the first commit of a process, and when somebody changed it.
func (n *Node) boundsToSet() (*flowBounds, error) {
	if !n.countsFlows {
		return nil, nil
	}
	if n.committed == nil {
		return &n.bounds, nil
	}
	fp, err := n.nf.Fingerprint(flows())
	if err != nil || fp == n.print.flows {
		return nil, err
	}
	return &n.bounds, nil
}

// rulesIntact reports whether the kernel's tables are as they were committed.
func (n *Node) rulesIntact() (bool, error) {
	gen, ok, err := n.nf.Holds(n.gen, allTables()...)
	if err != nil {
		return false, err
	}
	if ok {
		n.gen = gen
		return true, nil
	}
	var found prints
	gen, err = n.nf.Read(func() (err error) {
		found, err = readPrints(n.nf)
		return err
	})
	if err != nil {
		// Perhaps it vanished while it was read: making it again is safe.
		n.log.Warn("rules not read; they are made again", "err", err)
		return false, nil
	}
	if found != n.print {
		return false, nil
	}
	n.gen = gen // the change was of other people's rules
	return true, nil
}

func (n *Node) setUp(h *netlink.Handle, good []endpoint, bridge netlink.Link, changed func(string)) error {
	stale, err := syncNeighbours(h, bridge, good, changed)
	if err != nil {
		return err
	}
	for _, a := range stale {
		n.stale[a] = true
	}
	for _, e := range good {
		l, err := h.LinkByName(portName(e.task))
		if err != nil {
			return fmt.Errorf("interface of task %s: %w", e.task, err)
		}
		if l.Attrs().Flags&net.FlagUp != 0 {
			continue
		}
		changed("set the interface of task " + e.task + " up")
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", portName(e.task), err)
		}
	}
	if err := n.step("up"); err != nil {
		return err
	}
	return openUplinks(n.opened, changed)
}

// cleanUp removes what the plan does not have, and the connections with it.
func (n *Node) cleanUp(h *netlink.Handle, ports map[string]netlink.Link, good []endpoint) error {
	for _, e := range good {
		delete(ports, portName(e.task))
	}
	for _, l := range ports {
		if err := kernel.DeleteLink(h, l); err != nil {
			return err
		}
	}
	if err := n.step("removed"); err != nil {
		return err
	}
	f := changes(n.attached, good)
	for a := range n.stale {
		f.addrs[a] = true
	}
	for _, e := range good { // an address that found a new owner is forgotten by changes
		delete(f.addrs, e.addr.Addr())
	}
	for _, e := range n.attached {
		if i := slices.IndexFunc(good, func(g endpoint) bool { return g.addr == e.addr }); i >= 0 && good[i].task != e.task {
			f.addrs[e.addr.Addr()] = true
		}
	}
	addrs, err := h.AddrList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := kernel.PrefixOf(a.IPNet); ok {
			f.local[p.Addr()] = true
		}
	}
	if err := f.run(h); err != nil {
		return err
	}
	n.attached, n.stale = good, make(map[netip.Addr]bool)
	return nil
}

// removeAll deletes everything netd owns, rules last: what they guard goes
// first.
func (n *Node) removeAll(h *netlink.Handle) error {
	err := removeOwned(h, n.nf)
	n.holds.keep(nil)
	if err == nil {
		n.committed, n.opened, n.attached, n.known, n.policies = nil, nil, nil, false, kernel.Policies{}
	}
	return err
}

func removeOwned(h *netlink.Handle, nf *kernel.Netfilter) error {
	opened, _, err := readOpened(nf)
	if err != nil {
		return err
	}
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	f := &forget{addrs: make(map[netip.Addr]bool)}
	for _, l := range links {
		switch {
		case isPort(l.Attrs().Name) && l.Type() == "veth":
		case l.Attrs().Name == bridgeName && l.Type() == "bridge":
			neighbours, err := h.NeighList(l.Attrs().Index, unix.AF_INET)
			if err != nil {
				return fmt.Errorf("list neighbours: %w", err)
			}
			for _, x := range neighbours {
				if a, ok := netip.AddrFromSlice(x.IP.To4()); ok {
					f.addrs[a] = true
				}
			}
		default:
			continue
		}
		if err := kernel.DeleteLink(h, l); err != nil {
			return err
		}
	}
	if err := f.run(h); err != nil {
		return err
	}
	if err := closeUplinks(opened); err != nil {
		return err
	}
	if _, err := kernel.DropUnjudged(kernel.JudgedByBridge, nil); err != nil {
		return err
	}
	if err := removeTables(nf); err != nil {
		return fmt.Errorf("nftables: remove table %s: %w", tableName, err)
	}
	return nil
}
