package ingress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// paths are what leads packets through the namespace: a route and a permanent
// neighbour a task, the mesh address behind each router MAC, and for answers a
// table a service.
type paths struct {
	routes     map[routeKey]route
	neighbours map[neighbourKey][6]byte
	nodes      map[nodeKey]netip.Addr
	rules      map[rule]bool
}

type routeKey struct {
	table int
	dst   netip.Prefix
}

// A route goes out of a link, by way of an address or not.
type route struct {
	link int
	via  netip.Addr
}

type neighbourKey struct {
	link int
	addr netip.Addr
}

type nodeKey struct {
	link int
	mac  [6]byte
}

// A rule sends what bears a mark, or none where that is 0, to a table.
type rule struct {
	af    int
	mark  uint32
	table int
}

func newPaths() *paths {
	return &paths{map[routeKey]route{}, map[neighbourKey][6]byte{}, map[nodeKey]netip.Addr{}, map[rule]bool{}}
}

// join adds what the other has.
func (w *paths) join(o *paths) {
	maps.Copy(w.routes, o.routes)
	maps.Copy(w.neighbours, o.neighbours)
	maps.Copy(w.nodes, o.nodes)
	maps.Copy(w.rules, o.rules)
}

// without takes out what went with links.
func (w *paths) without(gone map[int]bool) {
	maps.DeleteFunc(w.routes, func(_ routeKey, r route) bool { return gone[r.link] })
	maps.DeleteFunc(w.neighbours, func(k neighbourKey, _ [6]byte) bool { return gone[k.link] })
	maps.DeleteFunc(w.nodes, func(k nodeKey, _ netip.Addr) bool { return gone[k.link] })
}

// pathParts are the paths of each service by its id, and under "" what is of none,
// or all that was read.
type pathParts map[string]*paths

// differences are the parts that are not the same in both, of either as one.
func (have pathParts) differences(want pathParts) (was, now *paths) {
	was, now = newPaths(), newPaths()
	for id, p := range have {
		if want[id] != p {
			was.join(p)
		}
	}
	for id, p := range want {
		if have[id] != p {
			now.join(p)
		}
	}
	return was, now
}

// paths are the ones wanted, over those of the links that are there.
func (p *plan) paths(mem *memory[paths], m *marks, links map[string]int) pathParts {
	own, all := newPaths(), make(pathParts, len(p.services)+1)
	for _, f := range p.families() {
		own.rules[rule{f.af, 0, unix.RT_TABLE_MAIN}] = true
		if l, ok := links[insideLink]; ok {
			end := nodeEnd(p.subnet(f), p.mesh)
			own.routes[routeKey{unix.RT_TABLE_MAIN, f.everywhere()}] = route{l, end}
			own.neighbours[neighbourKey{l, end}] = [6]byte(gatewayMAC)
		}
	}
	all[""] = own
	made := mem.recall(fmt.Sprint(p.subnets, p.mesh))
	type given struct {
		up     int
		number uint16
		locals string
	}
	for _, s := range p.services {
		var locals []byte
		for _, e := range s.locals {
			locals = binary.AppendUvarint(locals, uint64(links[portName(e.task)]))
		}
		all[s.id] = made(s, given{links[uplinkName(s.vni)], m.services.of[s.vni], string(locals)}, func() *paths {
			w := newPaths()
			for _, f := range p.families() {
				p.pathsOf(f, s, w, m, links)
			}
			return w
		})
	}
	return all
}

// pathsOf are those to a service's tasks, and back to its entry nodes.
func (p *plan) pathsOf(f *family, s *service, w *paths, m *marks, links map[string]int) {
	asks, asked := p.uplink(s)
	up, ready := links[uplinkName(s.vni)]
	for _, e := range s.endpoints {
		l, mac := up, e.mac()
		there := ready && asks
		if e.isLocal() {
			l, there = links[portName(e.task)]
		} else {
			mac = routerMAC(e.node)
		}
		addr := e.at(f)
		if !there || !addr.IsValid() {
			continue
		}
		w.routes[routeKey{unix.RT_TABLE_MAIN, single(addr)}] = route{link: l}
		w.neighbours[neighbourKey{l, addr}] = mac
		if !e.isLocal() {
			w.nodes[nodeKey{l, mac}] = e.node
		}
	}
	if !asked || !ready {
		return
	}
	n, next := m.service(s.vni), hop(p.subnet(f))
	w.rules[rule{f.af, uint32(n) << 16, firstTable + int(n)}] = true
	w.routes[routeKey{firstTable + int(n), f.everywhere()}] = route{up, next}
	w.neighbours[neighbourKey{up, next}] = [6]byte(nobodyMAC)
	for a := range s.entries {
		w.nodes[nodeKey{up, routerMAC(a)}] = a
	}
}

// readPaths reads what there is. What has not the form that we give it is taken
// away at once; the kernel's own is left.
func readPaths(h *netlink.Handle) (*paths, error) {
	have := newPaths()
	for _, f := range []*family{four, six} {
		if f == six && !hasIPv6() {
			continue
		}
		if err := have.readRoutes(h, f); err != nil {
			return nil, err
		}
		if err := have.readRules(h, f); err != nil {
			return nil, err
		}
		if err := have.readNeighbours(h, f.af); err != nil {
			return nil, err
		}
	}
	return have, have.readNeighbours(h, unix.AF_BRIDGE)
}

func (have *paths) readRoutes(h *netlink.Handle, f *family) error {
	routes, err := h.RouteListFiltered(f.af, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		dst, ok := kernel.PrefixOf(r.Dst)
		if !ok || dst.Bits() == 0 {
			dst = f.everywhere()
		}
		via, _ := netip.AddrFromSlice(r.Gw)
		k := routeKey{r.Table, dst}
		if _, taken := have.routes[k]; taken || r.Protocol != routeProtocol || r.Priority != f.metric() || r.Src != nil || len(r.MultiPath) > 0 || r.Encap != nil || r.Type != unix.RTN_UNICAST {
			if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the route to %s: %w", dst, err)
			}
			continue
		}
		have.routes[k] = route{r.LinkIndex, via.Unmap()}
	}
	return nil
}

// metric is what the kernel makes of none.
func (f *family) metric() int {
	if f == six {
		return 1024
	}
	return 0
}

func (have *paths) readNeighbours(h *netlink.Handle, af int) error {
	all, err := h.NeighList(0, af)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range all {
		a, ok := netip.AddrFromSlice(n.IP)
		if n.State&netlink.NUD_PERMANENT == 0 || len(n.HardwareAddr) != 6 || !ok {
			continue
		}
		if mac := [6]byte(n.HardwareAddr); af != unix.AF_BRIDGE {
			have.neighbours[neighbourKey{n.LinkIndex, a.Unmap()}] = mac
		} else if n.Flags&netlink.NTF_SELF != 0 {
			have.nodes[nodeKey{n.LinkIndex, mac}] = a.Unmap()
		}
	}
	return nil
}

func (have *paths) readRules(h *netlink.Handle, f *family) error {
	rules, err := h.RuleList(f.af)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, r := range rules {
		if r.Table == unix.RT_TABLE_LOCAL || r.Priority >= 32766 {
			continue // the kernel's own
		}
		if k := (rule{f.af, r.Mark, r.Table}); r.Mask != nil && *r.Mask == serviceMask && r.Priority == k.priority() && !have.rules[k] {
			have.rules[k] = true
			continue
		}
		r.Family = f.af
		if err := h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove a routing rule: %w", err)
		}
	}
	return nil
}

func (r rule) priority() int {
	if r.mark == 0 {
		return unmarkedRule
	}
	return markedRule
}

func (r rule) netlink() *netlink.Rule {
	x, mask := netlink.NewRule(), uint32(serviceMask)
	x.Family, x.Mark, x.Mask, x.Table, x.Priority = r.af, r.mark, &mask, r.table, r.priority()
	return x
}

func (k routeKey) netlink(r route) *netlink.Route {
	x := &netlink.Route{Table: k.table, LinkIndex: r.link, Protocol: routeProtocol, Dst: kernel.IPNet(k.dst), Scope: netlink.SCOPE_LINK, Family: familyOf(k.dst.Addr()).af}
	if r.via.IsValid() {
		x.Gw, x.Scope, x.Flags = r.via.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	return x
}

func (k neighbourKey) netlink(mac [6]byte) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: k.link, Family: familyOf(k.addr).af, State: netlink.NUD_PERMANENT, IP: k.addr.AsSlice(), HardwareAddr: mac[:]}
}

func (k nodeKey) netlink(a netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: k.link, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, Flags: netlink.NTF_SELF,
		IP: a.AsSlice(), HardwareAddr: net.HardwareAddr(k.mac[:])}
}

// settlePaths tells the kernel what differs: removals first. What is to go and is
// gone already is fine.
func settlePaths(h *netlink.Handle, have, want *paths) (changes int, err error) {
	keep := func(what string, e error, gone ...error) {
		changes++
		for _, g := range gone {
			if errors.Is(e, g) {
				return
			}
		}
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", what, e)
		}
	}
	for r := range have.rules {
		if !want.rules[r] {
			keep("remove a routing rule", h.RuleDel(r.netlink()), unix.ENOENT)
		}
	}
	for k, r := range have.routes {
		if w, ok := want.routes[k]; !ok || w != r {
			keep(fmt.Sprintf("remove the route to %s", k.dst), h.RouteDel(k.netlink(r)), unix.ESRCH)
		}
	}
	for k, mac := range have.neighbours {
		if _, ok := want.neighbours[k]; !ok {
			keep(fmt.Sprintf("remove the neighbour %s", k.addr), h.NeighDel(k.netlink(mac)), unix.ENOENT)
		}
	}
	for k, a := range have.nodes {
		if w, ok := want.nodes[k]; !ok || w != a {
			keep(fmt.Sprintf("remove the node %s", a), h.NeighDel(k.netlink(a)), unix.ENOENT)
		}
	}
	for k, a := range want.nodes {
		if have.nodes[k] != a {
			keep(fmt.Sprintf("set the node %s", a), h.NeighAppend(k.netlink(a)), unix.EEXIST)
		}
	}
	for k, mac := range want.neighbours {
		if was, ok := have.neighbours[k]; !ok || was != mac {
			keep(fmt.Sprintf("set the neighbour %s", k.addr), h.NeighSet(k.netlink(mac)))
		}
	}
	for k, r := range want.routes {
		if was, ok := have.routes[k]; !ok || was != r {
			keep(fmt.Sprintf("set the route to %s", k.dst), h.RouteReplace(k.netlink(r)))
		}
	}
	for r := range want.rules {
		if !have.rules[r] {
			keep("set a routing rule", h.RuleAdd(r.netlink()), unix.EEXIST)
		}
	}
	return changes, err
}
