package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// stale says that there may be tracked connections for which the plan has no
// place, and of which addresses all have to end, as they belong to other tasks now.
type stale struct {
	plan  *plan
	moved map[netip.Addr]bool
	// first: another process may have seen addresses go.
	first bool
}

// A departure is of an address that nobody has any more: whose it was, nobody's where
// it was virtual, and until when the kernel may keep a trace of its connections in
// which nobody sends. Others' ends when connections are looked through after that, and
// no sooner is the departure forgotten.
type departure struct {
	task  string
	until time.Time
}

// traceFor is longer than the kernel keeps a closed connection, by default 2 min.
const traceFor = 3 * time.Minute

// noteStale notes what the change made stale. Before the first plan of a process
// there may be anything; with another form, all is looked at.
func (t *Table) noteStale(old *plan, c *change) {
	moved := t.takenAgain(c)
	if old == c.plan && !c.ends && t.stale == nil && len(moved) == 0 {
		return
	}
	if t.stale == nil {
		t.stale = &stale{moved: make(map[netip.Addr]bool)}
	}
	s := t.stale
	s.plan, s.first = c.plan, s.first || old == nil
	for _, a := range slices.Concat(c.moved, moved) {
		s.moved[a] = true
	}
	for _, e := range slices.Concat(c.gone, c.before) {
		if e != nil {
			t.leave(e.task, e.addrs)
		}
	}
	for _, x := range c.lost {
		t.leave("", x.vips)
	}
	if old == nil || old == c.plan {
		return
	}
	for a, e := range old.owners {
		t.leave(e.task, []netip.Addr{a})
	}
	for a, e := range c.plan.owners {
		if was := old.owners[a]; was != nil && was.task != e.task {
			s.moved[a] = true
		}
	}
}

// takenAgain are the addresses that somebody has again and that were another's a
// moment ago: connections may be there that are not theirs.
func (t *Table) takenAgain(c *change) (moved []netip.Addr) {
	take := func(task string, addrs []netip.Addr) {
		for _, a := range addrs {
			if was, ok := t.departed[a]; ok && was.task != task {
				moved = append(moved, a)
			}
			delete(t.departed, a)
		}
	}
	if len(t.departed) == 0 {
		return nil
	}
	for _, i := range c.given {
		take(c.n.Endpoints[i].Task, c.n.Endpoints[i].Addrs)
	}
	for _, x := range c.services {
		take("", x.vips)
	}
	return moved
}

// leave notes that nobody has the addresses any more.
func (t *Table) leave(task string, addrs []netip.Addr) {
	for _, a := range addrs {
		if t.plan.owners[a] == nil {
			t.departed[a] = departure{task, time.Now().Add(traceFor)}
		}
	}
}

// ends reports whether the plan has no place for the connection. One that was closed
// expires, and as long as nobody has the address nothing is sent in it: so it stays. To
// whoever has its address now it may not belong, and who may not talk any more does not
// in what he keeps of it.
func (s *stale) ends(c kernel.Connection) bool {
	if s.moved[c.Client] || s.moved[c.Called] || s.moved[c.Server] {
		return true
	}
	p := s.plan
	from, to := p.endpointAt(c.Client), p.endpointAt(c.Server)
	if from == nil || to == nil {
		return !c.Closed || s.first
	}
	if c.Called != c.Server && !c.Closed && !p.leads(c, to) {
		return true
	}
	return p.deny && !p.policy.allows(from.number, to.number, c.Protocol, c.ServerPort)
}

func (p *plan) endpointAt(a netip.Addr) *endpoint {
	if e := p.owners[a]; e != virtual {
		return e
	}
	return nil
}

// leads reports whether flows to the virtual address may go to the endpoint.
// TCP goes on where an endpoint has stopped serving and still is there. Who has not
// been answered by then asks another one, and so does who was reset and takes the port
// again.
func (p *plan) leads(c kernel.Connection, to *endpoint) bool {
	s := p.services[to.service]
	return s != nil && slices.Contains(s.vips, c.Called) && (to.serving || c.Protocol == unix.IPPROTO_TCP && c.Answered && !c.Reset)
}

// Stale reports whether there may be connections that are to end.
func (t *Table) Stale() bool { return t.stale != nil }

// Forget ends the stale connections, if there may be any. To look for them costs
// milliseconds, however few there are.
func (t *Table) Forget() error {
	if t.stale == nil {
		return nil
	}
	var long []netip.Addr
	now := time.Now()
	for a, d := range t.departed {
		if now.After(d.until) {
			long = append(long, a)
			t.stale.moved[a] = true
		}
	}
	if err := t.nf.End(t.stale.ends); err != nil {
		return fmt.Errorf("end connections of what was removed: %w", err)
	}
	t.stale = nil
	for _, a := range long {
		delete(t.departed, a)
	}
	return nil
}
