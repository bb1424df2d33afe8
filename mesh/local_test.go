package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// netd answers the wire protocol on a real socket.
type netd struct {
	state  netdpb.StateResponse
	got    *netdpb.ApplyRequest
	answer func(*netdpb.Request) *netdpb.Response // nil: as netd does
}

func (n *netd) serve(t *testing.T) *wire.Client {
	t.Helper()
	path := t.TempDir() + "/netd.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for {
				req := &netdpb.Request{}
				if wire.Read(c, req) != nil || wire.Write(c, n.respond(req)) != nil {
					break
				}
			}
			c.Close()
		}
	}()
	client := wire.NewClient(path)
	t.Cleanup(func() {
		client.Close()
		l.Close()
		<-done
	})
	return client
}

func (n *netd) respond(req *netdpb.Request) *netdpb.Response {
	if n.answer != nil {
		return n.answer(req)
	}
	switch v := req.Verb.(type) {
	case *netdpb.Request_Apply:
		n.got = v.Apply
		n.state.Generation = v.Apply.Generation
		out := &netdpb.ApplyResponse{}
		for _, e := range v.Apply.Endpoints {
			r := &netdpb.EndpointResult{TaskId: e.TaskId}
			if len(e.Ports) > 0 && e.Ports[0].Published == 81 {
				r.Error = "port 81/tcp is in use on this node"
			}
			out.Results = append(out.Results, r)
		}
		return &netdpb.Response{Result: &netdpb.Response_Apply{Apply: out}}
	case *netdpb.Request_State:
		return &netdpb.Response{Result: &netdpb.Response_State{State: proto.CloneOf(&n.state)}}
	default:
		return &netdpb.Response{Result: &netdpb.Response_Probe{Probe: &netdpb.ProbeResponse{
			Features: []*netdpb.Feature{{Name: "bridge", Present: true, Required: true, Detail: "d"}}}}}
	}
}

func newLocal(t *testing.T, n *netd, subnet string) *Local {
	t.Helper()
	l, err := NewLocal(LocalConfig{Netd: n.serve(t), Subnet: netip.MustParsePrefix(subnet), DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSync(t *testing.T) {
	n := &netd{}
	l := newLocal(t, n, "172.30.0.0/24")
	web, busy := ident.New(), ident.New()
	e, err := l.Reserve(web)
	if err != nil {
		t.Fatal(err)
	}
	if e.Gateway.String() != "172.30.0.1" || e.Address.Bits() != 24 || len(e.DNS) != 1 || e.MAC[0]&3 != 2 {
		t.Errorf("endpoint %+v", e)
	}
	l.Reserve(busy)
	failed, err := l.Sync(t.Context(), []Attachment{
		{TaskID: web, Netns: web, Ports: []Port{{Published: 8080, Target: 80, UDP: true, HostIP: netip.MustParseAddr("10.0.0.1")}}},
		{TaskID: busy, Netns: busy, Ports: []Port{{Published: 81, Target: 80}}},
		{TaskID: "unreserved", Netns: "x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(failed) != 2 || failed[busy] == nil || failed["unreserved"] == nil {
		t.Errorf("failed %v", failed)
	}
	if n.got.BridgeAddress != "172.30.0.1/24" || len(n.got.Endpoints) != 2 {
		t.Fatalf("applied %v", n.got)
	}
	for _, got := range n.got.Endpoints {
		if got.TaskId == web && (got.Mac != e.MAC.String() || got.Address != e.Address.String() || got.Netns != web ||
			!got.Ports[0].Udp || got.Ports[0].HostIp != "10.0.0.1" || got.Ports[0].Published != 8080 || got.Ports[0].Target != 80) {
			t.Errorf("endpoint %v", got)
		}
	}
	if ok, err := l.Check(t.Context()); !ok || err != nil {
		t.Errorf("check: %v, %v", ok, err)
	}
	first := n.got.Generation
	n.state.Generation = 0 // restarted
	if ok, err := l.Check(t.Context()); ok || err != nil {
		t.Errorf("check after a restart: %v, %v", ok, err)
	}
	if _, err := l.Sync(t.Context(), nil); err != nil || n.got.Generation <= first || len(n.got.Endpoints) != 0 {
		t.Errorf("second sync: %v, %v", err, n.got)
	}
	if f, err := l.Probe(t.Context()); err != nil || len(f) != 1 || f[0] != (Feature{"bridge", true, true, "d"}) {
		t.Errorf("probe: %v, %v", f, err)
	}
}

// Answers that make no sense are errors, and leave nothing in force.
func TestSyncBadAnswers(t *testing.T) {
	task := ident.New()
	for name, answer := range map[string]*netdpb.Response{
		"error":     {Result: &netdpb.Response_Error{Error: &netdpb.Error{Message: "no"}}},
		"wrong":     {Result: &netdpb.Response_Probe{Probe: &netdpb.ProbeResponse{}}},
		"empty":     {},
		"no result": {Result: &netdpb.Response_Apply{Apply: &netdpb.ApplyResponse{}}},
	} {
		n := &netd{answer: func(*netdpb.Request) *netdpb.Response { return answer }}
		l := newLocal(t, n, "172.30.0.0/24")
		l.Reserve(task)
		failed, err := l.Sync(t.Context(), []Attachment{{TaskID: task, Netns: task}})
		if err == nil && failed[task] == nil {
			t.Errorf("%s: taken for an attachment", name)
		}
	}
	l, err := NewLocal(LocalConfig{Netd: wire.NewClient(t.TempDir() + "/none"), Subnet: netip.MustParsePrefix("172.30.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Sync(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "netd is not answering") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Sync(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestNewLocalRefuses(t *testing.T) {
	for subnet, text := range map[string]string{
		"172.30.0.0/31": "too small", "172.30.0.0/32": "too small", "172.30.0.0/30": "too small",
		"10.0.0.0/8": "larger than one node can use", "172.30.0.1/24": "write 172.30.0.0/24",
		"fd00::/64": "only IPv4", "224.1.0.0/24": "not an ordinary", "127.0.0.0/24": "not an ordinary",
		"169.254.0.0/24": "not an ordinary", "0.0.0.0/24": "not an ordinary", "240.0.0.0/24": "not an ordinary",
	} {
		_, err := NewLocal(LocalConfig{Netd: wire.NewClient(""), Subnet: netip.MustParsePrefix(subnet)})
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", subnet, err, text)
		}
	}
	good := netip.MustParsePrefix("172.30.0.0/24")
	for _, c := range []LocalConfig{
		{Netd: wire.NewClient("")},
		{Subnet: good},
		{Netd: wire.NewClient(""), Subnet: good, DNS: []netip.Addr{netip.MustParseAddr("127.0.0.53")}},
		{Netd: wire.NewClient(""), Subnet: good, DNS: []netip.Addr{{}}},
		{Netd: wire.NewClient(""), Subnet: good, DNS: make([]netip.Addr, maxDNS+1)},
	} {
		if _, err := NewLocal(c); err == nil {
			t.Errorf("accepted %+v", c)
		}
	}
}

func TestSubnetFull(t *testing.T) {
	l := newLocal(t, &netd{}, "172.30.0.0/29")
	for i := range 5 {
		if _, err := l.Reserve(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Reserve("5"); err == nil || !strings.Contains(err.Error(), "172.30.0.0/29 is full: all 5 addresses are in use") {
		t.Errorf("error %v", err)
	}
	l.Release("3")
	if _, err := l.Reserve("5"); err != nil {
		t.Error(err)
	}
}

// What netd would refuse as a whole is refused for the one task too many.
func TestBounds(t *testing.T) {
	n := &netd{}
	l := newLocal(t, n, "172.30.0.0/16")
	var attached []Attachment
	for i := range maxEndpoints {
		id := fmt.Sprint(i)
		if _, err := l.Reserve(id); err != nil {
			t.Fatal(err)
		}
		a := Attachment{TaskID: id, Netns: id}
		switch {
		case i == 0:
			a.Ports = make([]Port, maxPorts+1)
		case i <= maxTotalPorts/maxPorts+1:
			a.Ports = make([]Port, maxPorts)
		}
		attached = append(attached, a)
	}
	if _, err := l.Reserve("more"); err == nil {
		t.Error("one endpoint too many was reserved")
	}
	failed, err := l.Sync(t.Context(), attached)
	if err != nil || len(failed) != 2 || failed["0"] == nil || len(n.got.Endpoints) != maxEndpoints-2 {
		t.Errorf("%d failed, %d applied, %v", len(failed), len(n.got.GetEndpoints()), err)
	}
}

func TestAdopt(t *testing.T) {
	l := newLocal(t, &netd{}, "172.30.0.0/24")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	p := netip.MustParsePrefix
	if err := l.Adopt("a", Endpoint{MAC: mac, Address: p("172.30.0.7/24")}); err != nil {
		t.Fatal(err)
	}
	if e, err := l.Reserve("a"); err != nil || e.Address != p("172.30.0.7/24") || e.MAC.String() != mac.String() {
		t.Errorf("endpoint %v, %v", e, err)
	}
	mac2 := net.HardwareAddr{2, 0, 0, 0, 0, 2}
	for name, c := range map[string]struct {
		task string
		e    Endpoint
	}{
		"address taken":  {"b", Endpoint{MAC: mac2, Address: p("172.30.0.7/24")}},
		"MAC taken":      {"b", Endpoint{MAC: mac, Address: p("172.30.0.8/24")}},
		"other subnet":   {"b", Endpoint{MAC: mac2, Address: p("172.30.1.8/24")}},
		"other length":   {"b", Endpoint{MAC: mac2, Address: p("172.30.0.8/25")}},
		"the gateway's":  {"b", Endpoint{MAC: mac2, Address: p("172.30.0.1/24")}},
		"network's":      {"b", Endpoint{MAC: mac2, Address: p("172.30.0.0/24")}},
		"broadcast":      {"b", Endpoint{MAC: mac2, Address: p("172.30.0.255/24")}},
		"multicast MAC":  {"b", Endpoint{MAC: net.HardwareAddr{3, 0, 0, 0, 0, 2}, Address: p("172.30.0.8/24")}},
		"global MAC":     {"b", Endpoint{MAC: net.HardwareAddr{0, 0, 0, 0, 0, 2}, Address: p("172.30.0.8/24")}},
		"no MAC":         {"b", Endpoint{Address: p("172.30.0.8/24")}},
		"no address":     {"b", Endpoint{MAC: mac2}},
		"another of its": {"a", Endpoint{MAC: mac, Address: p("172.30.0.9/24")}},
	} {
		if l.Adopt(c.task, c.e) == nil {
			t.Errorf("%s: adopted", name)
		}
	}
}

// However tasks come and go, no two share an address or MAC, nobody gets the
// bridge's own, and a task keeps what it has until it is released.
func TestPoolProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(26, maxBits).Draw(t, "bits")
		p, err := newPool(netip.PrefixFrom(netip.MustParseAddr("10.1.2.0"), bits))
		if err != nil {
			t.Fatal(err)
		}
		has := map[string]reserved{}
		task := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint(rapid.IntRange(0, 80).Draw(t, "n")) })
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				id := task.Draw(t, "task")
				r, err := p.reserve(id)
				old, known := has[id]
				switch {
				case err != nil && (known || len(has) < int(p.capacity())):
					t.Fatal(err)
				case err == nil && known && (r.addr != old.addr || r.mac.String() != old.mac.String()):
					t.Fatalf("task %s had %v and got %v", id, old, r)
				case err == nil:
					has[id] = r
				}
			},
			"release": func(t *rapid.T) {
				id := task.Draw(t, "task")
				p.release(id)
				delete(has, id)
			},
			"": func(t *rapid.T) {
				addrs, macs := map[netip.Addr]bool{p.gateway: true, p.subnet.Addr(): true}, map[string]bool{}
				for id, r := range has {
					if addrs[r.addr] || macs[string(r.mac)] || !p.subnet.Contains(r.addr) || r.mac[0]&3 != 2 {
						t.Fatalf("task %s has %v", id, r)
					}
					addrs[r.addr], macs[string(r.mac)] = true, true
				}
				if len(has) != len(p.byAddr) || len(has) != len(p.byMAC) || len(has) != len(p.tasks) {
					t.Fatalf("%d tasks, account %d/%d/%d", len(has), len(p.tasks), len(p.byAddr), len(p.byMAC))
				}
			},
		})
	})
}

func TestGenerationGrows(t *testing.T) {
	var a Generation
	last := uint64(0)
	for range 1000 {
		g := a.Next()
		if g <= last {
			t.Fatalf("%d after %d", g, last)
		}
		last = g
	}
	var b Generation // another process of ours
	if g := b.Next(); g <= last {
		t.Errorf("a later process begins with %d after %d", g, last)
	}
}

// Where managers are may change while nothing else does: netd is told again.
func TestManagersMove(t *testing.T) {
	n := &netd{}
	addrs := []string{"192.0.2.2:7377", "192.0.2.1:7377", "192.0.2.2:7377"}
	l, err := NewLocal(LocalConfig{Netd: n.serve(t), Subnet: netip.MustParsePrefix("172.30.0.0/24"), Managers: func() []string { return addrs }})
	if err != nil {
		t.Fatal(err)
	}
	said := func(want ...string) {
		t.Helper()
		if ok, err := l.Check(t.Context()); ok || err != nil {
			t.Fatalf("check: %v %v", ok, err)
		}
		if _, err := l.Sync(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if strings.Join(n.got.Managers, " ") != strings.Join(want, " ") {
			t.Errorf("managers %v, want %v", n.got.Managers, want)
		}
		addrs = append(addrs[1:], addrs[0]) // another order changes nothing
		if ok, err := l.Check(t.Context()); !ok || err != nil {
			t.Errorf("check: %v %v", ok, err)
		}
	}
	said("192.0.2.1:7377", "192.0.2.2:7377")
	addrs = append(addrs, "192.0.2.3:8377")
	said("192.0.2.1:7377", "192.0.2.2:7377", "192.0.2.3:8377")
	addrs = nil
	for i := range maxManagers + 1 {
		addrs = append(addrs, fmt.Sprintf("192.0.2.%d:7377", i+1))
	}
	if _, err := l.Sync(t.Context(), nil); err != nil || len(n.got.Managers) != maxManagers {
		t.Errorf("%d managers, %v", len(n.got.Managers), err)
	}
}

// Pools are told again when there are others; where nobody knows them, netd keeps
// what it has.
func TestPoolsChange(t *testing.T) {
	n := &netd{}
	var pools []netip.Prefix
	l, err := NewLocal(LocalConfig{Netd: n.serve(t), Subnet: netip.MustParsePrefix("172.30.0.0/24"), Pools: func() []netip.Prefix { return pools }})
	if err != nil {
		t.Fatal(err)
	}
	for _, now := range [][]netip.Prefix{nil, {netip.MustParsePrefix("10.200.0.0/13")}, {netip.MustParsePrefix("10.200.0.0/13"), netip.MustParsePrefix("fd00:8::/48")}, nil} {
		pools = now
		if ok, err := l.Check(t.Context()); ok || err != nil {
			t.Fatalf("check: %v %v", ok, err)
		}
		if _, err := l.Sync(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if got := n.got.GetPools(); (got == nil) != (now == nil) || len(got.GetPrefixes()) != len(now) {
			t.Errorf("pools %v, want %v", got, now)
		}
		if ok, err := l.Check(t.Context()); !ok || err != nil {
			t.Errorf("check: %v %v", ok, err)
		}
	}
}
