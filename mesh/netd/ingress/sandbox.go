package ingress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// attach gives the sandbox its interface and returns the namespace's end, down as
// yet. Each step looks first at what is there.
func (i *Ingress) attach(in *netlink.Handle, e endpoint, s *service, host netlink.Link, mtu int) (_ netlink.Link, made bool, err error) {
	sandbox, err := kernel.OpenPinned(i.runDir, e.netns, "sandbox", i.ns)
	if err != nil {
		return nil, false, err
	}
	defer sandbox.Close()
	keep := false
	err = kernel.WithRoutes(sandbox, func(h *netlink.Handle) error {
		l, err := kernel.FindLink(h, sandboxLink)
		if err != nil || l == nil {
			return err
		}
		if l.Type() != "veth" {
			return fmt.Errorf("interface %s in the sandbox is a %s, not netd's", sandboxLink, l.Type())
		}
		if keep = paired(l, host); keep {
			return nil
		}
		return kernel.DeleteLink(h, l)
	})
	if err != nil {
		return nil, false, err
	}
	mac := e.mac()
	if !keep {
		if host != nil {
			if err := kernel.DeleteLink(in, host); err != nil {
				return nil, true, err
			}
		}
		name := portName(e.task)
		err := in.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1, MTU: mtu, HardwareAddr: gatewayMAC},
			PeerName: sandboxLink, PeerHardwareAddr: mac[:], PeerNamespace: netlink.NsFd(int(sandbox.Fd()))})
		if err != nil {
			return nil, true, fmt.Errorf("make the interface %s: %w", name, err)
		}
		if host, err = in.LinkByName(name); err != nil {
			return nil, true, err
		}
	}
	if err := tend(in, host, mtu); err != nil {
		return nil, !keep, err
	}
	err = kernel.WithRoutes(sandbox, func(h *netlink.Handle) error { return i.furnish(h, e, s, mtu) }, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, !keep, fmt.Errorf("configure sandbox: %w", err)
	}
	return host, !keep, nil
}

// furnish configures the sandbox: its address, and a way back for what comes from
// that address.
func (i *Ingress) furnish(h *netlink.Handle, e endpoint, s *service, mtu int) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := setUp(h, lo); err != nil {
		return err
	}
	l, err := h.LinkByName(sandboxLink)
	if err != nil {
		return err
	}
	mac := e.mac()
	if err := h.LinkSetHardwareAddr(l, mac[:]); err != nil {
		return fmt.Errorf("set MAC: %w", err)
	}
	at := "ipv4/conf/" + sandboxLink + "/"
	// Clients are everywhere: their way back is another interface's by rights.
	err = setAll([][2]string{{"ipv4/conf/all/rp_filter", "0"}, {at + "rp_filter", "0"}, {at + "accept_redirects", "0"}, {at + "accept_source_route", "0"}})
	if err != nil {
		return err
	}
	if err := i.plan.hush(sandboxLink); err != nil {
		return err
	}
	if err := tend(h, l, mtu); err != nil {
		return err
	}
	var own []netip.Addr
	for _, f := range i.plan.families() {
		if a := e.at(f); a.IsValid() {
			own = append(own, a)
		}
	}
	if err := onlyAddresses(h, l, own); err != nil {
		return err
	}
	if err := setUp(h, l); err != nil {
		return err
	}
	for _, a := range own {
		f := familyOf(a)
		gw := gateway(i.plan.subnet(f))
		k := neighbourKey{l.Attrs().Index, gw}
		if err := h.NeighSet(k.netlink([6]byte(gatewayMAC))); err != nil {
			return fmt.Errorf("set the neighbour %s: %w", gw, err)
		}
		back := routeKey{sandboxTable, f.everywhere()}.netlink(route{k.link, gw})
		if err := h.RouteReplace(back); err != nil {
			return fmt.Errorf("set the way back: %w", err)
		}
		if err := settleSandboxRules(h, a); err != nil {
			return err
		}
		if err := furnishUDP(h, k.link, gw, a, s.hasUDP()); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) hasUDP() bool {
	for _, p := range s.ports {
		if p.UDP {
			return true
		}
	}
	return false
}

// settleSandboxRules sends what comes from the address, or bears the mark, back
// by our interface.
func settleSandboxRules(h *netlink.Handle, addr netip.Addr) error {
	af := familyOf(addr).af
	rules, err := h.RuleList(af)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	var byAddr, byMark bool
	for _, r := range rules {
		if r.Table != sandboxTable {
			continue
		}
		src, _ := kernel.PrefixOf(r.Src)
		switch {
		case src == single(addr) && r.Mark == 0 && !byAddr:
			byAddr = true
		case r.Src == nil && r.Mark == sandboxMark && !byMark:
			byMark = true
		default:
			r.Family = af
			if err := h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove a routing rule: %w", err)
			}
		}
	}
	add := func(set func(r *netlink.Rule)) error {
		r := netlink.NewRule()
		r.Family, r.Table, r.Priority = af, sandboxTable, markedRule
		set(r)
		if err := h.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("set a routing rule: %w", err)
		}
		return nil
	}
	if !byAddr {
		if err := add(func(r *netlink.Rule) { r.Src = kernel.IPNet(single(addr)) }); err != nil {
			return err
		}
	}
	if !byMark {
		mask := ^uint32(0)
		return add(func(r *netlink.Rule) { r.Mark, r.Mask = sandboxMark, &mask })
	}
	return nil
}

var sandboxTables = []*nftables.Table{{Name: tableName, Family: four.table}, {Name: tableName, Family: six.table}}

// furnishUDP lets a program answer datagrams that listens on every address, as
// most do: it answers from whatever address the main table would send it from.
// So a datagram is led to that address, and the answers to it, by their
// connection, back here. TCP knows which address was spoken to, and has no part
// in this.
func furnishUDP(h *netlink.Handle, link int, gw, own netip.Addr, wanted bool) error {
	f := familyOf(own)
	t := sandboxTables[f.index()]
	if !wanted {
		return removeTables(t)
	}
	usual, err := f.usualAddress(h, link)
	if err != nil {
		return err
	}
	if !usual.IsValid() {
		// The task has no other way out: then this is the usual one. What it
		// opens by itself is refused outside.
		r := routeKey{unix.RT_TABLE_MAIN, f.everywhere()}.netlink(route{link, gw})
		r.Src = own.AsSlice()
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("set the default route: %w", err)
		}
		return removeTables(t)
	}
	return kernel.WithNFT(func(c *nftables.Conn) error {
		c.AddTable(t)
		c.DelTable(t)
		c.AddTable(t)
		b := &builder{conn: c, table: t}
		to := b.base("to", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
		b.rule(to, iif(sandboxLink), isUDP, match{&expr.Immediate{Register: 1, Data: usual.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nf), RegAddrMin: 1}})
		mark := b.base("mark", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle)
		b.rule(mark, iif(sandboxLink), isUDP, match{&expr.Immediate{Register: 1, Data: native32(sandboxMark)}, &expr.Ct{Register: 1, SourceRegister: true, Key: expr.CtKeyMARK}})
		back := b.base("back", nftables.ChainTypeRoute, nftables.ChainHookOutput, *nftables.ChainPriorityMangle)
		b.rule(back, isUDP, replies, match{&expr.Ct{Register: 1, Key: expr.CtKeyMARK}, equals(native32(sandboxMark)...), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}})
		return c.Flush()
	})
}

// usualAddress is what the default route of another interface sends from;
// invalid: there is none.
func (f *family) usualAddress(h *netlink.Handle, link int) (netip.Addr, error) {
	routes, err := h.RouteListFiltered(f.af, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !isDefault(r.Dst) || r.LinkIndex == link {
			continue
		}
		addrs, err := h.AddrList(nil, f.af)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addrs {
			if p, ok := kernel.PrefixOf(a.IPNet); ok && a.LinkIndex == r.LinkIndex && p.Addr().IsGlobalUnicast() {
				return p.Addr(), nil
			}
		}
	}
	return netip.Addr{}, nil
}

func isDefault(n *net.IPNet) bool { ones, _ := n.Mask.Size(); return ones == 0 }

// strip takes the rest out of a sandbox that has the interface no more.
func (i *Ingress) strip(e endpoint) {
	sandbox, err := kernel.OpenPinned(i.runDir, e.netns, "sandbox", i.ns)
	if err != nil {
		return // it went with all that was in it
	}
	defer sandbox.Close()
	err = kernel.WithRoutes(sandbox, func(h *netlink.Handle) error {
		if err := settleNoRules(h); err != nil {
			return err
		}
		return removeTables(sandboxTables...)
	}, unix.NETLINK_NETFILTER)
	if err != nil {
		i.log.Warn("sandbox not cleaned of ingress", "task", e.task, "err", err)
	}
}

func settleNoRules(h *netlink.Handle) error {
	for _, af := range []int{unix.AF_INET, unix.AF_INET6} {
		if af == unix.AF_INET6 && !hasIPv6() {
			continue
		}
		rules, err := h.RuleList(af)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Table == sandboxTable {
				r.Family = af
				if err := h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
					return err
				}
			}
		}
	}
	return nil
}
