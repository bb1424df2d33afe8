package rules

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const benchServices, benchBackends = 1000, 10

// bigNetwork has that many services with that many backends, a twentieth of them
// on this node, of both families if asked.
func bigNetwork(services, backends int, both bool) *Network {
	n := &Network{Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Uplink: "vx0"}
	if both {
		n.Subnets = append(n.Subnets, subnet6)
		n.Gateways = append(n.Gateways, gateway6)
	}
	addrs := func(i int) []netip.Addr {
		out := []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
		if both {
			out = append(out, netip.MustParseAddr(fmt.Sprintf("fd00:1::2:%x", i)))
		}
		return out
	}
	next := 10
	for s := range services {
		id := fmt.Sprintf("service%04d", s)
		n.Services = append(n.Services, Service{ID: id, VIPs: addrs(0xc000 + s)})
		for b := range backends {
			e := Endpoint{Task: fmt.Sprintf("%s.%d", id, b), Service: id, Addrs: addrs(next), MAC: net.HardwareAddr{2, 0x52, 198, 18, 0, byte(1 + next%50)}, Serving: true}
			if next%20 == 0 {
				e.Port, e.MAC = fmt.Sprintf("p%d", next), net.HardwareAddr{2, 1, 0, 0, byte(next >> 8), byte(next)}
			}
			n.Endpoints = append(n.Endpoints, e)
			next++
		}
	}
	return n
}

// withRules denies by default, and lets each service talk to the next five.
func withRules(n *Network) *Network {
	n.DefaultDeny = true
	for i, s := range n.Services {
		r := Rule{ID: fmt.Sprintf("policy%d/0", i), From: []string{s.ID}, Proto: 6, First: 5432, Last: 5433}
		for k := 1; k <= 5; k++ {
			r.To = append(r.To, n.Services[(i+k)%len(n.Services)].ID)
		}
		n.Rules = append(n.Rules, r)
	}
	return n
}

// BenchmarkLargest puts as much as is allowed into one transaction.
func BenchmarkLargest(b *testing.B) {
	inside(b, func(b *testing.B, t *Table) {
		n := bigNetwork(maxEndpoints/16, 16, true)
		for b.Loop() {
			mustSet(b, New(t.nf), n)
		}
	})
}

type benchCase struct {
	name string
	net  func() *Network
}

var benchCases = []benchCase{
	{"IPv4", func() *Network { return bigNetwork(benchServices, benchBackends, false) }},
	{"both", func() *Network { return bigNetwork(benchServices, benchBackends, true) }},
	{"both,policy", func() *Network { return withRules(bigNetwork(benchServices, benchBackends, true)) }},
}

// processor reports what of it an operation used, which other work on the machine
// changes less than the clock.
func processor(b *testing.B) (begin, end, report func()) {
	now := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var used, since time.Duration
	return func() { since = now() }, func() { used += now() - since },
		func() { b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op") }
}

func mustSet(b *testing.B, t *Table, n *Network) {
	b.Helper()
	if changed, err := t.Set(context.Background(), n); err != nil || !changed {
		b.Fatal(changed, err)
	}
}

// inside runs the benchmark with the table of a new namespace.
func inside(b *testing.B, fn func(b *testing.B, t *Table)) { fn(b, newTable(b, newNetns(b))) }

// BenchmarkWhole puts a whole network of 1,000 services with 10 backends each in
// the place of another one.
func BenchmarkWhole(b *testing.B) {
	for _, x := range benchCases {
		b.Run(x.name, func(b *testing.B) {
			inside(b, func(b *testing.B, t *Table) {
				n := x.net()
				begin, end, report := processor(b)
				for b.Loop() {
					begin()
					t.gen = 0 // not known to be in force
					mustSet(b, t, n)
					end()
				}
				report()
			})
		})
	}
}

func oneChange(b *testing.B, change func(n *Network, i int)) {
	for _, x := range benchCases {
		b.Run(x.name, func(b *testing.B) {
			inside(b, func(b *testing.B, t *Table) {
				n := x.net()
				mustSet(b, t, n)
				runtime.GC()
				i := 0
				begin, end, report := processor(b)
				for b.Loop() {
					b.StopTimer()
					next := *n
					next.Endpoints, next.Services = slices.Clone(n.Endpoints), slices.Clone(n.Services)
					change(&next, i)
					n, i = &next, i+1
					begin()
					b.StartTimer()
					mustSet(b, t, n)
					b.StopTimer()
					end()
					b.StartTimer()
				}
				report()
			})
		})
	}
}

// BenchmarkOneBackend stops one of 10,000 backends serving, or lets it serve
// again.
func BenchmarkOneBackend(b *testing.B) {
	oneChange(b, func(n *Network, i int) { e := &n.Endpoints[(i/2*37)%len(n.Endpoints)]; e.Serving = !e.Serving })
}

// BenchmarkOneTask takes one of 10,000 endpoints away, or brings it back.
func BenchmarkOneTask(b *testing.B) {
	var was Endpoint
	oneChange(b, func(n *Network, i int) {
		at := (i / 2 * 37) % (len(n.Endpoints) - 1)
		if i%2 == 0 {
			was = n.Endpoints[at]
			n.Endpoints = slices.Delete(n.Endpoints, at, at+1)
		} else {
			n.Endpoints = slices.Insert(n.Endpoints, at, was)
		}
	})
}

// BenchmarkOneService adds a service of 10 backends to 1,000, or removes it.
func BenchmarkOneService(b *testing.B) {
	oneChange(b, func(n *Network, i int) {
		if i%2 == 1 {
			n.Services = n.Services[:len(n.Services)-1]
			n.Endpoints = n.Endpoints[:len(n.Endpoints)-benchBackends]
			return
		}
		more := bigNetwork(benchServices+1, benchBackends, len(n.Subnets) > 1)
		n.Services = append(n.Services, more.Services[benchServices])
		n.Endpoints = append(n.Endpoints, more.Endpoints[benchServices*benchBackends:]...)
	})
}

// BenchmarkRepair compares all with the plan, after somebody changed something.
func BenchmarkRepair(b *testing.B) {
	for _, x := range benchCases {
		b.Run(x.name, func(b *testing.B) {
			inside(b, func(b *testing.B, t *Table) {
				mustSet(b, t, x.net())
				if _, err := t.Ensure(); err != nil {
					b.Fatal(err)
				}
				begin, end, report := processor(b)
				for b.Loop() {
					begin()
					t.gen++
					if repaired, err := t.Ensure(); repaired || err != nil {
						b.Fatal(repaired, err)
					}
					end()
				}
				report()
			})
		})
	}
}
