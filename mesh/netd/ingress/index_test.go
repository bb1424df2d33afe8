package ingress

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Of a difference only what differs is looked at: what is accepted and refused is
// the same as if all of it were looked at, and so is what is known then.
func TestIndexIsThatOfTheWhole(t *testing.T) {
	settings := &netdpb.IngressRequest{Generation: 1, MeshAddress: "198.18.0.1", Subnet: "10.255.0.0/16", Subnet6: "fd00:9::/64", Netns: Netns}
	var ids, tasks []string
	for range 5 {
		ids = append(ids, ident.New())
	}
	for range 12 {
		tasks = append(tasks, ident.New())
	}
	random := func(id string) *netdpb.IngressService {
		s := &netdpb.IngressService{ServiceId: id, Vni: 5000 + rand.Uint32N(12), Entry: proto.Bool(rand.N(2) == 0)}
		for p := range rand.N(3) {
			s.Ports = append(s.Ports, &netdpb.IngressPort{Published: uint32(8000 + p), Target: 80})
		}
		for _, n := range rand.Perm(6)[:rand.N(4)] {
			s.Entries = append(s.Entries, fmt.Sprintf("198.18.0.%d", 2+n))
		}
		for _, n := range rand.Perm(len(tasks))[:rand.N(4)] {
			a := 1 + rand.N(60)
			e := &netdpb.IngressEndpoint{TaskId: tasks[n], Address: fmt.Sprintf("10.255.0.%d", a), Address6: fmt.Sprintf("fd00:9::%d", a), Serving: true}
			if rand.N(3) == 0 {
				e.Netns = tasks[n]
			} else {
				e.Node = fmt.Sprintf("198.18.0.%d", 2+rand.N(6))
			}
			s.Endpoints = append(s.Endpoints, e)
		}
		return s
	}
	now, err := emptyPlan().merge(settings)
	if err != nil {
		t.Fatal(err)
	}
	accepted, refused := 0, 0
	for range 4000 {
		req := &netdpb.IngressRequest{Generation: now.generation + 1, Base: now.generation}
		for _, n := range rand.Perm(len(ids))[:1+rand.N(2)] {
			if _, there := now.services[ids[n]]; there && rand.N(3) == 0 {
				req.Removed = append(req.Removed, ids[n])
			} else {
				req.Services = append(req.Services, random(ids[n]))
			}
		}
		if rand.N(20) == 0 {
			req.MeshAddress = fmt.Sprintf("198.18.0.%d", 1+rand.N(3))
		}
		next, err := now.merge(req)
		// The same plan, looked at as if it were the first.
		whole := *next
		whole.services, whole.index = maps.Clone(next.services), new(index)
		if want := whole.index.check(&whole); (err == nil) != (want == nil) {
			t.Fatalf("%v; looking at the whole: %v", err, want)
		}
		if err != nil {
			refused++
			continue
		}
		accepted++
		got, want := *next.index, *whole.index
		if got.of = want.of; next.wanted() && !reflect.DeepEqual(got, want) {
			t.Fatalf("known:  %+v\nbut is: %+v", got, want)
		}
		now = next
	}
	if accepted < 100 || refused < 100 {
		t.Errorf("%d were accepted, %d refused: not much is shown", accepted, refused)
	}
}
