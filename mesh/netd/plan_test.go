package netd

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

func mustIPNet(s string) *net.IPNet { return kernel.IPNet(netip.MustParsePrefix(s)) }

func nobody(string) bool { return false }

func sampleEndpoint(i int) *netdpb.Endpoint {
	return &netdpb.Endpoint{TaskId: ident.New(), Netns: ident.New(), Mac: fmt.Sprintf("02:00:00:00:00:%02x", i),
		Address: fmt.Sprintf("172.29.0.%d/24", i+1), Ports: []*netdpb.PublishedPort{tcpPort(uint32(8000+i), 80)}}
}

func TestBadRequest(t *testing.T) {
	for want, change := range map[string]func(r *netdpb.ApplyRequest){
		"no address with prefix":  func(r *netdpb.ApplyRequest) { r.BridgeAddress = "172.29.0.1" },
		"such as 172.29.0.1/20":   func(r *netdpb.ApplyRequest) { r.BridgeAddress = "172.29.0.1/33" },
		"only IPv4":               func(r *netdpb.ApplyRequest) { r.BridgeAddress = "fd00::1/64" },
		"must be 8 to 29":         func(r *netdpb.ApplyRequest) { r.BridgeAddress = "172.29.0.1/31" },
		"private unicast":         func(r *netdpb.ApplyRequest) { r.BridgeAddress = "127.0.0.1/24" },
		"or broadcast address":    func(r *netdpb.ApplyRequest) { r.BridgeAddress = "172.29.0.255/24" },
		"the network's own":       func(r *netdpb.ApplyRequest) { r.BridgeAddress = "172.29.0.0/24" },
		"bridge_address is miss":  func(r *netdpb.ApplyRequest) { r.BridgeAddress = "" },
		"is no task id":           func(r *netdpb.ApplyRequest) { r.Endpoints[0].TaskId = "../../x" },
		"has two endpoints":       func(r *netdpb.ApplyRequest) { r.Endpoints = append(r.Endpoints, r.Endpoints[0]) },
		"exceed the limit of 100": func(r *netdpb.ApplyRequest) { r.Endpoints = make([]*netdpb.Endpoint, maxEndpoints+1) },
	} {
		r := &netdpb.ApplyRequest{Generation: 1, BridgeAddress: bridgeCIDR, Endpoints: []*netdpb.Endpoint{sampleEndpoint(1)}}
		change(r)
		if _, _, err := parse(r, nobody); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestBadEndpoint(t *testing.T) {
	first := sampleEndpoint(1)
	port := func(p ...*netdpb.PublishedPort) func(*netdpb.Endpoint) {
		return func(e *netdpb.Endpoint) { e.Ports = p }
	}
	for _, c := range []struct {
		want   string
		change func(e *netdpb.Endpoint)
	}{
		{"no file name of a sandbox", func(e *netdpb.Endpoint) { e.Netns = "../" + ident.New() }},
		{"no file name of a sandbox", func(e *netdpb.Endpoint) { e.Netns = "/proc/1/ns/net" }},
		{"no file name of a sandbox", func(e *netdpb.Endpoint) { e.Netns = "" }},
		{"belongs to task " + first.TaskId, func(e *netdpb.Endpoint) { e.Netns = first.Netns }},
		{"belongs to task " + first.TaskId, func(e *netdpb.Endpoint) { e.Mac = first.Mac }},
		{"belongs to task " + first.TaskId, func(e *netdpb.Endpoint) { e.Address = first.Address }},
		{"no Ethernet address", func(e *netdpb.Endpoint) { e.Mac = "x" }},
		{"no Ethernet address", func(e *netdpb.Endpoint) { e.Mac = "02:00:5e:10:00:00:00:01" }},
		{"not a locally administered", func(e *netdpb.Endpoint) { e.Mac = "00:16:3e:00:00:01" }},
		{"not a locally administered", func(e *netdpb.Endpoint) { e.Mac = "03:00:00:00:00:01" }},
		{"belongs to the node bridge", func(e *netdpb.Endpoint) { e.Mac = bridgeMAC(netip.MustParseAddr(gatewayIP)).String() }},
		{"belongs to the node bridge", func(e *netdpb.Endpoint) { e.Address = bridgeCIDR }},
		{"no address with prefix", func(e *netdpb.Endpoint) { e.Address = "172.29.0.300/24" }},
		{"no host of the bridge's subnet", func(e *netdpb.Endpoint) { e.Address = "172.30.0.3/24" }},
		{"no host of the bridge's subnet", func(e *netdpb.Endpoint) { e.Address = "172.29.0.3/16" }},
		{"no host of the bridge's subnet", func(e *netdpb.Endpoint) { e.Address = "172.29.0.255/24" }},
		{"no host of the bridge's subnet", func(e *netdpb.Endpoint) { e.Address = "::ffff:172.29.0.3/120" }},
		{"port 0 is out of range", port(tcpPort(0, 80))},
		{"port 65536 is out of range", port(tcpPort(65536, 80))},
		{"port 0 is out of range", port(tcpPort(80, 0))},
		{"no IPv4 address to publish on", port(tcpPort(80, 80, "::1"))},
		{"no IPv4 address to publish on", port(tcpPort(80, 80, "eth0"))},
		{"no IPv4 address to publish on", port(tcpPort(80, 80, "224.0.0.1"))},
		{"published already as 8001/tcp", port(tcpPort(8001, 80))},
		{"published already as 8001/tcp", port(tcpPort(8001, 80, "127.0.0.1"))},
		{"published already as 10.0.0.1:90/tcp", port(tcpPort(90, 80, "10.0.0.1"), tcpPort(90, 81))},
		{"exceed the limit of 64", port(make([]*netdpb.PublishedPort, maxPortsPerEndpoint+1)...)},
	} {
		e := sampleEndpoint(2)
		c.change(e)
		p, bad, err := parse(&netdpb.ApplyRequest{BridgeAddress: bridgeCIDR, Endpoints: []*netdpb.Endpoint{first, e}}, nobody)
		if err != nil || bad[e.TaskId] == nil || !strings.Contains(bad[e.TaskId].Error(), c.want) {
			t.Errorf("got %v, %v, want %q", bad, err, c.want)
		}
		if len(p.endpoints) != 1 || p.endpoints[0].task != first.TaskId {
			t.Errorf("%s: the plan has %v", c.want, p.endpoints)
		}
	}
}

// The one that is attached wins, wherever it stands.
func TestAttachedWins(t *testing.T) {
	a, b := sampleEndpoint(1), sampleEndpoint(2)
	b.Ports = a.Ports
	for _, holder := range []*netdpb.Endpoint{a, b} {
		_, bad, err := parse(&netdpb.ApplyRequest{BridgeAddress: bridgeCIDR, Endpoints: []*netdpb.Endpoint{a, b}},
			func(task string) bool { return task == holder.TaskId })
		if err != nil || len(bad) != 1 || bad[holder.TaskId] != nil {
			t.Errorf("got %v, %v", bad, err)
		}
	}
}

// checkPlan is what every accepted plan has, whatever was asked for.
func checkPlan(t interface{ Fatalf(string, ...any) }, p plan) {
	macs, addrs, nets := map[[6]byte]bool{}, map[netip.Addr]bool{p.bridge.Addr(): true}, map[string]bool{}
	var ports []port
	for _, e := range p.endpoints {
		if macs[e.mac] || addrs[e.addr.Addr()] || nets[e.netns] || !ident.Valid(e.netns) || !ident.Valid(e.task) ||
			!p.bridge.Contains(e.addr.Addr()) || e.mac[0]&3 != 2 || len(portName(e.task)) > 15 {
			t.Fatalf("unsound plan: %+v", e)
		}
		macs[e.mac], addrs[e.addr.Addr()], nets[e.netns] = true, true, true
		for _, q := range e.ports {
			for _, r := range ports {
				if q.overlaps(r) {
					t.Fatalf("%s and %s are both published", q, r)
				}
			}
			ports = append(ports, q)
		}
	}
}

func TestPlansAreSound(t *testing.T) {
	ids := []string{ident.New(), ident.New(), ident.New(), "bad"}
	rapid.Check(t, func(rt *rapid.T) {
		r := &netdpb.ApplyRequest{BridgeAddress: bridgeCIDR}
		total := rapid.IntRange(0, 6).Draw(rt, "endpoints")
		for i := range total {
			e := &netdpb.Endpoint{TaskId: ident.New(),
				Netns:   rapid.SampledFrom(ids).Draw(rt, "netns"),
				Mac:     fmt.Sprintf("02:00:00:00:00:%02x", rapid.IntRange(0, 4).Draw(rt, "mac")),
				Address: fmt.Sprintf("172.29.0.%d/24", rapid.IntRange(0, 6).Draw(rt, "address"))}
			if i > 0 && rapid.Bool().Draw(rt, "own netns") {
				e.Netns = e.TaskId
			}
			for range rapid.IntRange(0, 3).Draw(rt, "ports") {
				e.Ports = append(e.Ports, &netdpb.PublishedPort{Target: 80, Udp: rapid.Bool().Draw(rt, "udp"),
					Published: rapid.Uint32Range(0, 4).Draw(rt, "published"),
					HostIp:    rapid.SampledFrom([]string{"", "0.0.0.0", "127.0.0.1", "10.0.0.1"}).Draw(rt, "host")})
			}
			r.Endpoints = append(r.Endpoints, e)
		}
		p, bad, err := parse(r, nobody)
		if err != nil {
			rt.Fatalf("%v", err)
		}
		if len(p.endpoints)+len(bad) != total {
			rt.Fatalf("%d planned and %d refused of %d", len(p.endpoints), len(bad), total)
		}
		checkPlan(rt, p)
	})
}

func FuzzParse(f *testing.F) {
	for _, r := range []*netdpb.ApplyRequest{
		{}, {BridgeAddress: bridgeCIDR},
		{Generation: 7, BridgeAddress: bridgeCIDR, Endpoints: []*netdpb.Endpoint{sampleEndpoint(1), sampleEndpoint(2)}},
		{BridgeAddress: "10.0.0.1/8", Endpoints: []*netdpb.Endpoint{{TaskId: "x", Ports: []*netdpb.PublishedPort{{Published: 1 << 31}}}}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r netdpb.ApplyRequest
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		p, bad, err := parse(&r, nobody)
		if err != nil {
			return
		}
		if len(p.endpoints)+len(bad) != len(r.Endpoints) {
			t.Fatalf("%d planned and %d refused of %d", len(p.endpoints), len(bad), len(r.Endpoints))
		}
		checkPlan(t, p)
		for _, err := range bad {
			if strings.ContainsAny(err.Error(), "\n\r\x00") || len(err.Error()) > 400 {
				t.Fatalf("error is no line: %q", err)
			}
		}
	})
}
