package ingress

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// BenchmarkDeclare is an entry node that is told of services with ten tasks
// elsewhere each; then of one task that begins or stops to serve; of one service
// less or more, which has a VXLAN device and nodes that the mesh admits; then it
// looks at all of it, and makes its own table anew.
func BenchmarkDeclare(b *testing.B) {
	for _, c := range []struct {
		services int
		dual     bool
	}{{200, true}, {1000, false}} {
		families := "IPv4"
		if c.dual {
			families = "both"
		}
		b.Run(fmt.Sprintf("services=%d/families=%s", c.services, families), func(b *testing.B) {
			d := newDeclared(b, c.services, c.dual)
			s := d.services[7]
			b.Run("backend", func(b *testing.B) {
				defer cpu(b)()
				for i := 0; b.Loop(); i++ {
					s.Endpoints[0].Serving = i%2 == 1
					d.tell(b, &netdpb.IngressRequest{Services: []*netdpb.IngressService{{ServiceId: s.ServiceId, Changes: true, Endpoints: s.Endpoints[:1]}}})
				}
			})
			b.Run("service", func(b *testing.B) {
				defer cpu(b)()
				for i := 0; b.Loop(); i++ {
					if i%2 == 0 {
						d.tell(b, &netdpb.IngressRequest{Removed: []string{s.ServiceId}})
					} else {
						d.tell(b, &netdpb.IngressRequest{Services: []*netdpb.IngressService{s}})
					}
				}
			})
			b.Run("look", func(b *testing.B) {
				defer cpu(b)()
				for b.Loop() {
					d.in.repair(b.Context())
				}
			})
			b.Run("table", func(b *testing.B) {
				defer cpu(b)()
				for b.Loop() {
					want := d.in.plan.outside(&memory[part]{}, d.in.publish(), d.in.sight())
					d.in.outer.have = nil
					if _, err := d.in.outer.set(d.in.nf, want); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// cpu reports what of the processor was used until the function returned is
// called: on a machine that does other things as well that says more than the time.
func cpu(b *testing.B) func() {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	began := used()
	return func() { b.ReportMetric(float64((used()-began).Microseconds())/1000/float64(b.N), "cpu-ms/op") }
}

type declared struct {
	*node
	services []*netdpb.IngressService
}

func newDeclared(b *testing.B, services int, dual bool) *declared {
	l := newLab(b, 1)
	d := &declared{node: l.nodes[0]}
	d.halt()
	req := d.request(l.nodes)
	if !dual {
		req.Subnet6 = ""
	}
	for s := range services {
		x := &netdpb.IngressService{ServiceId: ident.New(), Vni: uint32(5000 + s), Entry: proto.Bool(true), Ports: []*netdpb.IngressPort{{Published: uint32(20000 + s), Target: 80}}}
		for e := range 10 {
			k := s*10 + e
			x.Endpoints = append(x.Endpoints, &netdpb.IngressEndpoint{TaskId: ident.New(), Address: fmt.Sprintf("10.255.%d.%d", k/250, 1+k%250), Node: fmt.Sprintf("198.18.1.%d", 1+k%250), Serving: true})
			if dual {
				x.Endpoints[e].Address6 = fmt.Sprintf("fd00:9::%x", k+1)
			}
		}
		req.Services = append(req.Services, x)
	}
	d.services = req.Services
	began := time.Now()
	if _, err := d.in.Declare(b.Context(), req); err != nil {
		b.Fatal(err)
	}
	b.Logf("the whole: %s", time.Since(began))
	return d
}

// tell declares a difference.
func (d *declared) tell(b *testing.B, req *netdpb.IngressRequest) {
	d.gen++
	req.Generation, req.Base = d.gen, d.gen-1
	if _, err := d.in.Declare(b.Context(), req); err != nil {
		b.Fatal(err)
	}
}
