package named

import (
	"github.com/miekg/dns"
)

// query is one that may be answered: everything else was dropped or refused.
type query struct {
	id       uint16
	rd, cd   bool
	question dns.Question
	edns, do bool
	size     int // of the answer, at most
}

// parse reads what a sandbox sent. It returns the query, or an answer that
// refuses it, or neither where there is nobody to answer.
func parse(raw []byte, tcp bool) (*query, []byte) {
	const header = 12
	if len(raw) < header || raw[2]&0x80 != 0 { // an answer: never answered
		return nil, nil
	}
	var m dns.Msg
	err := m.Unpack(raw)
	q := &query{id: m.Id, rd: m.RecursionDesired, cd: m.CheckingDisabled, size: minUDP}
	if tcp {
		q.size = maxTCP
	}
	if m.Opcode != dns.OpcodeQuery {
		r := &dns.Msg{MsgHdr: dns.MsgHdr{Id: uint16(raw[0])<<8 | uint16(raw[1]), Response: true, Opcode: m.Opcode, Rcode: dns.RcodeNotImplemented}}
		return nil, q.pack(r)
	}
	if err != nil {
		r := &dns.Msg{MsgHdr: dns.MsgHdr{Id: uint16(raw[0])<<8 | uint16(raw[1]), Response: true, Rcode: dns.RcodeFormatError}}
		return nil, q.pack(r)
	}
	if len(m.Question) != 1 || len(m.Answer)+len(m.Ns) > 0 || len(m.Extra) > 1 {
		return nil, q.refuse(dns.RcodeFormatError)
	}
	q.question = m.Question[0]
	if len(m.Extra) == 1 {
		opt, ok := m.Extra[0].(*dns.OPT)
		if !ok || opt.Hdr.Name != "." {
			return nil, q.refuse(dns.RcodeFormatError)
		}
		q.edns, q.do = true, opt.Do()
		if !tcp {
			q.size = min(max(int(opt.UDPSize()), minUDP), maxUDP)
		}
		if opt.Version() != 0 {
			return nil, q.refuse(dns.RcodeBadVers)
		}
	}
	switch t := q.question.Qtype; {
	case q.question.Qclass != dns.ClassINET, t == dns.TypeAXFR, t == dns.TypeIXFR, t == dns.TypeMAILA, t == dns.TypeMAILB:
		return nil, q.refuse(dns.RcodeRefused)
	case t == dns.TypeOPT, t == dns.TypeTSIG, t == dns.TypeTKEY, t == dns.TypeNone, t == dns.TypeReserved:
		return nil, q.refuse(dns.RcodeFormatError)
	}
	return q, nil
}

func (q *query) refuse(rcode int) []byte { return q.pack(q.reply(rcode)) }

func (q *query) reply(rcode int) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: q.id, Response: true, RecursionDesired: q.rd, CheckingDisabled: q.cd, Rcode: rcode}}
	if q.question.Name != "" {
		m.Question = []dns.Question{q.question}
	}
	return m
}

// say is the answer to a question that was decided here.
func (q *query) say(v verdict, answer, extra []dns.RR, recursion bool) []byte {
	m := q.reply(dns.RcodeSuccess)
	m.Authoritative, m.RecursionAvailable = true, recursion
	m.Answer, m.Extra = answer, extra
	if v == noName {
		m.Rcode = dns.RcodeNameError
	}
	if v != found {
		m.Ns = []dns.RR{start}
	}
	return q.pack(m)
}

// pack makes the bytes, cut to what the asker takes; cut answers say so.
func (q *query) pack(m *dns.Msg) []byte {
	if q.edns {
		m.SetEdns0(maxUDP, q.do)
	}
	m.Compress = true
	m.Truncate(q.size)
	b, err := m.Pack()
	if err == nil && len(b) <= q.size {
		return b
	}
	failed := q.reply(dns.RcodeServerFailure)
	if q.edns {
		failed.SetEdns0(maxUDP, q.do)
	}
	if b, err = failed.Pack(); err != nil {
		return nil
	}
	return b
}
