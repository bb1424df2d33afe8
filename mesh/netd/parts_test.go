package netd

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A declaration of any size is the same put together again, and what is no part of
// it is refused or begins another.
func TestParts(t *testing.T) {
	large := func(generation uint64) *netdpb.OverlayRequest {
		req := &netdpb.OverlayRequest{Generation: generation, MeshAddress: "198.18.0.1", Removed: []string{"x"}, Base: generation - 1}
		for i := range 40 {
			n := &netdpb.OverlayNetwork{Id: fmt.Sprint("n", i), Vni: uint32(i)}
			for k := range 50 {
				n.Endpoints = append(n.Endpoints, &netdpb.OverlayEndpoint{TaskId: fmt.Sprint("t", i, "/", k)})
			}
			req.Networks = append(req.Networks, n)
		}
		return req
	}
	const most = 2000
	var p parts
	for _, most := range []int{1, most, 1 << 20} {
		req := large(2)
		all := req.Parts(most)
		if (len(all) == 1) != (most == 1<<20) {
			t.Errorf("%d parts of at most %d bytes", len(all), most)
		}
		for i, part := range all {
			if size := proto.Size(part); size > most && len(part.GetNetworks()) > 1 {
				t.Errorf("part %d has %d bytes", i, size)
			}
			whole, err := p.add(proto.CloneOf(part))
			if err != nil || (whole != nil) != (i == len(all)-1) || whole != nil && !proto.Equal(whole, large(2)) {
				t.Fatalf("part %d of %d: %v, %v", i, len(all), whole != nil, err)
			}
		}
	}
	// Whoever lost the answer begins again, also with another generation.
	first := large(3).Parts(most)
	p.add(first[0])
	small := &netdpb.OverlayRequest{Generation: 4}
	if whole, err := p.add(small); err != nil || whole != small {
		t.Errorf("another generation: %v", err)
	}
	p.add(proto.CloneOf(first[0]))
	if whole, err := p.add(first[0]); whole != nil || err == nil || !strings.Contains(err.Error(), "networks and nothing else") {
		t.Errorf("the first part twice: %v", err)
	}
	if p.begun != nil {
		t.Error("what was refused is kept")
	}
	p.add(large(5).Parts(most)[0])
	big := &netdpb.OverlayRequest{Generation: 5, Base: 4, More: true, Networks: make([]*netdpb.OverlayNetwork, maxPartNetworks)}
	if whole, err := p.add(big); whole != nil || err == nil || !strings.Contains(err.Error(), "exceed") {
		t.Errorf("too many networks: %v", err)
	}
}
