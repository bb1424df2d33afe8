package named

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

var netA, netB, boxA, boxB = ident.New(), ident.New(), ident.New(), ident.New()

func declared(t testing.TB, req *namedpb.DeclareRequest) *view {
	t.Helper()
	req.Generation = 1
	v, err := new(view).next(req)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func small(t testing.TB) *view {
	return declared(t, &namedpb.DeclareRequest{
		Resolvers: &namedpb.Resolvers{Internal: []string{"10.200.0.0/13"}},
		Networks: []*namedpb.Network{
			{Id: netA, Subnets: []string{"192.0.2.0/24"}, Services: []*namedpb.Service{
				{Name: "web", Aliases: []string{"www", "Front.Example.org", "db"}, Vips: []string{"192.0.2.200", "fd00::1"}, Ports: []*namedpb.Port{{Name: "http", Port: 80}},
					Tasks: []*namedpb.Task{{Id: "1", Slot: 1, Addresses: []string{"192.0.2.1"}, Ready: true}, {Id: "2", Slot: 2, Addresses: []string{"192.0.2.2"}, Names: []string{"canary"}}}},
				{Name: "db", Vips: []string{"192.0.2.201"}},
				{Name: "empty"}}},
			{Id: netB, Services: []*namedpb.Service{{Name: "secret", Vips: []string{"198.51.100.1"}}, {Name: "web", Vips: []string{"198.51.100.2"}}}},
		},
		Sandboxes: []*namedpb.Sandbox{
			{TaskId: boxA, Hostname: "me", NetworkIds: []string{netA}, Addresses: []string{"192.0.2.9"}, Forward: true, Search: []string{"corp.example."}},
			{TaskId: boxB, NetworkIds: []string{netB, netA}},
		}})
}

func TestAnswers(t *testing.T) {
	v := small(t)
	for _, tc := range []struct {
		box, name string
		kind      uint16
		verdict   verdict
		want      string
	}{
		{boxA, "web.", dns.TypeA, found, "192.0.2.200"},
		{boxA, "wEb.", dns.TypeAAAA, found, "fd00::1"},
		{boxA, "www.", dns.TypeA, found, "192.0.2.200"},
		{boxA, "front.example.ORG.", dns.TypeA, found, "192.0.2.200"},
		{boxA, "example.org.", dns.TypeA, forward, ""}, // exists outside, too
		{boxB, "example.org.", dns.TypeA, noData, ""},
		{boxA, "web.", dns.TypeTXT, noData, ""},
		{boxA, "web.", dns.TypeANY, found, "RFC8482"},
		{boxA, "db.", dns.TypeA, found, "192.0.2.201"}, // not the alias of another
		{boxA, "db.", dns.TypeAAAA, noData, ""},
		{boxA, "empty.", dns.TypeA, noData, ""},
		{boxA, "tasks.web.", dns.TypeA, found, "192.0.2.1"},
		{boxA, "tasks.www.", dns.TypeA, found, "192.0.2.1"},
		{boxA, "1.web.", dns.TypeA, found, "192.0.2.1"},
		{boxA, "2.web.", dns.TypeA, noName, ""}, // not ready
		{boxA, "canary.", dns.TypeA, noName, ""},
		{boxA, "_http._tcp.web.", dns.TypeSRV, found, "80 web."},
		{boxA, "_http._tcp.tasks.web.", dns.TypeSRV, found, "80 1.web."},
		{boxA, "_tcp.web.", dns.TypeA, noData, ""},
		{boxA, "_http._udp.web.", dns.TypeSRV, noName, ""},
		{boxA, "_http._tcp.tasks.nosuch.", dns.TypeSRV, noName, ""},
		{boxA, "me.", dns.TypeA, found, "192.0.2.9"},
		{boxA, "localhost.", dns.TypeA, found, "127.0.0.1"},
		{boxA, "secret.", dns.TypeA, noName, ""},
		{boxA, "tasks.secret.", dns.TypeA, noName, ""},
		{boxA, "nosuch.", dns.TypeNS, noName, ""},
		{boxA, ".", dns.TypeNS, noName, ""},
		{boxA, `a\.b.`, dns.TypeA, noName, ""}, // one label with a dot in it
		{boxA, "web.corp.example.", dns.TypeA, found, "192.0.2.200"},
		{boxA, "mail.corp.example.", dns.TypeA, forward, ""},
		{boxA, "3.com.", dns.TypeA, forward, ""},
		{boxA, "9.web.", dns.TypeA, noName, ""},
		{boxA, "mail.web.", dns.TypeA, forward, ""}, // a top-level domain may have a service's name
		{boxA, "_sip._tcp.example.org.", dns.TypeSRV, forward, ""},
		{boxB, "web.", dns.TypeA, found, "198.51.100.2"},
		{boxB, "web.", dns.TypeAAAA, noData, ""}, // of its first network alone
		{boxB, "db.", dns.TypeA, found, "192.0.2.201"},
		{boxB, "example.com.", dns.TypeA, noName, ""},
		{boxA, "200.2.0.192.in-addr.arpa.", dns.TypePTR, found, "web."},
		{boxA, "1.2.0.192.in-addr.arpa.", dns.TypePTR, found, "1.web."},
		{boxA, "9.2.0.192.in-addr.arpa.", dns.TypePTR, found, "me."},
		{boxA, "1.100.51.198.in-addr.arpa.", dns.TypePTR, forward, ""}, // not its network, nor the cluster's pool
		{boxA, "7.2.0.192.in-addr.arpa.", dns.TypePTR, noName, ""},
		{boxA, "7.7.200.10.in-addr.arpa.", dns.TypePTR, noName, ""},
		{boxA, "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, found, "web."},
		{boxA, "1.254.169.in-addr.arpa.", dns.TypePTR, forward, ""},
		{boxA, "1.1.254.169.in-addr.arpa.", dns.TypePTR, noName, ""},
	} {
		verdict, answer, _ := v.answer(v.sandboxes[tc.box], dns.Question{Name: tc.name, Qtype: tc.kind, Qclass: 1}, 0)
		var got []string
		for _, rr := range answer {
			got = append(got, rr.String())
		}
		text := strings.Join(got, " ")
		if verdict != tc.verdict || !strings.Contains(text, tc.want) || len(answer) > 1 {
			t.Errorf("%s of %s: %d %q, want %d %q", tc.name, map[string]string{boxA: "A", boxB: "B"}[tc.box], verdict, text, tc.verdict, tc.want)
		}
	}
}

func TestRotationAndBounds(t *testing.T) {
	s := &namedpb.Service{Name: "big"}
	for i := range maxAnswers + 500 {
		s.Tasks = append(s.Tasks, &namedpb.Task{Id: fmt.Sprint(i), Slot: uint64(i + 1), Addresses: []string{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()}, Ready: true})
	}
	v := declared(t, &namedpb.DeclareRequest{Networks: []*namedpb.Network{{Id: netA, Services: []*namedpb.Service{s}}}, Sandboxes: []*namedpb.Sandbox{{TaskId: boxA, NetworkIds: []string{netA}}}})
	first := map[string]bool{}
	for turn := range uint32(len(s.Tasks)) {
		_, answer, _ := v.answer(v.sandboxes[boxA], dns.Question{Name: "big.", Qtype: dns.TypeA, Qclass: 1}, turn)
		if len(answer) != maxAnswers {
			t.Fatalf("%d addresses", len(answer))
		}
		first[answer[0].(*dns.A).A.String()] = true
	}
	if len(first) != len(s.Tasks) {
		t.Errorf("%d of %d addresses come first at some time", len(first), len(s.Tasks))
	}
	for _, size := range []int{512, 1232, 4096, 65535} {
		q := &query{size: size, question: dns.Question{Name: "big.", Qtype: dns.TypeA, Qclass: 1}}
		_, answer, extra := v.answer(v.sandboxes[boxA], q.question, 0)
		b := q.say(found, answer, extra, true)
		var m dns.Msg
		if err := m.Unpack(b); err != nil || len(b) > size || m.Truncated != (len(m.Answer) < maxAnswers) || len(m.Answer) == 0 {
			t.Errorf("%d: %d bytes, %d answers, cut %v, %v", size, len(b), len(m.Answer), m.Truncated, err)
		}
	}
}

func TestDifferences(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler))
	defer s.Close()
	web := func(id, addr string) *namedpb.Network {
		return &namedpb.Network{Id: id, Services: []*namedpb.Service{{Name: "web", Vips: []string{addr}}}}
	}
	is := func(box, want string) {
		t.Helper()
		v := s.view.Load()
		got := ""
		if a := v.sandboxes[box]; a != nil {
			_, answer, _ := v.answer(a, dns.Question{Name: "web.", Qtype: dns.TypeA, Qclass: 1}, 0)
			for _, rr := range answer {
				got += rr.(*dns.A).A.String()
			}
		}
		if got != want {
			t.Errorf("web is %q, want %q", got, want)
		}
	}
	step := func(want string, req *namedpb.DeclareRequest) {
		t.Helper()
		err := s.Declare(req)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	step("declare everything", &namedpb.DeclareRequest{Generation: 5, Base: 4})
	step("", &namedpb.DeclareRequest{Generation: 5, Networks: []*namedpb.Network{web(netA, "10.0.0.1")}, Sandboxes: []*namedpb.Sandbox{{TaskId: boxA, NetworkIds: []string{netA}}}})
	is(boxA, "10.0.0.1")
	step("older", &namedpb.DeclareRequest{Generation: 4})
	step("", &namedpb.DeclareRequest{Generation: 6, Base: 5, Networks: []*namedpb.Network{web(netA, "10.0.0.2")}}) // the sandbox follows
	is(boxA, "10.0.0.2")
	step("not declared", &namedpb.DeclareRequest{Generation: 7, Base: 6, RemovedNetworks: []string{netA}})
	step("no address", &namedpb.DeclareRequest{Generation: 7, Base: 6, Networks: []*namedpb.Network{web(netA, "nonsense")}})
	step("of a network", &namedpb.DeclareRequest{Generation: 7, Base: 6, Networks: []*namedpb.Network{web(netA, "127.0.0.1")}})
	step("only letters", &namedpb.DeclareRequest{Generation: 7, Base: 6, Networks: []*namedpb.Network{{Id: netB, Services: []*namedpb.Service{{Name: "wéb"}}}}})
	step("cannot be asked", &namedpb.DeclareRequest{Generation: 7, Base: 6, Resolvers: &namedpb.Resolvers{Upstreams: []string{"127.0.0.11"}}})
	step("given twice", &namedpb.DeclareRequest{Generation: 7, Base: 6, Networks: []*namedpb.Network{web(netA, "10.0.0.3"), web(netA, "10.0.0.4")}})
	is(boxA, "10.0.0.2") // nothing of what was refused counts
	step("", &namedpb.DeclareRequest{Generation: 7, Base: 6, RemovedSandboxes: []string{boxA}, RemovedNetworks: []string{netA}})
	is(boxA, "")
}

// Of a name nobody is told who is not on its network, whatever they ask for, and
// nothing that a name of the cluster ends in is said not to exist.
func TestOnlyWhatIsShared(t *testing.T) {
	part := rapid.SampledFrom([]string{"web", "db", "tasks", "1", "2", "_http", "_tcp", "a.b", "x", "com"})
	rapid.Check(t, func(t *rapid.T) {
		network := func(id string, host byte) *namedpb.Network {
			n := &namedpb.Network{Id: id}
			for i, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"web", "db", "tasks", "x", "com"}), 0, 4, rapid.ID[string]).Draw(t, "services") {
				s := &namedpb.Service{Name: name, Aliases: rapid.SliceOfN(part, 0, 3).Draw(t, "aliases"), Ports: []*namedpb.Port{{Name: "http", Port: 80}}}
				if rapid.Bool().Draw(t, "vip") {
					s.Vips = []string{fmt.Sprintf("10.%d.%d.1", host, i)}
				}
				for slot := range rapid.IntRange(0, 3).Draw(t, "tasks") {
					s.Tasks = append(s.Tasks, &namedpb.Task{Slot: uint64(slot), Addresses: []string{fmt.Sprintf("10.%d.%d.%d", host, i, slot+2)}, Ready: rapid.Bool().Draw(t, "ready")})
				}
				n.Services = append(n.Services, s)
			}
			return n
		}
		v, err := new(view).next(&namedpb.DeclareRequest{Generation: 1, Networks: []*namedpb.Network{network(netA, 1), network(netB, 2)},
			Sandboxes: []*namedpb.Sandbox{{TaskId: boxA, NetworkIds: []string{netA}, Forward: rapid.Bool().Draw(t, "forward")}}})
		if err != nil {
			t.Fatal(err)
		}
		s := v.sandboxes[boxA]
		for i := 0; i < 30; i++ {
			name := strings.Join(rapid.SliceOfN(part, 1, 3).Draw(t, "name"), ".")
			verdict, answer, _ := v.answer(s, dns.Question{Name: name + ".", Qtype: dns.TypeA, Qclass: 1}, uint32(i))
			for _, rr := range answer {
				if rr.(*dns.A).A[1] != 1 {
					t.Fatalf("%s of another network: %s", name, rr)
				}
			}
			if verdict == forward && (!s.forward || labels(name) < 2) {
				t.Fatalf("%s is forwarded", name)
			}
			if verdict == noName {
				for known := range v.networks[netA].names {
					if strings.HasSuffix(known, "."+name) {
						t.Fatalf("%s is said not to exist, but %s does", name, known)
					}
				}
			}
		}
	})
}

// BenchmarkDeclare replaces a network of 10,000 services, of which all names are
// made anew.
func BenchmarkDeclare(b *testing.B) {
	n := &namedpb.Network{Id: netA}
	for i := range 10000 {
		n.Services = append(n.Services, &namedpb.Service{Name: fmt.Sprintf("service-%d", i), Vips: []string{fmt.Sprintf("10.201.%d.%d", i>>8, i&255)},
			Tasks: []*namedpb.Task{{Id: fmt.Sprint(i), Slot: 1, Addresses: []string{fmt.Sprintf("10.200.%d.%d", i>>8, i&255)}, Ready: true}}})
	}
	v := new(view)
	before := heap()
	for b.Loop() {
		var err error
		if v, err = v.next(&namedpb.DeclareRequest{Generation: v.generation + 1, Networks: []*namedpb.Network{n}}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heap()-before)/float64(v.names), "B/name")
	runtime.KeepAlive(v)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
