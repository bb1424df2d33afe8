package ingress

import (
	"errors"
	"fmt"
	"net/netip"
)

// An index has what no two services may have in common, and what is counted over
// all, for the plan in force. Of a declaration only the services that differ are
// looked at: looking at ten thousand tasks takes as long as all the rest.
type index struct {
	of    *plan
	vnis  map[uint32]string // id of the service
	addrs map[netip.Addr]string
	// tasks are how often each is there; locals those that are on this node.
	tasks   map[string]int
	locals  map[string]bool
	entries map[netip.Addr]int        // of how many services
	ends    map[netip.Addr]netip.Addr // which entry has an address of the subnet
	ports   int
}

// check looks at the plan as a whole, and is that of it then; on an error it is
// still that of the one before.
func (x *index) check(p *plan) error {
	if !p.wanted() {
		*x = index{of: p}
		return nil
	}
	subnet := p.subnets[0]
	if !subnet.IsValid() || p.netns == "" {
		return errors.New("subnet or netns is missing: services need both")
	}
	if subnet.Contains(p.mesh) {
		return fmt.Errorf("mesh_address %s is in the subnet %s of tasks", p.mesh, subnet)
	}
	before := x.of
	if before == nil || !before.wanted() || before.subnets != p.subnets || before.mesh != p.mesh {
		fresh := index{of: p, vnis: map[uint32]string{}, addrs: map[netip.Addr]string{}, tasks: map[string]int{}, locals: map[string]bool{},
			entries: map[netip.Addr]int{}, ends: map[netip.Addr]netip.Addr{nodeEnd(subnet, p.mesh): p.mesh}}
		if err := fresh.add(p, nil); err != nil {
			return err
		}
		if err := fresh.bounded(p); err != nil {
			return err
		}
		*x = fresh
		return nil
	}
	for id, s := range before.services {
		if p.services[id] != s {
			x.remove(before, s)
		}
	}
	err := x.add(p, before)
	if err == nil {
		err = x.bounded(p)
	}
	if err != nil {
		x.of = nil // and made anew when next it is needed
		return err
	}
	x.of = p
	return nil
}

func (x *index) bounded(p *plan) error {
	if len(x.entries) > maxEntries || len(p.services) > maxServices {
		return fmt.Errorf("%d entry nodes and %d services exceed the limits of %d and %d", len(x.entries), len(p.services), maxEntries, maxServices)
	}
	if x.ports > 2*maxPorts || len(x.tasks) > maxEndpoints {
		return fmt.Errorf("%d ports and %d tasks exceed the limits of %d and %d", x.ports, len(x.tasks), 2*maxPorts, maxEndpoints)
	}
	return nil
}

func (x *index) remove(p *plan, s *service) {
	delete(x.vnis, s.vni)
	x.ports -= len(s.ports)
	for a := range s.entries {
		if x.entries[a]--; x.entries[a] == 0 {
			delete(x.entries, a)
			delete(x.ends, nodeEnd(p.subnets[0], a))
		}
	}
	for _, e := range s.endpoints {
		for _, a := range e.addrs {
			delete(x.addrs, a)
		}
		if x.tasks[e.task]--; x.tasks[e.task] == 0 {
			delete(x.tasks, e.task)
		}
		if e.isLocal() {
			delete(x.locals, e.task)
		}
	}
}

// add takes in the services that the plan before has not.
func (x *index) add(p, before *plan) error {
	for id, s := range p.services {
		if before != nil && before.services[id] == s {
			continue
		}
		if err := x.addOne(p, s); err != nil {
			return err
		}
	}
	return nil
}

func (x *index) addOne(p *plan, s *service) error {
	subnet := p.subnets[0]
	if other, taken := x.vnis[s.vni]; taken {
		return fmt.Errorf("services %s and %s have one VNI, %d", s.id, other, s.vni)
	}
	x.vnis[s.vni] = s.id
	x.ports += len(s.ports)
	for a := range s.entries {
		if x.entries[a]++; x.entries[a] > 1 {
			continue
		}
		end := nodeEnd(subnet, a)
		if other, taken := x.ends[end]; taken || !p.mesh.IsValid() || subnet.Contains(a) {
			return fmt.Errorf("entry %s cannot be told from %s: the subnet %s is too small for the mesh, or is part of it", a, other, subnet)
		}
		x.ends[end] = a
	}
	for _, e := range s.endpoints {
		for n, a := range e.addrs {
			other, taken := x.addrs[a]
			switch {
			case !a.IsValid():
				continue
			case taken:
				return fmt.Errorf("tasks %s and %s have one address, %s", e.task, other, a)
			case !p.subnets[n].Contains(a) || upper(p.subnets[n]).Contains(a):
				return fmt.Errorf("address %s of task %s is not in the lower three quarters of %s", a, e.task, p.subnets[n])
			}
			x.addrs[a] = e.task
		}
		switch {
		case x.locals[e.task] || e.isLocal() && x.tasks[e.task] > 0:
			return fmt.Errorf("task %s is one of two services", e.task)
		case e.node.IsValid() && (e.node == p.mesh || !p.mesh.IsValid() || subnet.Contains(e.node)):
			return fmt.Errorf("node %s of task %s is this one, or no node of the mesh", e.node, e.task)
		}
		x.tasks[e.task]++
		if e.isLocal() {
			x.locals[e.task] = true
		}
	}
	return nil
}
