package named

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func packed(t testing.TB, change func(m *dns.Msg)) []byte {
	m := new(dns.Msg).SetQuestion("web.", dns.TypeA)
	change(m)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	const drop, ok = -1, -2
	opt := func(version uint8, size uint16) *dns.OPT {
		o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		o.SetVersion(version)
		o.SetUDPSize(size)
		return o
	}
	for name, tc := range map[string]struct {
		raw  []byte
		want int
	}{
		"plain":                     {packed(t, func(*dns.Msg) {}), ok},
		"edns":                      {packed(t, func(m *dns.Msg) { m.Extra = []dns.RR{opt(0, 4096)} }), ok},
		"an answer":                 {packed(t, func(m *dns.Msg) { m.Response = true }), drop},
		"short":                     {[]byte{1, 2, 3}, drop},
		"cut":                       {packed(t, func(*dns.Msg) {})[:15], dns.RcodeFormatError},
		"update":                    {packed(t, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		"no question":               {packed(t, func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		"two questions":             {packed(t, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		"an answer in the question": {packed(t, func(m *dns.Msg) { m.Answer = []dns.RR{start} }), dns.RcodeFormatError},
		"two options":               {packed(t, func(m *dns.Msg) { m.Extra = []dns.RR{opt(0, 512), opt(0, 512)} }), dns.RcodeFormatError},
		"edns 1":                    {packed(t, func(m *dns.Msg) { m.Extra = []dns.RR{opt(1, 512)} }), dns.RcodeBadVers},
		"class":                     {packed(t, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		"transfer":                  {packed(t, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), dns.RcodeRefused},
	} {
		q, reply := parse(tc.raw, false)
		var m dns.Msg
		switch {
		case tc.want == ok:
			if q == nil || reply != nil {
				t.Errorf("%s: refused", name)
			}
		case tc.want == drop:
			if q != nil || reply != nil {
				t.Errorf("%s: answered", name)
			}
		case q != nil || m.Unpack(reply) != nil || m.Rcode != tc.want || !m.Response || m.Id != uint16(tc.raw[0])<<8|uint16(tc.raw[1]):
			t.Errorf("%s: %v, want rcode %d", name, &m, tc.want)
		}
	}
}

// Whatever a container sends: nothing panics, an answer is one, fits, and is of
// the query that was sent.
func FuzzQuery(f *testing.F) {
	f.Add(packed(f, func(*dns.Msg) {}), false)
	f.Add(packed(f, func(m *dns.Msg) { m.SetEdns0(4096, true); m.Question[0].Name = "_http._tcp.web." }), true)
	f.Add(packed(f, func(m *dns.Msg) { m.Question[0].Name = "200.2.0.192.in-addr.arpa."; m.Question[0].Qtype = dns.TypePTR }), false)
	v := small(f)
	f.Fuzz(func(t *testing.T, raw []byte, tcp bool) {
		q, reply := parse(raw, tcp)
		limit := maxTCP
		if !tcp {
			limit = maxUDP
		}
		if q != nil {
			verdict, answer, extra := v.answer(v.sandboxes[boxA], q.question, 3)
			reply = q.say(verdict, answer, extra, true)
			o := q.outgoing()
			if b, err := o.Pack(); err == nil {
				if _, err := o.check(append(b[:2:2], append([]byte{b[2] | 0x80}, b[3:]...)...)); err != nil {
					t.Fatalf("%v: its own question does not fit: %v", q.question, err)
				}
			}
		}
		if reply == nil {
			return
		}
		var m dns.Msg
		if err := m.Unpack(reply); err != nil || !m.Response || len(reply) > limit || m.Id != uint16(raw[0])<<8|uint16(raw[1]) {
			t.Fatalf("%x: %v, %d bytes", reply, err, len(reply))
		}
	})
}

// Whatever a resolver sends: nothing panics, and what is passed on is well formed.
func FuzzAnswer(f *testing.F) {
	q := &query{id: 9, size: 512, question: dns.Question{Name: "example.org.", Qtype: dns.TypeA, Qclass: 1}}
	f.Add(packed(f, func(m *dns.Msg) {
		m.Id = 1
		m.Response = true
		m.Question[0].Name = "eXample.org."
		m.Ns = []dns.RR{start}
	}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o := &outgoing{dns.Msg{MsgHdr: dns.MsgHdr{Id: 1}, Question: []dns.Question{{Name: "eXample.org.", Qtype: dns.TypeA, Qclass: 1}}}}
		m, err := o.check(raw)
		if err != nil {
			return
		}
		b := q.packTheirs(q.passOn(m))
		var r dns.Msg
		if err := r.Unpack(b); err != nil || len(b) > q.size || r.Id != 9 || len(r.Question) != 1 || r.Question[0] != q.question || r.AuthenticatedData {
			t.Fatalf("%v, %v", &r, err)
		}
	})
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		ctx, began := context.Background(), time.Now()
		for range maxBurst {
			p.wait(ctx)
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("a burst took %v", d)
		}
		for range 10 * maxRate {
			p.wait(ctx)
		}
		if d := time.Since(began); d < 9900*time.Millisecond || d > 10100*time.Millisecond {
			t.Errorf("%d queries after the burst took %v", 10*maxRate, d)
		}
		done, cancel := context.WithCancel(ctx)
		cancel()
		if p.wait(done) == nil {
			t.Error("a query is read after the end")
		}
	})
}
