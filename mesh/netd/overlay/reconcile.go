package overlay

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// narrow takes away what is not wanted, makes what is and leaves it down, and
// puts the rules in force. What is not known is read; what is known and not
// touched is not looked at.
func (r *realm) narrow(ctx context.Context, h *netlink.Handle, t *touched) error {
	if r.have == nil {
		t.whole = true
	}
	t.paths, t.settings = t.paths || t.whole, t.settings || t.whole
	var strays []op
	if t.whole {
		if r.table != nil { // nothing passes by what was changed while the rest is looked at
			if c, err := r.table.Ensure(); err != nil {
				return err
			} else if c {
				r.rulesPutBack()
			}
		}
		if r.table == nil {
			if err := r.o.close(r.nf, r.id); err != nil {
				return err
			}
		}
	}
	if t.settings {
		if err := r.prepare(); err != nil {
			return err
		}
	}
	switch {
	case t.paths:
		links, err := r.settle(h)
		if err != nil {
			return err
		}
		if r.have, strays, err = readPaths(r.socket, r.uplink); err != nil {
			return err
		}
		was := maps.Clone(r.ports)
		r.bad = nil
		for _, e := range r.net.locals {
			r.plug(h, e, links)
		}
		t.noteMoved(was, r.ports)
	default:
		for task := range t.tasks {
			if err := r.unplug(h, task); err != nil {
				return err
			}
		}
		got := false
		for task := range t.tasks {
			if e := r.net.endpoints[task]; e != nil {
				got = r.plug(h, e, nil) || got
			}
		}
		if t.retry && !got {
			return nil
		}
	}
	d := r.difference(t)
	if n := len(strays) + len(d.removals) + len(d.additions); n > 0 {
		r.changed(fmt.Sprintf("changed %d routes and neighbours", n))
	}
	if err := tell(r.socket, slices.Concat(strays, d.removals)); err != nil {
		return err
	}
	r.pending = d.additions
	return r.enforce(ctx, t)
}

// difference is what has to be told to the kernel, and notes it as told.
func (r *realm) difference(t *touched) (d differ) {
	nodes := make(map[[6]byte]netip.Addr, len(r.net.nodes))
	for node := range r.net.nodes {
		nodes[routerMAC(node)] = node
	}
	if t.whole || t.paths {
		want := &paths{make(map[netip.Addr]path, len(r.net.owners)), nodes}
		for a := range r.net.owners {
			if p, ok := r.want(a); ok {
				want.addrs[a] = p
			}
		}
		d.all(r.uplink, r.have, want)
		r.have = want
		return d
	}
	for a := range t.addrs {
		old, had := r.have.addrs[a]
		p, ok := r.want(a)
		d.addr(a, old, had, p, ok)
		if ok {
			r.have.addrs[a] = p
		} else {
			delete(r.have.addrs, a)
		}
	}
	d.forward(r.uplink, r.have.nodes, nodes)
	r.have.nodes = nodes
	return d
}

// noteMoved names the tasks that have an interface now and had none, or the other
// way round: the rules are others.
func (t *touched) noteMoved(was, now map[string]port) {
	if t.tasks == nil {
		t.tasks = make(map[string]bool)
	}
	for task := range was {
		if _, ok := now[task]; !ok {
			t.tasks[task] = true
		}
	}
	for task := range now {
		if _, ok := was[task]; !ok {
			t.tasks[task] = true
		}
	}
}

// prepare sets how the namespace is used.
func (r *realm) prepare() error {
	c, err := prepare(r.net.dual())
	if c {
		r.changed("set up the namespace")
	}
	return err
}

// settle makes the VXLAN device what it is to be, takes ports away that belong to
// nobody, and returns the links that are there.
func (r *realm) settle(h *netlink.Handle) (map[string]netlink.Link, error) {
	list, err := kernel.Whole(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	links := make(map[string]netlink.Link, len(list))
	for _, l := range list {
		links[l.Attrs().Name] = l
	}
	wanted := make(map[string]bool, len(r.net.locals))
	for task := range r.net.locals {
		wanted[portName(task)] = true
	}
	for name, l := range links {
		if isPort(name) && !wanted[name] || name == uplinkName && !r.tunnel.fits(l, r.net.vni) {
			r.changed("removed " + name)
			if err := kernel.DeleteLink(h, l); err != nil {
				return nil, err
			}
			delete(links, name)
		}
	}
	for task := range r.ports {
		if !wanted[portName(task)] {
			delete(r.ports, task)
		}
	}
	if links[uplinkName] == nil {
		r.changed("made the VXLAN device")
		if err := makeUplink(r.o.ns, r.file, r.tunnel, r.net.vni); err != nil {
			return nil, err
		}
		if links[uplinkName], err = h.LinkByName(uplinkName); err != nil {
			return nil, fmt.Errorf("interface %s: %w", uplinkName, err)
		}
	}
	if c, err := tend(h, links[uplinkName], r.tunnel.mtu); err != nil {
		return nil, err
	} else if c {
		r.changed("set the VXLAN device")
	}
	if c, err := setAll(append(hushed(uplinkName, r.net.dual()), [3]string{"ipv4/conf/" + uplinkName, "accept_local", "1"})); err != nil {
		return nil, err
	} else if c {
		r.changed("set how the VXLAN device is used")
	}
	r.uplink = int32(links[uplinkName].Attrs().Index)
	return links, nil
}

// unplug takes the interface of a task away that is not to have this one.
func (r *realm) unplug(h *netlink.Handle, task string) error {
	delete(r.bad, task)
	p, ok := r.ports[task]
	if e := r.net.endpoints[task]; !ok || e != nil && p.serves(e) {
		return nil
	}
	delete(r.ports, task)
	r.changed("removed " + portName(task))
	return kernel.DeleteLink(h, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: int(p.link), Name: portName(task)}})
}

// plug gives a local endpoint its interface, if it has none that fits; links are
// those that are there, nil where that is not to be looked at. It reports whether
// it has one.
func (r *realm) plug(h *netlink.Handle, e *endpoint, links map[string]netlink.Link) bool {
	if !e.local() {
		return false
	}
	name := portName(e.task)
	p, ok := r.ports[e.task]
	host := links[name]
	if ok && p.serves(e) && (links == nil || p.holds(host, r.tunnel.mtu)) {
		r.ports[e.task] = port{p.link, e, p.mtu}
		return true
	}
	delete(r.ports, e.task)
	p, made, err := r.attach(h, e, host)
	if err == nil {
		r.ports[e.task] = p
		if made || ok {
			r.changed("made or set the interface of task " + e.task)
		}
		return true
	}
	if old := r.bad[e.task]; old == nil || old.Error() != err.Error() {
		r.o.log.Warn("task is not on its network; it is tried again", "network", r.id, "task", e.task, "err", err)
	}
	if r.bad == nil {
		r.bad = make(map[string]error)
	}
	r.bad[e.task] = err
	if l, e := kernel.FindLink(h, name); e == nil && l != nil { // half made
		kernel.DeleteLink(h, l)
	}
	return false
}

// serves reports whether the port is that of the endpoint.
func (p port) serves(e *endpoint) bool {
	return e.local() && p.endpoint.netns == e.netns && p.endpoint.index == e.index && p.endpoint.addrs == e.addrs
}

// holds judges a port from outside its sandbox: when the sandbox goes, so does
// the port.
func (p port) holds(l netlink.Link, mtu int) bool {
	return l != nil && int32(l.Attrs().Index) == p.link && l.Attrs().MTU == mtu && p.mtu == mtu && isUp(l) &&
		l.Attrs().RawFlags&unix.IFF_NOARP != 0 && l.Attrs().MasterIndex == 0 && slices.Equal(l.Attrs().HardwareAddr, gatewayMAC)
}

// widen sets the links up and leads packets to them.
func (r *realm) widen(h *netlink.Handle, t *touched) error {
	if t.paths {
		if err := r.raise(h); err != nil {
			return err
		}
	} else {
		for task := range t.tasks {
			if _, ok := r.ports[task]; !ok {
				continue
			}
			l, err := h.LinkByName(portName(task))
			if err != nil {
				return fmt.Errorf("interface %s: %w", portName(task), err)
			}
			if err := r.up(h, l); err != nil {
				return err
			}
		}
	}
	err := tell(r.socket, r.pending)
	r.pending = nil
	return err
}

// raise sets all links up, and gives the gateways' addresses to lo: what answers
// ping, and where errors of ICMP come from.
func (r *realm) raise(h *netlink.Handle) error {
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if name == "lo" || name == uplinkName || isPort(name) {
			if err := r.up(h, l); err != nil {
				return err
			}
		}
		if name == "lo" {
			if c, err := onlyAddresses(h, l, r.net.gateways()); err != nil {
				return err
			} else if c {
				r.changed("set the gateways")
			}
		}
	}
	return nil
}

func (r *realm) up(h *netlink.Handle, l netlink.Link) error {
	if isUp(l) {
		return nil
	}
	r.changed("set " + l.Attrs().Name + " up")
	return setUp(h, l)
}

func (n *network) gateways() (out []netip.Addr) {
	for _, s := range n.subnets {
		if s.prefix.IsValid() {
			out = append(out, s.gateway)
		}
	}
	return out
}
