package ingress

import (
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// sample is a whole with one service that has a task here and one elsewhere.
func sample() *netdpb.IngressRequest {
	return &netdpb.IngressRequest{Generation: 2, MeshAddress: "198.18.0.1", Subnet: "10.255.0.0/16", Netns: Netns,
		Services: []*netdpb.IngressService{{Entry: proto.Bool(true), Entries: []string{"198.18.0.2"}, ServiceId: ident.New(), Vni: 5001, Ports: []*netdpb.IngressPort{{Published: 80, Target: 8000, HostIp: "192.0.2.1"}},
			Endpoints: []*netdpb.IngressEndpoint{{TaskId: ident.New(), Address: "10.255.0.1", Netns: "a"}, {TaskId: ident.New(), Address: "10.255.0.2", Node: "198.18.0.2"}}}}}
}

func TestWhatIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(r *netdpb.IngressRequest, s *netdpb.IngressService)
		want string
	}{
		"removed of a whole": {func(r *netdpb.IngressRequest, _ *netdpb.IngressService) { r.Removed = []string{"a"} }, "base is 0"},
		"subnet of none":     {func(r *netdpb.IngressRequest, _ *netdpb.IngressService) { r.Subnet = "" }, "subnet or netns is missing"},
		"subnet of a host":   {func(r *netdpb.IngressRequest, _ *netdpb.IngressService) { r.Subnet = "10.255.0.1/16" }, "no IPv4 prefix"},
		"subnet of IPv6":     {func(r *netdpb.IngressRequest, _ *netdpb.IngressService) { r.Subnet = "fd00::/64" }, "no IPv4 prefix"},
		"subnet too small": {func(r *netdpb.IngressRequest, s *netdpb.IngressService) {
			r.Subnet, s.Entries = "10.255.0.0/24", []string{"198.18.0.61"}
		}, "cannot be told from 198.18.0.1"},
		"another namespace":  {func(r *netdpb.IngressRequest, _ *netdpb.IngressService) { r.Netns = "../net-x" }, "is not net-ingress"},
		"mesh in the subnet": {func(r *netdpb.IngressRequest, _ *netdpb.IngressService) { r.MeshAddress = "10.255.0.9" }, "is in the subnet"},
		"entry without mesh": {func(r *netdpb.IngressRequest, _ *netdpb.IngressService) { r.MeshAddress = "" }, "entry 198.18.0.2 cannot"},
		"service twice":      {func(r *netdpb.IngressRequest, s *netdpb.IngressService) { r.Services = append(r.Services, s) }, "declared twice"},
		"changes of nothing": {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Changes, s.Vni, s.Ports = true, 0, nil }, "is not in force"},
		"no service id":      {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.ServiceId = "../x" }, "is no id"},
		"no VNI":             {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Vni = 1 << 24 }, "has not 24 bits"},
		"port 0":             {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Ports[0].Published = 0 }, "port 0 is none"},
		"port 65536":         {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Ports[0].Target = 65536 }, "port 65536 is none"},
		"host of a link":     {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Ports[0].HostIp = "fe80::1" }, "no address that"},
		"task of no id":      {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Endpoints[0].TaskId = "x" }, "no task id"},
		"task twice": {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) {
			s.Endpoints[1].TaskId = s.Endpoints[0].TaskId
		}, "declared twice"},
		"address twice":      {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Endpoints[1].Address = "10.255.0.1" }, "have one address"},
		"address outside":    {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Endpoints[0].Address = "10.254.0.1" }, "lower three quarters"},
		"address of a node":  {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Endpoints[0].Address = "10.255.192.1" }, "lower three quarters"},
		"sandbox of a path":  {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Endpoints[0].Netns = "a/b" }, "no name of a file"},
		"sandbox elsewhere":  {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Endpoints[1].Netns = "b" }, "netns is of a task of this node"},
		"node is this one":   {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Endpoints[1].Node = "198.18.0.1" }, "is this one"},
		"node in the subnet": {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) { s.Endpoints[1].Node = "10.255.0.3" }, "no node of the mesh"},
		"more ports than fit": {func(_ *netdpb.IngressRequest, s *netdpb.IngressService) {
			s.Ports = make([]*netdpb.IngressPort, maxServicePorts+1)
		}, "exceed the limit"},
	} {
		r := sample()
		c.harm(r, r.Services[0])
		if _, err := emptyPlan().merge(r); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", name, err, c.want)
		}
	}
	if _, err := emptyPlan().merge(sample()); err != nil {
		t.Errorf("the control: %v", err)
	}
}

// A difference changes what it names, and leaves the plan before it alone.
func TestDifferences(t *testing.T) {
	whole := sample()
	id, here, there := whole.Services[0].ServiceId, whole.Services[0].Endpoints[0].TaskId, whole.Services[0].Endpoints[1].TaskId
	p, err := emptyPlan().merge(whole)
	if err != nil {
		t.Fatal(err)
	}
	q, err := p.merge(&netdpb.IngressRequest{Generation: 3, Base: 2,
		Services: []*netdpb.IngressService{{Entry: proto.Bool(false), Entries: []string{"198.18.0.3"}, RemovedEntries: []string{"198.18.0.2"}, ServiceId: id, Changes: true, RemovedEndpoints: []string{there},
			Endpoints: []*netdpb.IngressEndpoint{{TaskId: here, Address: "10.255.0.1", Netns: "a", Serving: true}}}}})
	if err != nil {
		t.Fatal(err)
	}
	s := q.services[id]
	if s.entry || len(s.entries) != 1 || !s.entries[netip.MustParseAddr("198.18.0.3")] || s.vni != 5001 || len(s.ports) != 1 || len(s.endpoints) != 1 || !s.endpoints[here].serving {
		t.Errorf("%+v %+v", q, s)
	}
	if s := p.services[id]; !s.entry || len(s.entries) != 1 || len(s.endpoints) != 2 || s.endpoints[here].serving {
		t.Errorf("the plan before changed: %+v %+v", p, s)
	}
	if _, err := q.merge(&netdpb.IngressRequest{Generation: 4, Base: 3, Removed: []string{here}}); err == nil {
		t.Error("what is not in force is removed")
	}
	i := &Ingress{plan: q}
	for _, r := range []*netdpb.IngressRequest{{Generation: 0}, {Generation: 2}, {Generation: 3}, {Generation: 5, Base: 2}} {
		if _, _, err := i.guard(r); err == nil {
			t.Errorf("generation %d, base %d is taken after 3", r.GetGeneration(), r.GetBase())
		}
	}
}

// Numbers stay while they are in use, and rest before they are given again.
func TestMarks(t *testing.T) {
	p, err := emptyPlan().merge(sample())
	if err != nil {
		t.Fatal(err)
	}
	m := newMarks()
	entry := netip.MustParseAddr("198.18.0.2")
	c := p.inside(&memory[part]{}, m, nil).whole()
	if len(c.sets[setEntries]) != 1 || len(c.sets[setNodes]) != 1 {
		t.Fatalf("%v", c.sets)
	}
	adopted := newMarks()
	for key, val := range c.sets[setEntries] {
		adopted.take([]byte(key), []byte(val))
		adopted.take([]byte(key)[:20], []byte(val))
		adopted.take([]byte("vx77\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x99\x01\x02\x03\x04\x00\x00"), []byte(val))
	}
	if adopted.of(5001, entry) != m.of(5001, entry) || len(adopted.services.of) != 1 || len(adopted.nodes.of) != 1 {
		t.Errorf("%+v, want %+v", adopted, m)
	}
	n := newNumbers[int]()
	for k := range 65535 {
		n.give(k)
	}
	n.keep(func(k int) bool { return k != 7 && k != 9 })
	if a, b := n.give(-1), n.give(-2); a != 8 || b != 10 {
		t.Errorf("%d and %d, want 8 and 10, which are free", a, b)
	}
}

func FuzzMerge(f *testing.F) {
	whole, err := proto.Marshal(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{})
	base, err := emptyPlan().merge(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r netdpb.IngressRequest
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		from := emptyPlan()
		if r.GetBase() != 0 {
			from = base
		}
		p, err := from.merge(&r)
		if err != nil || !p.wanted() {
			return
		}
		// What is accepted can be made into tables, and nobody has two places.
		m := newMarks()
		p.inside(&memory[part]{}, m, nil)
		p.admissions()
		p.paths(&memory[paths]{}, m, map[string]int{insideLink: 2})
		published := map[port]*service{}
		for _, s := range p.services {
			for _, x := range s.ports {
				published[x] = s
			}
		}
		p.outside(&memory[part]{}, published, sight{})
	})
}
