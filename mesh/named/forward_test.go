package named

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// resolver answers each datagram with what reply makes of it, and each TCP query
// with 192.0.2.80.
func resolver(t *testing.T, reply func(q *dns.Msg) []*dns.Msg) netip.AddrPort {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	udp := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		for _, m := range reply(q) {
			w.WriteMsg(m)
		}
	})
	tcp := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(with(q, 80)) })
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: udp}, {Listener: l, Handler: tcp}} {
		ready, ended := make(chan struct{}), make(chan error)
		srv.NotifyStartedFunc = func() { close(ready) }
		go func() { ended <- srv.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { srv.Shutdown(); <-ended })
	}
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func with(q *dns.Msg, last byte) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.AuthenticatedData, m.Authoritative = true, true
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: 1, Ttl: 9}, A: net.IPv4(192, 0, 2, last)}}
	return m
}

func TestForward(t *testing.T) {
	change := func(m *dns.Msg, f func(*dns.Msg)) *dns.Msg { f(m); return m }
	refuse := resolver(t, func(q *dns.Msg) []*dns.Msg { return []*dns.Msg{new(dns.Msg).SetRcode(q, dns.RcodeRefused)} })
	good := resolver(t, func(q *dns.Msg) []*dns.Msg { return []*dns.Msg{with(q, 53)} })
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := netip.MustParseAddrPort(pc.LocalAddr().String())
	pc.Close()
	for name, tc := range map[string]struct {
		to     []netip.AddrPort
		want   string
		rcode  int
		forged bool
	}{
		"plain":         {[]netip.AddrPort{good}, "192.0.2.53", 0, false},
		"nobody there":  {[]netip.AddrPort{closed, good}, "192.0.2.53", 0, false},
		"refused first": {[]netip.AddrPort{refuse, good}, "192.0.2.53", 0, false},
		"all refuse":    {[]netip.AddrPort{refuse, refuse}, "", dns.RcodeRefused, false},
		"cut": {[]netip.AddrPort{resolver(t, func(q *dns.Msg) []*dns.Msg {
			return []*dns.Msg{change(with(q, 53), func(m *dns.Msg) { m.Truncated = true })}
		})}, "192.0.2.80", 0, false},
		"wrong ids before the right one": {[]netip.AddrPort{resolver(t, func(q *dns.Msg) []*dns.Msg {
			return []*dns.Msg{change(with(q, 66), func(m *dns.Msg) { m.Id++ }), with(q, 53)}
		})}, "192.0.2.53", 0, true},
		"another question": {[]netip.AddrPort{resolver(t, func(q *dns.Msg) []*dns.Msg {
			return []*dns.Msg{change(with(q, 66), func(m *dns.Msg) { m.Question[0].Name = "evil.org." }), with(q, 53)}
		})}, "192.0.2.53", 0, true},
		"letters of another case": {[]netip.AddrPort{resolver(t, func(q *dns.Msg) []*dns.Msg {
			return []*dns.Msg{change(with(q, 66), func(m *dns.Msg) { m.Question[0].Name = "a-name-of-many-letters.EXAMPLE.org." })}
		})}, "192.0.2.80", 0, true},
		"nothing but guesses": {[]netip.AddrPort{resolver(t, func(q *dns.Msg) (out []*dns.Msg) {
			for range maxForged {
				out = append(out, change(with(q, 66), func(m *dns.Msg) { m.Id++ }))
			}
			return out
		})}, "192.0.2.80", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(nil)
			defer s.Close()
			q := &query{id: 7, rd: true, size: 512, question: dns.Question{Name: "A-name-of-many-letters.example.org.", Qtype: dns.TypeA, Qclass: 1}}
			m := s.ask(t.Context(), resolvers{list: tc.to, preferred: &s.preferred}, q)
			if m == nil || m.Rcode != tc.rcode || m.Id != 7 || m.AuthenticatedData || m.Authoritative || m.Question[0].Name != q.question.Name {
				t.Fatalf("%v", m)
			}
			got := ""
			for _, rr := range m.Answer {
				got += rr.(*dns.A).A.String()
				if rr.Header().Name != q.question.Name {
					t.Errorf("the answer is of %s", rr.Header().Name)
				}
			}
			if got != tc.want || tc.forged != (s.count.forged.Load() > 0) {
				t.Errorf("%q, want %q; %d forged", got, tc.want, s.count.forged.Load())
			}
		})
	}
}

// What is sent outside differs each time in id and letters, and says no more than
// it must.
func TestOutgoing(t *testing.T) {
	q := &query{edns: true, do: true, rd: true, size: 512, question: dns.Question{Name: `a\.b\200-many-letters.example.org.`, Qtype: dns.TypeA, Qclass: 1}}
	ids, names := map[uint16]bool{}, map[string]bool{}
	for range 200 {
		o := q.outgoing()
		if !strings.EqualFold(o.Question[0].Name, q.question.Name) {
			t.Fatalf("%q", o.Question[0].Name)
		}
		if opt := o.IsEdns0(); opt == nil || len(opt.Option) != 0 || !opt.Do() || opt.UDPSize() != upstreamUDP {
			t.Fatalf("%v", o)
		}
		ids[o.Id], names[o.Question[0].Name] = true, true
	}
	if len(ids) < 190 || len(names) < 190 {
		t.Errorf("%d ids, %d spellings of 200", len(ids), len(names))
	}
}

// TestOwnResolvers: a sandbox has its own resolvers asked, unless they are the node, on
// its link, or of the cluster's networks.
func TestOwnResolvers(t *testing.T) {
	var asked atomic.Int32
	here := resolver(t, func(q *dns.Msg) []*dns.Msg { asked.Add(1); return []*dns.Msg{with(q, 53)} })
	s := New(nil)
	defer s.Close()
	q := func() *query {
		return &query{id: 7, rd: true, size: 512, question: dns.Question{Name: "a.example.org.", Qtype: dns.TypeA, Qclass: 1}}
	}
	var preferred atomic.Uint32
	if m := s.ask(t.Context(), resolvers{list: []netip.AddrPort{here}, preferred: &preferred, own: true}, q()); m != nil || asked.Load() != 0 {
		t.Errorf("the node itself was asked %d times: %v", asked.Load(), m)
	}
	internal := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if m := s.ask(t.Context(), resolvers{list: []netip.AddrPort{here}, preferred: &preferred, own: true, internal: internal}, q()); m != nil || asked.Load() != 0 {
		t.Errorf("a network of the cluster was asked: %v", m)
	}
	if m := s.ask(t.Context(), resolvers{list: []netip.AddrPort{here}, preferred: &preferred}, q()); m == nil || asked.Load() == 0 {
		t.Errorf("the node's resolver was not asked: %v", m)
	}
	for text, want := range map[string]bool{"192.0.2.1": true, "2001:db8::1": true, "127.0.0.53": false, "::1": false, "169.254.169.254": false, "fe80::1": false, "192.0.2.1:5353": false, "0.0.0.0": false, "x": false} {
		if _, err := ownUpstreams([]string{text}); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	v := declared(t, &namedpb.DeclareRequest{Networks: []*namedpb.Network{{Id: netA}}, Resolvers: &namedpb.Resolvers{Upstreams: []string{"192.0.2.1"}},
		Sandboxes: []*namedpb.Sandbox{{TaskId: boxA, NetworkIds: []string{netA}, Forward: true, Upstreams: []string{"192.0.2.53"}}}})
	if got := v.sandboxes[boxA].upstreams; len(got) != 1 || got[0].String() != "192.0.2.53:53" || v.upstreams[0].Addr() == got[0].Addr() {
		t.Errorf("%v", got)
	}
}
