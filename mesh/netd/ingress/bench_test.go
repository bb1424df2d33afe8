package ingress

import (
	"fmt"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// BenchmarkDeclare is an entry node that is told of 200 services with ten tasks
// elsewhere each; then of one task that begins or stops to serve; then finds that
// nothing has changed.
func BenchmarkDeclare(b *testing.B) {
	const services, tasks = 200, 10
	l := newLab(b, 1)
	n := l.nodes[0]
	n.halt()
	req := n.request(l.nodes)
	for s := range services {
		x := &netdpb.IngressService{ServiceId: ident.New(), Vni: uint32(5000 + s), Ports: []*netdpb.IngressPort{{Published: uint32(20000 + s), Target: 80}}}
		for e := range tasks {
			k := s*tasks + e
			x.Endpoints = append(x.Endpoints, &netdpb.IngressEndpoint{TaskId: ident.New(), Address: fmt.Sprintf("10.255.%d.%d", k/250, 1+k%250), Node: fmt.Sprintf("198.18.1.%d", 1+k%250), Serving: true})
		}
		req.Services = append(req.Services, x)
	}
	began := time.Now()
	if _, err := n.in.Declare(b.Context(), req); err != nil {
		b.Fatal(err)
	}
	b.Logf("the whole: %s", time.Since(began))
	s := req.Services[7]
	for i := 0; b.Loop(); i++ {
		n.gen++
		s.Endpoints[0].Serving = i%2 == 1
		one := &netdpb.IngressRequest{Generation: n.gen, Base: n.gen - 1, Services: []*netdpb.IngressService{{ServiceId: s.ServiceId, Changes: true, Endpoints: s.Endpoints[:1]}}}
		if _, err := n.in.Declare(b.Context(), one); err != nil {
			b.Fatal(err)
		}
	}
	began = time.Now()
	n.in.repair(b.Context())
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "look-ms")
}
