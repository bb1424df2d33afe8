package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// reconcile makes the kernel's state what the plan says and reports whether it
// found something changed. before is the plan that was in force. i.mu is held.
//
// In each namespace the table comes before a link that could carry anything, and
// the entry node's answering comes last: what it leads in has somewhere to go.
func (i *Ingress) reconcile(ctx context.Context, before *plan) (repaired bool, err error) {
	if i.plan.generation == 0 {
		return false, nil // what an earlier process left goes on until somebody says otherwise
	}
	i.bad = nil
	err = kernel.WithRoutes(i.ns, func(h *netlink.Handle) error {
		if !i.plan.wanted() {
			return i.withdraw(ctx, h, before)
		}
		name, _, _ := i.mesh.Link()
		t, err := findTunnel(h, name, i.plan.mesh)
		if err != nil { // tasks of this node are reached all the same
			i.bad = append(i.bad, &netdpb.IngressResult{Error: err.Error()})
		}
		if repaired, err = i.behind(h, t, before); err != nil {
			if i.plan.entry { // nothing is led in where nothing is behind
				_, e := i.outer.set(i.plan.outside(nil))
				err = errors.Join(err, e)
			}
			return err
		}
		if err := i.mesh.AdmitIngress(ctx, i.plan.admissions()); err != nil {
			return fmt.Errorf("admit nodes: %w", err)
		}
		i.admitted = true
		r, err := i.front(h)
		repaired = repaired || r
		return errors.Join(err, i.end(h, before))
	}, unix.NETLINK_NETFILTER)
	slices.SortFunc(i.bad, func(a, b *netdpb.IngressResult) int {
		return cmp.Or(cmp.Compare(a.GetServiceId(), b.GetServiceId()), cmp.Compare(a.GetPublished(), b.GetPublished()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
	})
	return repaired, err
}

// admissions are what other nodes may send: tasks' nodes answer, entry nodes ask.
func (p *plan) admissions() (all []fabric.Admission) {
	for _, s := range p.services {
		asks, asked := p.uplink(s)
		from := map[fabric.Admission]bool{}
		if asked {
			for a := range p.entries {
				from[fabric.Admission{Node: a, VNI: s.vni, MAC: routerMAC(a)}] = true
			}
		}
		for _, e := range s.endpoints {
			if asks && !e.isLocal() {
				from[fabric.Admission{Node: e.node, VNI: s.vni, MAC: routerMAC(e.node)}] = true
			}
		}
		all = slices.AppendSeq(all, maps.Keys(from))
	}
	return all
}

// behind settles the namespace of the ingress networks.
func (i *Ingress) behind(h *netlink.Handle, t tunnel, before *plan) (repaired bool, err error) {
	ns, err := i.open()
	if err != nil {
		return false, err
	}
	defer ns.Close()
	id, err := kernel.IdentityOf(ns)
	if err != nil {
		return false, err
	}
	if !i.known || id != i.identity {
		i.forget()
		i.identity = id
	}
	err = kernel.WithRoutes(ns, func(in *netlink.Handle) error {
		repaired, err = i.within(h, in, ns, t, before)
		return err
	}, unix.NETLINK_NETFILTER)
	return repaired, err
}

func (i *Ingress) within(h, in *netlink.Handle, ns *os.File, t tunnel, before *plan) (repaired bool, err error) {
	if !i.known {
		if err := i.marks.adopt(); err != nil {
			i.log.Warn("the marks of an earlier process cannot be read: connections that stand may end", "err", err)
		}
	}
	i.marks.keep(i.plan)
	if err := prepare(); err != nil {
		return false, err
	}
	there, err := listLinks(in)
	if err != nil {
		return false, err
	}
	// Before links: nothing passes but what the table knows.
	if !i.known {
		if _, err := i.inner.set(i.plan.inside(i.marks, names(there))); err != nil {
			return false, err
		}
	}
	made, err := i.settleUplinks(h, in, ns, t, there)
	if err != nil {
		return false, err
	}
	if i.plan.entry {
		m, err := entrance(h, in, ns, there, t.mtu)
		if err != nil {
			return false, err
		}
		made = made || m
	} else if err := removeEntrance(h); err != nil {
		return false, err
	} else {
		delete(there, insideLink)
	}
	m := i.settlePorts(in, t, there)
	made = made || m
	index := map[string]int{}
	for name, l := range there {
		index[name] = l.Attrs().Index
	}
	changed, err := i.inner.set(i.plan.inside(i.marks, names(there)))
	if err != nil {
		return false, err
	}
	lo, err := in.LinkByName("lo")
	if err != nil {
		return changed, err
	}
	// Errors of the way come from this address.
	if err := onlyGateway(in, lo, i.plan); err != nil {
		return changed, err
	}
	for _, l := range append(slices.Collect(maps.Values(there)), lo) {
		if err := setUp(in, l); err != nil {
			return changed, err
		}
	}
	have := i.have
	if have == nil || !maps.Equal(index, i.links) {
		if have, err = readPaths(in); err != nil {
			return changed, err
		}
	}
	want := i.plan.paths(i.marks, index)
	i.have = nil
	n, err := settlePaths(in, have, want)
	if err != nil {
		return changed, err
	}
	repaired = changed || i.known && before == i.plan && (made || n > 0)
	i.have, i.links, i.known = want, index, true
	return repaired, i.endInside(in, before)
}

func names(links map[string]netlink.Link) map[string]bool {
	out := make(map[string]bool, len(links))
	for name := range links {
		out[name] = true
	}
	return out
}

func onlyGateway(in *netlink.Handle, lo netlink.Link, p *plan) error {
	addrs, err := in.AddrList(lo, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses of lo: %w", err)
	}
	want, found := single(gateway(p.subnet)), false
	for _, a := range addrs {
		x, ok := kernel.PrefixOf(a.IPNet)
		switch {
		case ok && x == want:
			found = true
		case ok && x.Addr().IsLoopback():
		default:
			if err := in.AddrDel(lo, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("take %s from lo: %w", x, err)
			}
		}
	}
	if found {
		return nil
	}
	if err := in.AddrAdd(lo, &netlink.Addr{IPNet: kernel.IPNet(want)}); err != nil {
		return fmt.Errorf("give %s to lo: %w", want.Addr(), err)
	}
	return nil
}

// settleUplinks makes the VXLAN devices that are wanted and deletes what is not
// ours or not wanted any more. there is kept up.
func (i *Ingress) settleUplinks(h, in *netlink.Handle, ns *os.File, t tunnel, there map[string]netlink.Link) (made bool, err error) {
	wanted := map[string]bool{insideLink: true}
	uplinks := map[string]uint32{}
	for _, s := range i.plan.services {
		if asks, asked := i.plan.uplink(s); (asks || asked) && t.link != 0 {
			uplinks[uplinkName(s.vni)] = s.vni
		}
		for _, e := range s.endpoints {
			if e.isLocal() {
				wanted[portName(e.task)] = true
			}
		}
	}
	var doomed []netlink.Link
	for name, l := range there {
		if vni, is := uplinks[name]; !(is && t.fits(l, vni) || wanted[name] && l.Type() == "veth") {
			doomed = append(doomed, l)
			made = made || !ours(name)
			delete(there, name)
		}
	}
	if len(doomed) > 0 {
		// A chain at a device's exit goes before the device does.
		if _, err := i.inner.set(i.plan.inside(i.marks, names(there))); err != nil {
			return made, err
		}
	}
	for _, l := range doomed {
		if err := kernel.DeleteLink(in, l); err != nil {
			return made, err
		}
	}
	for name, vni := range uplinks {
		if there[name] == nil {
			if err := makeUplink(h, ns, t, vni); err != nil {
				return made, err
			}
			made = true
			if there[name], err = in.LinkByName(name); err != nil {
				return made, err
			}
		}
		if err := tend(in, there[name], t.mtu); err != nil {
			return made, err
		}
	}
	return made, nil
}

// settlePorts attaches tasks of this node. What is wrong with one is its own.
func (i *Ingress) settlePorts(in *netlink.Handle, t tunnel, there map[string]netlink.Link) (made bool) {
	sweep := time.Since(i.swept) > sweepWithin
	now := map[string]attached{}
	for _, s := range i.plan.services {
		for _, e := range s.endpoints {
			if !e.isLocal() {
				continue
			}
			name := portName(e.task)
			l := there[name]
			was, ok := i.attached[e.task]
			if ok && !sweep && l != nil && was.link == l.Attrs().Index && was.endpoint.sameSandbox(e) && was.service.samePorts(s) && was.subnet == i.plan.subnet && was.mtu == t.mtu && l.Attrs().MTU == t.mtu {
				now[e.task] = was
				continue
			}
			host, m, err := i.attach(in, e, s, l, t.mtu)
			made = made || m
			if err != nil {
				delete(there, name)
				i.bad = append(i.bad, &netdpb.IngressResult{ServiceId: s.id, TaskId: e.task, Error: err.Error()})
				continue
			}
			there[name] = host
			now[e.task] = attached{e, s, i.plan.subnet, host.Attrs().Index, t.mtu}
		}
	}
	for task, was := range i.attached {
		if _, stays := now[task]; !stays {
			i.strip(was.endpoint)
		}
	}
	if i.attached = now; sweep {
		i.swept = time.Now()
	}
	return made
}

func (e endpoint) sameSandbox(o endpoint) bool { return e.netns == o.netns && e.addr == o.addr }

func (s *service) samePorts(o *service) bool { return slices.Equal(s.ports, o.ports) }

// front settles the entry node's own side: its table, its ports, its way in.
func (i *Ingress) front(h *netlink.Handle) (repaired bool, err error) {
	if !i.plan.entry {
		i.releaseAll(nil)
		i.outer = table{}
		return false, removeTables(outsideTables...)
	}
	published := i.publish()
	repaired, err = i.outer.set(i.plan.outside(published))
	if err != nil {
		return repaired, err
	}
	return repaired, i.plan.openEntrance(h)
}

// withdraw takes everything away.
func (i *Ingress) withdraw(ctx context.Context, h *netlink.Handle, before *plan) error {
	i.releaseAll(nil)
	i.outer = table{}
	err := errors.Join(removeEntrance(h), removeTables(outsideTables...))
	if i.admitted {
		if e := i.mesh.AdmitIngress(ctx, nil); e != nil {
			return errors.Join(err, e)
		}
		i.admitted = false
	}
	if before.wanted() {
		err = errors.Join(err, i.end(h, before))
	}
	if ns, e := i.open(); e == nil { // or it went with all that was in it
		err = errors.Join(err, empty(ns), ns.Close())
	}
	for _, was := range i.attached {
		i.strip(was.endpoint)
	}
	i.forget()
	return err
}
