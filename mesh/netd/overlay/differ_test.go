package overlay

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A board is the kernel's tables, as far as messages change them. Links that go
// take their entries with them.
type board struct {
	t          rapid.TB
	uplink     int32
	routes     map[string]route
	neighbours map[string]neighbour
}

func (b *board) tell(ops []op) {
	for _, o := range ops {
		switch o.Type {
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			r, ok := parseRoute(o.Body)
			if !ok {
				b.t.Fatalf("%s: no route", o.describe())
			}
			if r.family == unix.AF_INET6 {
				r.priority = 1024 // what the kernel makes of none
			}
			key := fmt.Sprint(r.table, r.dst)
			if have, there := b.routes[key]; o.removes && there && have.link == r.link {
				delete(b.routes, key)
			} else if !o.removes {
				b.routes[key] = r
			}
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			n, ok := parseNeighbour(o.Body)
			if !ok {
				b.t.Fatalf("%s: no neighbour", o.describe())
			}
			key := fmt.Sprint(n.link, n.dst)
			if n.family == unix.AF_BRIDGE {
				key = fmt.Sprint(n.mac)
			}
			if o.removes {
				delete(b.neighbours, key)
			} else {
				b.neighbours[key] = n
			}
		default:
			b.t.Fatalf("message %d", o.Type)
		}
	}
}

func (b *board) unplug(link int32) {
	maps.DeleteFunc(b.routes, func(_ string, r route) bool { return r.link == link })
	maps.DeleteFunc(b.neighbours, func(_ string, n neighbour) bool { return n.link == link })
}

// Whatever sequence of declarations comes, whole or as differences: what leads
// packets is what the last one alone would have made, nothing is read but in whole
// declarations, and the rules are told the same.
func TestAnySequenceEndsAsItsLastDeclaration(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := emptyPlan()
		b := &board{t: t, uplink: 2, routes: map[string]route{}, neighbours: map[string]neighbour{}}
		r := &realm{o: &Overlays{}, id: ids[0], uplink: b.uplink, have: newPaths(), ports: map[string]port{}}
		r.tunnel.mtu = 1370
		links := int32(10)
		var kept *ruleset
		for step := range rapid.IntRange(1, 10).Draw(t, "steps") {
			req := drawRequest(t, p, uint64(step+1))
			d, err := parse(req)
			if err != nil {
				t.Fatal(err)
			}
			before := fmt.Sprint(p.describe())
			next, news, err := p.merge(d)
			if err != nil {
				if fmt.Sprint(p.describe()) != before {
					t.Fatal("a plan was changed by one that was refused")
				}
				continue // it was drawn to clash
			}
			next.check(t)
			p = next
			r.net = p.networks[ids[0]]
			x := news[ids[0]]
			var strays []op
			if x.whole {
				r.have, strays = (&reading{b.uplink, slices.Collect(maps.Values(b.routes)), slices.Collect(maps.Values(b.neighbours))}).sort()
			}
			// What plug and unplug do, with links of nobody.
			tasks := slices.Collect(maps.Keys(x.tasks))
			if x.whole {
				tasks = slices.Concat(slices.Collect(maps.Keys(r.ports)), slices.Collect(maps.Keys(r.net.endpoints)))
			}
			for _, task := range tasks {
				e := r.net.endpoints[task]
				if have, ok := r.ports[task]; ok && (e == nil || !have.serves(e)) {
					b.unplug(have.link)
					delete(r.ports, task)
				}
				if _, ok := r.ports[task]; e != nil && e.local() && !ok {
					links++
					r.ports[task] = port{links, e, 1370}
				}
			}
			diff := r.difference(x)
			b.tell(strays)
			b.tell(diff.removals)
			b.tell(diff.additions)

			if x.whole {
				kept = &ruleset{places: map[string]int{}}
				tasks = slices.Collect(maps.Keys(r.net.endpoints))
			}
			for _, task := range tasks {
				kept.put(r, task)
			}
			whole := &ruleset{places: map[string]int{}}
			for task := range r.net.endpoints {
				whole.put(r, task)
			}
			if a, b := rulesOf(kept), rulesOf(whole); !maps.Equal(a, b) {
				t.Fatalf("rules are told %v, want %v", a, b)
			}
			have, strays := (&reading{b.uplink, slices.Collect(maps.Values(b.routes)), slices.Collect(maps.Values(b.neighbours))}).sort()
			if len(strays) > 0 {
				t.Fatalf("step %d left %v", step, strays[0].describe())
			}
			want := newPaths()
			for a := range r.net.owners {
				want.addrs[a], _ = r.want(a)
			}
			for node := range r.net.nodes {
				want.nodes[routerMAC(node)] = node
			}
			if !maps.Equal(have.addrs, want.addrs) || !maps.Equal(have.nodes, want.nodes) {
				t.Fatalf("step %d: the kernel has\n%v %v\nwant\n%v %v", step, have.addrs, have.nodes, want.addrs, want.nodes)
			}
			if !maps.Equal(r.have.addrs, want.addrs) || !maps.Equal(r.have.nodes, want.nodes) {
				t.Fatalf("step %d: what is kept differs", step)
			}
		}
	})
}

func rulesOf(s *ruleset) map[string]string {
	out := map[string]string{}
	for i, e := range s.Endpoints {
		out[e.Task] = fmt.Sprint(e)
		if s.places[e.Task] != i {
			out[e.Task] = "misplaced"
		}
	}
	return out
}

// drawRequest declares one network, in which a few tasks and services have a few
// addresses on a few nodes, so that all of them pass from one to the other.
func drawRequest(t *rapid.T, p *plan, generation uint64) *netdpb.OverlayRequest {
	whole := p.generation == 0 || rapid.Bool().Draw(t, "whole")
	n := &netdpb.OverlayNetwork{Id: ids[0], Changes: !whole}
	req := &netdpb.OverlayRequest{Generation: generation, Networks: []*netdpb.OverlayNetwork{n}}
	if whole {
		req.MeshAddress = "198.18.0.1"
		n.Vni, n.Netns = 5, "net-"+ids[0]
		n.Subnets = []*netdpb.OverlaySubnet{{Subnet: "10.200.0.0/24", Gateway: "10.200.0.1"}, {Subnet: "fd52::/64", Gateway: "fd52::1"}}
	} else {
		req.Base = p.generation
	}
	free := rapid.Permutation([]int{2, 3, 4, 5, 6, 7}).Draw(t, "addresses")
	addrs := func() []string {
		a := free[0]
		free = free[1:]
		return []string{fmt.Sprintf("10.200.0.%d", a), fmt.Sprintf("fd52::%d", a)}
	}
	old := p.networks[ids[0]]
	for i := range 4 {
		task := ids[10+i]
		switch rapid.IntRange(0, 3).Draw(t, "task") {
		case 0: // nothing is said
		case 1:
			if !whole && old.endpoints[task] != nil {
				n.RemovedEndpoints = append(n.RemovedEndpoints, task)
			}
		case 2:
			n.Endpoints = append(n.Endpoints, &netdpb.OverlayEndpoint{TaskId: task, ServiceId: ids[20], Addresses: addrs(), Netns: ids[30+i], Serving: rapid.Bool().Draw(t, "serving")})
		case 3:
			n.Endpoints = append(n.Endpoints, &netdpb.OverlayEndpoint{TaskId: task, ServiceId: ids[20], Addresses: addrs(), Node: fmt.Sprintf("198.18.0.%d", rapid.IntRange(2, 4).Draw(t, "node"))})
		}
	}
	for i := range 2 {
		id := ids[20+i]
		switch rapid.IntRange(0, 2).Draw(t, "service") {
		case 1:
			if !whole && old.services[id] != nil {
				n.RemovedServices = append(n.RemovedServices, id)
			}
		case 2:
			n.Services = append(n.Services, &netdpb.OverlayService{ServiceId: id, Vips: addrs()})
		}
	}
	return req
}
