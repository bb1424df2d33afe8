package named

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

var (
	errForged = errors.New("too many datagrams that answer something else")
	errFits   = errors.New("the answer does not fit the question")
	errHere   = errors.New("the resolver of a sandbox is the node itself")
)

// resolvers are whom to ask for a sandbox.
type resolvers struct {
	list      []netip.AddrPort
	preferred *atomic.Uint32 // which of them answered last
	// own: whoever made the sandbox named them, so that none may be the node, or of the
	// cluster's networks, which are internal.
	own      bool
	internal []netip.Prefix
}

// ask asks the resolvers in turn and returns the answer as the sandbox is to
// get it, or nil. The one that answered last is asked first.
func (s *Server) ask(ctx context.Context, r resolvers, q *query) (bad *dns.Msg) {
	upstreams := r.list
	if len(upstreams) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, forwardWithin)
	defer cancel()
	first, refusals := int(r.preferred.Load()), 0
	for i := 0; i < 3*len(upstreams) && ctx.Err() == nil; i++ {
		at := (first + i) % len(upstreams)
		if r.own && contains(r.internal, upstreams[at].Addr()) {
			continue
		}
		m, err := s.try(ctx, upstreams[at], r.own, q)
		if err != nil {
			continue
		}
		switch m.Rcode {
		case dns.RcodeSuccess, dns.RcodeNameError:
			r.preferred.Store(uint32(at))
			return q.passOn(m)
		}
		bad = q.passOn(m)
		if refusals++; refusals == len(upstreams) {
			break
		}
	}
	return bad
}

// try asks one resolver, over UDP, and over TCP where UDP does not carry the
// answer or cannot be trusted.
func (s *Server) try(ctx context.Context, to netip.AddrPort, own bool, q *query) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	m, err := s.exchange(ctx, "udp", to, own, q)
	if err == nil && m.Truncated || errors.Is(err, errForged) {
		m, err = s.exchange(ctx, "tcp", to, own, q)
		if err == nil && m.Truncated {
			err = errFits
		}
	}
	return m, err
}

// exchange sends the question from a port of its own, under a random id and in
// letters of random case, so that who does not see it must guess all three. own: a
// sandbox's word is that somebody is there, and it is not to be the node itself.
func (s *Server) exchange(ctx context.Context, network string, to netip.AddrPort, own bool, q *query) (*dns.Msg, error) {
	network += map[bool]string{true: "4", false: "6"}[to.Addr().Is4()]
	conn, err := new(net.Dialer).DialContext(ctx, network, to.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if own && isHere(conn) {
		return nil, errHere
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	tcp := network[0] == 't'
	sent := q.outgoing()
	b, err := sent.Pack()
	if err != nil {
		return nil, err
	}
	if tcp {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	if _, err := conn.Write(b); err != nil {
		return nil, err
	}
	if tcp {
		if b, err = readTCP(conn); err != nil {
			return nil, err
		}
		return sent.check(b)
	}
	b = make([]byte, maxUDP)
	for range maxForged {
		n, err := conn.Read(b)
		if err != nil {
			return nil, err
		}
		m, err := sent.check(b[:n])
		if err == nil && m.Question[0].Name == sent.Question[0].Name {
			return m, nil
		}
		s.count.forged.Add(1)
		if err == nil { // all but the case of letters: a guess, or a resolver that changes it
			break
		}
	}
	return nil, errForged
}

// isHere reports whether a connection leads to the machine that it comes from: the
// kernel takes an address of its own as that of both ends.
func isHere(conn net.Conn) bool {
	from, err := netip.ParseAddrPort(conn.LocalAddr().String())
	to, err2 := netip.ParseAddrPort(conn.RemoteAddr().String())
	return err != nil || err2 != nil || from.Addr() == to.Addr()
}

func readTCP(conn net.Conn) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(conn, b)
	return b, err
}

// outgoing is a question as resolvers get it. Of what the sandbox sent, nothing
// but name, type and three bits goes out.
type outgoing struct{ dns.Msg }

func (q *query) outgoing() *outgoing {
	name := []byte(q.question.Name)
	random := make([]byte, 2+(len(name)+7)/8)
	rand.Read(random)
	for i, c := range name {
		if ('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') && random[2+i/8]>>(i%8)&1 == 1 {
			name[i] = c ^ 0x20
		}
	}
	o := &outgoing{dns.Msg{MsgHdr: dns.MsgHdr{Id: binary.BigEndian.Uint16(random), RecursionDesired: q.rd, CheckingDisabled: q.cd},
		Question: []dns.Question{{Name: string(name), Qtype: q.question.Qtype, Qclass: dns.ClassINET}}}}
	if q.edns {
		o.SetEdns0(upstreamUDP, q.do)
	}
	return o
}

// check parses an answer and holds it against the question, but for the case of
// letters.
func (o *outgoing) check(b []byte) (*dns.Msg, error) {
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		return nil, err
	}
	mine := o.Question[0]
	if m.Id != o.Id || !m.Response || m.Opcode != dns.OpcodeQuery || len(m.Question) != 1 ||
		m.Question[0].Qtype != mine.Qtype || m.Question[0].Qclass != mine.Qclass || !strings.EqualFold(m.Question[0].Name, mine.Name) {
		return nil, errFits
	}
	return &m, nil
}

// packTheirs is pack for what a resolver wrote. The library reads some records
// that are none (without content, say) and writes what nobody can read: the
// sandbox gets no such answer.
func (q *query) packTheirs(m *dns.Msg) []byte {
	b := q.pack(m)
	if new(dns.Msg).Unpack(b) != nil {
		return q.refuse(dns.RcodeServerFailure)
	}
	return b
}

// passOn makes a resolver's answer the sandbox's: its own id and spelling, and
// nothing that speaks of the way between named and the resolver.
func (q *query) passOn(m *dns.Msg) *dns.Msg {
	theirs := m.Question[0].Name
	r := q.reply(m.Rcode)
	if r.Rcode > 15 {
		r.Rcode = dns.RcodeServerFailure
	}
	r.RecursionAvailable = true
	mine := func(in []dns.RR) (out []dns.RR) {
		for _, rr := range in {
			switch rr.Header().Rrtype {
			case dns.TypeOPT, dns.TypeTSIG, dns.TypeSIG:
				continue
			}
			if strings.EqualFold(rr.Header().Name, theirs) {
				rr.Header().Name = q.question.Name
			}
			out = append(out, rr)
		}
		return out
	}
	r.Answer, r.Ns, r.Extra = mine(m.Answer), mine(m.Ns), mine(m.Extra)
	return r
}
