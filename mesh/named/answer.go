package named

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// verdict is what is to be done about a question.
type verdict int

const (
	found verdict = iota
	noData
	noName
	forward
)

// answer decides about a question of the sandbox; turn rotates what has several
// addresses. It does no I/O.
func (v *view) answer(s *asker, q dns.Question, turn uint32) (verdict, []dns.RR, []dns.RR) {
	name := asked(q.Name)
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return tell(q, &loopback, turn)
	}
	if a, ok := reverseAddr(name); ok {
		return v.reverse(s, q, a)
	}
	r, rank := s.lookup(name)
	if rank == rankAbove && s.forward && !hidden(name, s.known) {
		return forward, nil, nil // it may exist outside, too
	}
	if r == nil {
		r = s.searched(name)
	}
	if r == nil && name != "" && name == s.hostname {
		r = &s.own
	}
	switch {
	case r != nil:
		return tell(q, r, turn)
	case !s.forward || hidden(name, s.known):
		return noName, nil, nil
	}
	return forward, nil, nil
}

var loopback = record{v4: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, v6: []netip.Addr{netip.IPv6Loopback()}}

// lookup asks the sandbox's networks in turn: the first that has the name is the
// only one that says what it means, so that A and AAAA speak of one thing.
func (s *asker) lookup(name string) (r *record, rank uint8) {
	for _, n := range s.networks {
		if e, ok := n.names[name]; ok && (r == nil || rank == rankAbove && e.rank != rankAbove) {
			r, rank = e.record, e.rank
		}
	}
	return r, rank
}

func (s *asker) known(name string) bool {
	r, _ := s.lookup(name)
	return r != nil
}

// searched finds a name to which the container's resolver has added a search
// domain: what was meant is a name of the cluster, which must not go outside.
func (s *asker) searched(name string) *record {
	for _, d := range s.search {
		if inner, ok := strings.CutSuffix(name, d); ok {
			if r, rank := s.lookup(inner); r != nil && rank != rankAbove {
				return r
			}
		}
	}
	return nil
}

// reverse tells whose an address is. Addresses of the cluster, and those that
// mean nothing outside, stay here.
func (v *view) reverse(s *asker, q dns.Question, a netip.Addr) (verdict, []dns.RR, []dns.RR) {
	name := ""
	for _, n := range s.networks {
		if name = n.reverse[a]; name != "" {
			break
		}
	}
	if name == "" && s.isOwn(a) {
		name = s.hostname
	}
	if name == "" && a.IsLoopback() {
		name = "localhost"
	}
	if name != "" {
		if q.Qtype != dns.TypePTR {
			return noData, nil, nil
		}
		return found, []dns.RR{&dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: name + "."}}, nil
	}
	if !s.forward || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsLoopback() {
		return noName, nil, nil
	}
	for _, n := range s.networks {
		if contains(n.subnets, a) {
			return noName, nil, nil
		}
	}
	if contains(v.internal, a) {
		return noName, nil, nil
	}
	return forward, nil, nil
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// tell makes the records of r that are asked for, bounded in number.
func tell(q dns.Question, r *record, turn uint32) (v verdict, answer, extra []dns.RR) {
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		answer = addresses(nil, q.Name, r, q.Qtype == dns.TypeAAAA, turn, maxAnswers)
	case dns.TypeSRV:
		n := min(len(r.srv), maxTargets)
		for i := range n {
			t := r.srv[(int(turn%uint32(len(r.srv)))+i)%len(r.srv)]
			answer = append(answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Priority: 1, Weight: 1, Port: t.port, Target: t.name + "."})
			for _, v6 := range []bool{false, true} {
				extra = addresses(extra, t.name+".", t.to, v6, turn, maxAnswers-len(extra))
			}
		}
	case dns.TypeANY: // RFC 8482: never all there is
		answer = []dns.RR{&dns.HINFO{Hdr: header(q.Name, dns.TypeHINFO), Cpu: "RFC8482"}}
	}
	if len(answer) == 0 {
		return noData, nil, nil
	}
	return found, answer, extra
}

func addresses(out []dns.RR, name string, r *record, v6 bool, turn uint32, most int) []dns.RR {
	list := r.addrs(v6)
	for i := range min(len(list), most) {
		a := list[(int(turn%uint32(len(list)))+i)%len(list)]
		if v6 {
			out = append(out, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: a.AsSlice()})
		} else {
			out = append(out, &dns.A{Hdr: header(name, dns.TypeA), A: a.AsSlice()})
		}
	}
	return out
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// start goes with every answer that there is none, and says for how long.
var start = &dns.SOA{Hdr: header(".", dns.TypeSOA), Ns: "redoubt-named.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl}

func (s *asker) isOwn(a netip.Addr) bool {
	for _, o := range s.own.addrs(a.Is6()) {
		if o == a {
			return true
		}
	}
	return false
}
