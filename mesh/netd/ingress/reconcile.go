package ingress

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

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
	if err := i.listen(); err != nil {
		return false, err
	}
	err = kernel.WithRoutes(i.ns, func(h *netlink.Handle) error {
		if !i.plan.wanted() {
			return i.withdraw(ctx, h, before)
		}
		if err := i.lookAround(h, before == i.plan); err != nil {
			return err
		}
		name, _, _ := i.mesh.Link()
		t, err := findTunnel(h, name, i.plan.mesh)
		if err != nil { // tasks of this node are reached all the same
			i.bad = append(i.bad, &netdpb.IngressResult{Error: err.Error()})
		}
		if repaired, err = i.behind(h, t, before); err != nil {
			if i.answers() { // nothing is led in where nothing is behind
				_, e := i.outer.set(i.nf, i.plan.outside(&i.outer.memory, nil, i.sight()))
				err = kernel.OneLine(err, e)
			}
			return err
		}
		if err := i.admit(ctx, before); err != nil {
			return fmt.Errorf("admit nodes: %w", err)
		}
		r, err := i.front(h)
		repaired = repaired || r
		return kernel.OneLine(err, i.end(before))
	})
	slices.SortFunc(i.bad, func(a, b *netdpb.IngressResult) int {
		return cmp.Or(cmp.Compare(a.GetServiceId(), b.GetServiceId()), cmp.Compare(a.GetPublished(), b.GetPublished()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
	})
	return repaired, err
}

// listen opens what the ruleset of the node's namespace is spoken to by.
func (i *Ingress) listen() error {
	if i.nf != nil {
		return nil
	}
	return kernel.InNetns(i.ns, func() (err error) { i.nf, err = kernel.OpenNetfilter(); return err })
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
		if err := kernel.InNetns(ns, func() (err error) { i.inside, err = kernel.OpenNetfilter(); return err }); err != nil {
			return false, err
		}
	}
	err = kernel.WithRoutes(ns, func(in *netlink.Handle) error {
		repaired, err = i.within(h, in, ns, t, before)
		return err
	})
	return repaired, err
}

func (i *Ingress) within(h, in *netlink.Handle, ns *os.File, t tunnel, before *plan) (repaired bool, err error) {
	if !i.known {
		if err := i.marks.adopt(); err != nil {
			i.log.Warn("the marks of an earlier process cannot be read: connections that stand may end", "err", err)
		}
	}
	i.marks.keep(i.plan)
	// Of a change only what it changes is looked at. Whatever somebody else does to
	// the rest, the kernel tells, and repair looks at all of it.
	have, there := i.have, i.there
	if i.have = nil; before == i.plan || before.subnets != i.plan.subnets || before.mesh != i.plan.mesh {
		have = nil
	}
	if have == nil {
		i.entered = false
		if err := prepare(len(i.plan.families()) > 1); err != nil {
			return false, err
		}
		if there, err = listLinks(in); err != nil {
			return false, err
		}
	}
	// Before links: nothing passes but what the table knows.
	if !i.known {
		if i.outer.have == nil {
			i.lookForLoss(h)
		}
		if _, err := i.inner.set(i.inside, i.plan.inside(&i.inner.memory, i.marks, names(there))); err != nil {
			return false, err
		}
	}
	made, err := i.settleUplinks(h, in, ns, t, there)
	if err != nil {
		return false, err
	}
	if i.answers() {
		m, err := entrance(h, in, ns, there, t.mtu)
		if err != nil {
			return false, err
		}
		if made = made || m; m {
			i.entered = false
		}
	} else if err := removeEntrance(h); err != nil {
		return false, err
	} else {
		delete(there, insideLink)
	}
	m, failed := i.settlePorts(in, t, there)
	made = made || m
	index := map[string]int{}
	for name, l := range there {
		index[name] = l.Attrs().Index
	}
	changed, err := i.inner.set(i.inside, i.plan.inside(&i.inner.memory, i.marks, names(there)))
	if err != nil {
		return false, err
	}
	if changed {
		i.meddled.Note("table " + tableName + " of " + Netns)
	}
	if have == nil {
		if err := shortenTimes(); err != nil {
			return changed, err
		}
		lo, err := in.LinkByName("lo")
		if err != nil {
			return changed, err
		}
		// Errors of the way come from this address.
		if err := kernel.OneLine(onlyGateway(in, lo, i.plan), i.plan.hush("lo"), setUp(in, lo)); err != nil {
			return changed, err
		}
	}
	for name, l := range there {
		// One that was there is as it was, unless somebody may have changed it.
		if have == nil || i.links[name] != l.Attrs().Index {
			if err := i.plan.hush(name); err != nil {
				return changed, err
			}
		}
		if err := setUp(in, l); err != nil {
			return changed, err
		}
	}
	gone := make(map[int]bool) // with all that led out of them
	if have == nil || failed { // of a link that was left as it is, ways may be there
		read, err := readPaths(in)
		if err != nil {
			return changed, err
		}
		have = pathParts{"": read}
	} else {
		for _, l := range i.links {
			gone[l] = true
		}
		for _, l := range index {
			delete(gone, l)
		}
	}
	want := i.plan.paths(&i.ways, i.marks, index)
	was, now := have.differences(want)
	was.without(gone)
	n, err := settlePaths(in, was, now)
	if err != nil {
		return changed, err
	}
	if failed {
		want = nil
	}
	repaired = changed || i.known && before == i.plan && (made || n > 0)
	i.have, i.there, i.links, i.known = want, there, index, true
	return repaired, i.endInside(before)
}

func names(links map[string]netlink.Link) map[string]bool {
	out := make(map[string]bool, len(links))
	for name := range links {
		out[name] = true
	}
	return out
}

func onlyGateway(in *netlink.Handle, lo netlink.Link, p *plan) error {
	var want []netip.Addr
	for _, f := range p.families() {
		want = append(want, gateway(p.subnet(f)))
	}
	return onlyAddresses(in, lo, want)
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
		for _, e := range s.locals {
			wanted[portName(e.task)] = true
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
		if _, err := i.inner.set(i.inside, i.plan.inside(&i.inner.memory, i.marks, names(there))); err != nil {
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

// settlePorts attaches tasks of this node. What is wrong with one is its own: its
// interface is there no more, as far as the rest is concerned.
func (i *Ingress) settlePorts(in *netlink.Handle, t tunnel, there map[string]netlink.Link) (made, failed bool) {
	sweep := time.Since(i.swept) > sweepWithin
	now := map[string]attached{}
	for _, s := range i.plan.services {
		for _, e := range s.locals {
			name := portName(e.task)
			l := there[name]
			was, ok := i.attached[e.task]
			if ok && !sweep && l != nil && was.link == l.Attrs().Index && was.endpoint.sameSandbox(e) && was.service.samePorts(s) && was.subnets == i.plan.subnets && was.mtu == t.mtu && l.Attrs().MTU == t.mtu {
				now[e.task] = was
				continue
			}
			host, m, err := i.attach(in, e, s, l, t.mtu)
			made = made || m
			if err != nil {
				failed = true
				delete(there, name)
				i.bad = append(i.bad, &netdpb.IngressResult{ServiceId: s.id, TaskId: e.task, Error: err.Error()})
				continue
			}
			there[name] = host
			now[e.task] = attached{e, s, i.plan.subnets, host.Attrs().Index, t.mtu}
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
	return made, failed
}

func (e endpoint) sameSandbox(o endpoint) bool { return e.netns == o.netns && e.addrs == o.addrs }

func (s *service) samePorts(o *service) bool { return slices.Equal(s.ports, o.ports) }

// front settles the entry node's own side: its table, its ports, its way in.
func (i *Ingress) front(h *netlink.Handle) (repaired bool, err error) {
	if !i.answers() {
		i.releaseAll(nil)
		i.outer, i.entered = table{}, false
		return false, i.close()
	}
	if err := i.findGuard(); err != nil {
		return false, err
	}
	published := i.publish()
	repaired, err = i.outer.set(i.nf, i.plan.outside(&i.outer.memory, published, i.sight()))
	if err != nil {
		return repaired, err
	}
	if repaired {
		i.meddled.Note("table " + tableName)
	}
	if i.guarded {
		if err := routeIPv6(); err != nil {
			return repaired, err
		}
	}
	if i.entered {
		return repaired, nil
	}
	c, err := i.dropUnjudged()
	if repaired = repaired || c; err != nil {
		return repaired, err
	}
	err = i.plan.openEntrance(h)
	i.entered = err == nil
	return repaired, err
}

// withdraw takes everything away.
func (i *Ingress) withdraw(ctx context.Context, h *netlink.Handle, before *plan) error {
	i.releaseAll(nil)
	i.outer, i.notes = table{}, nil
	err := kernel.OneLine(removeEntrance(h), i.close())
	if i.admitted != nil {
		if e := i.mesh.AdmitIngress(ctx, nil); e != nil {
			return kernel.OneLine(err, e)
		}
		i.admitted = nil
	}
	if before.wanted() || !i.looked {
		err = kernel.OneLine(err, i.end(before))
	}
	if ns, e := i.open(); e == nil { // or it went with all that was in it
		err = kernel.OneLine(err, empty(ns), ns.Close())
	}
	for _, was := range i.attached {
		i.strip(was.endpoint)
	}
	i.forget()
	return err
}
