package ingress

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// forgotten says which tracked connections must not outlive a change. Established
// ones pass without a further look, and a flow of datagrams is never led anywhere
// else while it lasts.
type forgotten struct {
	// gone are tasks' addresses that went, or are led to no more, and whose they were.
	gone map[netip.Addr]string
	// came are UDP ports on which an answer began: flows that began while nobody
	// answered were never translated.
	came map[uint16]bool
	// left are addresses of tasks that are there and serve no more: connections to
	// them go on until they end, datagrams are led elsewhere at once, and so is
	// who has not been answered yet, or was reset and takes the port again.
	left map[netip.Addr]bool
	// taken are addresses of which not even the trace of a closed connection stays: who
	// has one now may not be whose it was, and somebody may have kept the trace.
	taken map[netip.Addr]bool
	// strange is whether no task is there for a connection. It is asked once for each
	// namespace, as an earlier process may have seen tasks go; nil: not now.
	strange func(kernel.Connection) bool
}

// A departure is of an address that nobody has any more: whose it was, and since when.
type departure struct {
	task string
	at   time.Time
}

// is reports whether it ends. One that was closed carries nothing, and expires.
func (f *forgotten) is(c kernel.Connection) bool {
	if f.taken[c.Client] || f.taken[c.Called] || f.taken[c.Server] {
		return true
	}
	if f.strange != nil && f.strange(c) {
		return true
	}
	went := func(a netip.Addr) bool { _, ok := f.gone[a]; return ok }
	return !c.Closed && (went(c.Client) || went(c.Called) || went(c.Server) ||
		c.Protocol == unix.IPPROTO_UDP && f.came[c.CalledPort] && c.Server == c.Called ||
		f.left[c.Server] && (c.Protocol == unix.IPPROTO_UDP || !c.Answered || c.Reset))
}

// end ends the flows that the change from one plan to the other ends, on the
// node's side. It comes after endInside.
func (i *Ingress) end(before *plan) error {
	f := &forgotten{gone: vanished(before, i.plan), came: map[uint16]bool{}, left: left(before, i.plan)}
	if i.plan.entry() {
		was := answered(before, i.plan)
		for p := range answered(i.plan, before) {
			if p.UDP && !was[p] {
				f.came[p.Number] = true
			}
		}
	}
	i.look(f, time.Now())
	if !i.looked {
		f.strange = i.plan.strange()
	}
	if err := f.run(i.nf); err != nil {
		return err
	}
	i.looked = i.looked || f.strange != nil
	for a := range f.taken {
		delete(i.departed, a)
	}
	return nil
}

// endInside does so in the namespace.
func (i *Ingress) endInside(before *plan) error {
	f := &forgotten{gone: vanished(before, i.plan)}
	i.look(f, time.Now())
	if !i.lookedInside {
		f.strange = i.plan.strange()
	}
	if err := f.run(i.inside); err != nil {
		return err
	}
	i.lookedInside = true
	return nil
}

// strange reports of connections whether they are from or to an address that is for
// tasks and that none has, or to a port of a task that no service leads to.
func (p *plan) strange() func(kernel.Connection) bool {
	if !p.subnets[0].IsValid() {
		return nil // nothing was ever said of where tasks are
	}
	whose, targets := p.owners(), map[string]bool{}
	for _, s := range p.services {
		for _, e := range s.endpoints {
			for _, x := range s.ports {
				if a := e.at(familyOf(x.Host)); a.IsValid() {
					targets[targetKey(a, x.proto(), x.target)] = true
				}
			}
		}
	}
	nobodys := func(a netip.Addr) bool {
		subnet := p.subnet(familyOf(a))
		_, ok := whose[a]
		return !ok && subnet.IsValid() && subnet.Contains(a) && !upper(subnet).Contains(a)
	}
	return func(c kernel.Connection) bool {
		_, ok := whose[c.Server]
		return nobodys(c.Client) || nobodys(c.Called) || nobodys(c.Server) || ok && !targets[targetKey(c.Server, c.Protocol, c.ServerPort)]
	}
}

func targetKey(a netip.Addr, proto byte, port uint16) string {
	return string(append(a.AsSlice(), serviceKey(proto, port)...))
}

// look notes which addresses nobody has any more, and which somebody has again. A
// departure is forgotten once connections were looked through long after it: whoever
// sends in a closed connection keeps its trace for as long.
func (i *Ingress) look(f *forgotten, now time.Time) {
	if len(f.gone)+len(i.departed) == 0 {
		return
	}
	f.taken = map[netip.Addr]bool{}
	whose := i.plan.owners()
	for a, task := range f.gone {
		if _, ok := whose[a]; ok {
			f.taken[a] = true
		} else if _, ok := i.departed[a]; !ok {
			i.departed[a] = departure{task, now}
		}
	}
	for a, d := range i.departed {
		if task, ok := whose[a]; ok && task != d.task {
			f.taken[a] = true
		} else if ok {
			delete(i.departed, a)
		}
	}
	if len(f.gone)+len(f.taken) == 0 { // on one side, connections are not looked through
		return
	}
	for a, d := range i.departed {
		if now.Sub(d.at) > traceFor {
			f.taken[a] = true
		}
	}
}

// owners are the tasks by their addresses.
func (p *plan) owners() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, s := range p.services {
		for _, e := range s.endpoints {
			for _, a := range e.addrs {
				if a.IsValid() {
					out[a] = e.task
				}
			}
		}
	}
	return out
}

func (f *forgotten) empty() bool {
	return f.strange == nil && len(f.gone)+len(f.came)+len(f.left)+len(f.taken) == 0
}

func (f *forgotten) run(nf *kernel.Netfilter) error {
	if f.empty() {
		return nil
	}
	if err := nf.End(f.is); err != nil {
		return fmt.Errorf("forget connections of what was removed: %w", err)
	}
	return nil
}

// vanished are the addresses of tasks that are not where they were.
func vanished(before, now *plan) map[netip.Addr]string {
	gone := map[netip.Addr]string{}
	if before == now {
		return gone
	}
	for id, s := range before.services {
		t := now.services[id]
		if t == s {
			continue
		}
		for task, e := range s.endpoints {
			n, ok := endpoint{}, false
			if t != nil {
				n, ok = t.endpoints[task]
			}
			if ok && t.vni == s.vni && t.samePorts(s) && n.addrs == e.addrs && n.node == e.node {
				continue
			}
			for _, a := range e.addrs {
				if a.IsValid() {
					gone[a] = task
				}
			}
		}
	}
	return gone
}

// left are the addresses of tasks that stopped serving.
func left(before, now *plan) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for id, s := range before.services {
		t := now.services[id]
		if t == nil || t == s {
			continue
		}
		for task, e := range s.endpoints {
			if n, ok := t.endpoints[task]; ok && e.serving && !n.serving {
				for _, a := range e.addrs {
					if a.IsValid() {
						out[a] = true
					}
				}
			}
		}
	}
	return out
}

// answered are the ports that somebody serves, of services that the other plan has
// not or has otherwise.
func answered(p, other *plan) map[port]bool {
	out := map[port]bool{}
	for id, s := range p.services {
		if !s.entry || other.services[id] == s {
			continue
		}
		for _, x := range s.ports {
			if len(s.chosen(x)) > 0 {
				out[x] = true
			}
		}
	}
	return out
}
