package overlay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// large is a network of services with virtual addresses and backends on other
// nodes.
func large(services, backends, nodes int, dual bool) *netdpb.OverlayNetwork {
	n := &netdpb.OverlayNetwork{Id: ident.New(), Vni: 7, Subnets: []*netdpb.OverlaySubnet{{Subnet: "10.200.0.0/16", Gateway: "10.200.0.1"}}}
	if dual {
		n.Subnets = append(n.Subnets, &netdpb.OverlaySubnet{Subnet: "fd52::/64", Gateway: "fd52::1"})
	}
	n.Netns = netnsPrefix + n.Id
	addrs := func(high, i int) []string {
		out := []string{fmt.Sprintf("10.200.%d.%d", high+i/250, 2+i%250), fmt.Sprintf("fd52::%x:%x", high+1, i+2)}
		if !dual {
			out = out[:1]
		}
		return out
	}
	for i := range services {
		s := &netdpb.OverlayService{ServiceId: ident.New(), Vips: addrs(192, i)}
		n.Services = append(n.Services, s)
		for j := range backends {
			k := i*backends + j
			n.Endpoints = append(n.Endpoints, &netdpb.OverlayEndpoint{TaskId: ident.New(), ServiceId: s.GetServiceId(), Addresses: addrs(0, k), Serving: true,
				Node: netip.AddrFrom4([4]byte{198, 18, 1, byte(1 + k%nodes)}).String()})
		}
	}
	return n
}

// BenchmarkApply is one declaration of 1,000 services with 10 backends each to a
// node with an empty network; BenchmarkBackend one backend less and one more,
// each a declaration, after it; BenchmarkService one service with its backends;
// BenchmarkSweep compares all of it with the kernel.
func BenchmarkApply(b *testing.B) {
	for _, dual := range []bool{false, true} {
		b.Run(stack(dual), func(b *testing.B) {
			l := newLab(b, 1)
			n := l.nodes[0]
			net := large(1000, 10, 50, dual)
			n.pin(net.GetNetns())
			var inUse uint64
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				n.gen++
				empty := &netdpb.OverlayNetwork{Id: net.GetId(), Vni: net.GetVni(), Netns: net.GetNetns(), Subnets: net.GetSubnets()}
				n.declare(&netdpb.OverlayRequest{Generation: n.gen, MeshAddress: n.mesh().String(), Networks: []*netdpb.OverlayNetwork{empty}})
				n.gen++
				req := &netdpb.OverlayRequest{Generation: n.gen, MeshAddress: n.mesh().String(), Networks: []*netdpb.OverlayNetwork{net}}
				began := processor(b)
				b.StartTimer()
				n.declare(req)
				b.StopTimer()
				used += processor(b) - began
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				inUse = m.HeapInuse + m.StackInuse
				b.StartTimer()
			}
			b.ReportMetric(float64(inUse>>20), "MiB")
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// processor is what this process used of it, in all threads; on a busy machine it
// says more than the time.
func processor(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpu reports what of it was used until the function returned is called.
func cpu(b *testing.B) func() {
	began := processor(b)
	return func() { b.ReportMetric(float64((processor(b)-began).Microseconds())/1000/float64(b.N), "cpu-ms/op") }
}

func stack(dual bool) string {
	if dual {
		return "dual"
	}
	return "ipv4"
}

// filled is a node with the large network in force, and some connections on it:
// without any, nothing would have to be looked for when something goes.
func filled(b *testing.B, dual bool) (*node, *netdpb.OverlayNetwork) {
	n := newLab(b, 1).nodes[0]
	net := large(1000, 10, 50, dual)
	ns := n.pin(net.GetNetns())
	n.gen++
	n.declare(&netdpb.OverlayRequest{Generation: n.gen, MeshAddress: n.mesh().String(), Networks: []*netdpb.OverlayNetwork{net}})
	track(b, ns, net, 1000)
	return n, net
}

// track makes the kernel track that many connections between endpoints.
func track(b *testing.B, ns *os.File, n *netdpb.OverlayNetwork, count int) {
	b.Helper()
	err := kernel.WithRoutes(ns, func(h *netlink.Handle) error {
		for i := range count {
			from, to := net.ParseIP(n.GetEndpoints()[i].GetAddresses()[0]).To4(), net.ParseIP(n.GetEndpoints()[i+1].GetAddresses()[0]).To4()
			err := h.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{FamilyType: unix.AF_INET, TimeOut: 3600,
				Forward: netlink.IPTuple{Protocol: protoUDP, SrcIP: from, DstIP: to, SrcPort: 4000, DstPort: 53},
				Reverse: netlink.IPTuple{Protocol: protoUDP, SrcIP: to, DstIP: from, SrcPort: 53, DstPort: 4000}})
			if err != nil {
				return err
			}
		}
		return nil
	}, unix.NETLINK_NETFILTER)
	if err != nil {
		b.Fatal(err)
	}
}

func (n *node) step(id string, change *netdpb.OverlayNetwork) {
	change.Id, change.Changes = id, true
	n.gen++
	n.declare(&netdpb.OverlayRequest{Generation: n.gen, Base: n.gen - 1, Networks: []*netdpb.OverlayNetwork{change}})
}

func BenchmarkBackend(b *testing.B) {
	for _, dual := range []bool{false, true} {
		b.Run(stack(dual), func(b *testing.B) {
			n, net := filled(b, dual)
			e := net.GetEndpoints()[5005]
			gone := false
			defer cpu(b)()
			for b.Loop() {
				if gone = !gone; gone {
					n.step(net.GetId(), &netdpb.OverlayNetwork{RemovedEndpoints: []string{e.GetTaskId()}})
				} else {
					n.step(net.GetId(), &netdpb.OverlayNetwork{Endpoints: []*netdpb.OverlayEndpoint{e}})
				}
			}
		})
	}
}

func BenchmarkService(b *testing.B) {
	n, net := filled(b, false)
	s, backends := net.GetServices()[500], net.GetEndpoints()[5000:5010]
	var tasks []string
	for _, e := range backends {
		tasks = append(tasks, e.GetTaskId())
	}
	gone := false
	defer cpu(b)()
	for b.Loop() {
		if gone = !gone; gone {
			n.step(net.GetId(), &netdpb.OverlayNetwork{RemovedEndpoints: tasks, RemovedServices: []string{s.GetServiceId()}})
		} else {
			n.step(net.GetId(), &netdpb.OverlayNetwork{Endpoints: backends, Services: []*netdpb.OverlayService{s}})
		}
	}
}

func BenchmarkSweep(b *testing.B) {
	for _, dual := range []bool{false, true} {
		b.Run(stack(dual), func(b *testing.B) {
			n, net := filled(b, dual)
			defer cpu(b)()
			for b.Loop() {
				n.o.mu.Lock()
				n.o.apply(b.Context(), map[string]*touched{net.GetId(): {whole: true}})
				changes := n.o.realms[net.GetId()].changes
				n.o.mu.Unlock()
				if len(changes) > 0 {
					b.Fatal(changes)
				}
			}
		})
	}
}

// BenchmarkNetworks is one declaration of 1,000 networks with two endpoints each to
// a node that has none, and BenchmarkNetworksAgain the same once more: each is
// compared with the kernel.
func BenchmarkNetworks(b *testing.B) {
	n, req := manyNetworks(b, 1000)
	var used, removed time.Duration
	var heap, kernel, files int64
	for b.Loop() {
		b.StopTimer()
		heap, kernel = heapInUse(), kernelMemory(b)
		began := processor(b)
		b.StartTimer()
		n.gen++
		req.Generation = n.gen
		n.declare(req)
		b.StopTimer()
		used += processor(b) - began
		heap, kernel, files = heapInUse()-heap, kernelMemory(b)-kernel, open(b)
		gone := time.Now()
		n.declare(n.request())
		removed += time.Since(gone)
		b.StartTimer()
	}
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(heap)/(1<<20), "heap-MiB")
	b.ReportMetric(float64(kernel)/(1<<20), "kernel-MiB")
	b.ReportMetric(removed.Seconds()/float64(b.N), "removal-s")
	b.ReportMetric(float64(files), "files")
}

// heapInUse is what of this process' memory is, stacks included.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// kernelMemory is what the kernel uses for itself, of the whole machine.
func kernelMemory(b *testing.B) (sum int64) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, ":")
		var n int64
		if _, err := fmt.Sscanf(line, name+": %d kB", &n); err == nil && (name == "SUnreclaim" || name == "Percpu" || name == "VmallocUsed") {
			sum += n << 10
		}
	}
	return sum
}

// open is how many files this process has open.
func open(b *testing.B) int64 {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		b.Fatal(err)
	}
	return int64(len(all))
}

func BenchmarkNetworksAgain(b *testing.B) {
	n, req := manyNetworks(b, 300)
	n.gen++
	req.Generation = n.gen
	n.declare(req)
	defer cpu(b)()
	for b.Loop() {
		n.declare(req)
	}
}

func manyNetworks(b *testing.B, count int) (*node, *netdpb.OverlayRequest) {
	l := newLab(b, 1)
	n := l.nodes[0]
	req := &netdpb.OverlayRequest{MeshAddress: n.mesh().String()}
	for k := range count {
		id := ident.New()
		n.pin(netnsPrefix + id)
		prefix := fmt.Sprintf("10.%d.%d.", 200+k/250, k%250)
		net := &netdpb.OverlayNetwork{Id: id, Vni: uint32(k + 1), Netns: netnsPrefix + id, Subnets: []*netdpb.OverlaySubnet{{Subnet: prefix + "0/24", Gateway: prefix + "1"}}}
		for i := range 2 {
			net.Endpoints = append(net.Endpoints, &netdpb.OverlayEndpoint{TaskId: ident.New(), ServiceId: ident.New(), Addresses: []string{fmt.Sprint(prefix, i+2)},
				Serving: true, Node: fmt.Sprintf("198.18.0.%d", i+2)})
		}
		req.Networks = append(req.Networks, net)
	}
	return n, req
}
