package named

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// box serves the sockets of one sandbox. Its goroutines end with it.
type box struct {
	s     *Server
	task  string
	netns uint64
	udp   *net.UDPConn
	tcp   *net.TCPListener

	pace pace
	turn atomic.Uint32
	// preferred is which of the sandbox's own resolvers answered last.
	preferred atomic.Uint32
	waiting   chan struct{} // a slot for each query that waits
	conns     chan struct{} // a slot for each connection
	end       context.CancelFunc
	running   sync.WaitGroup
}

func (s *Server) newBox(task string, p pair) *box {
	ctx, cancel := context.WithCancel(s.ctx)
	b := &box{s: s, task: task, netns: p.netns, udp: p.udp, tcp: p.tcp, end: cancel, pace: pace{held: &s.count.held},
		waiting: make(chan struct{}, maxWaitingPerSandbox), conns: make(chan struct{}, maxConnsPerSandbox)}
	context.AfterFunc(ctx, func() { b.udp.Close(); b.tcp.Close() })
	b.running.Go(func() { b.serveUDP(ctx) })
	b.running.Go(func() { b.serveTCP(ctx) })
	return b
}

// close returns when nothing of it runs any more.
func (b *box) close() {
	b.end()
	b.udp.Close()
	b.tcp.Close()
	b.running.Wait()
}

func (b *box) serveUDP(ctx context.Context) {
	buf := make([]byte, maxQuery)
	for b.pace.wait(ctx) == nil {
		n, from, err := b.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !b.mayAsk(from.Addr().Unmap()) {
			continue
		}
		q, reply := parse(buf[:n], false)
		if q != nil {
			reply = b.now(q)
		}
		if reply == nil && q != nil {
			release, ok := b.queue()
			if ok {
				b.running.Go(func() {
					defer release()
					b.udp.WriteToUDPAddrPort(b.later(ctx, q), from)
				})
				continue
			}
			reply = q.refuse(dns.RcodeServerFailure)
		}
		if reply != nil {
			b.udp.WriteToUDPAddrPort(reply, from) // who does not get it asks again
		}
	}
}

// mayAsk is whether a datagram came from the sandbox itself: one with another's
// address would have the answer sent to that other.
func (b *box) mayAsk(from netip.Addr) bool {
	if from.IsLoopback() {
		return true
	}
	s := b.s.view.Load().sandboxes[b.task]
	return s != nil && s.isOwn(from)
}

// queue takes a slot for a query that waits.
func (b *box) queue() (release func(), ok bool) {
	select {
	case b.waiting <- struct{}{}:
	default:
		b.s.count.refused.Add(1)
		return nil, false
	}
	select {
	case b.s.waiting <- struct{}{}:
	default:
		<-b.waiting
		b.s.count.refused.Add(1)
		return nil, false
	}
	return func() { <-b.s.waiting; <-b.waiting }, true
}

// now answers what can be answered at once, else nil.
func (b *box) now(q *query) []byte {
	v := b.s.view.Load()
	s := v.sandboxes[b.task]
	if s == nil {
		return nil
	}
	verdict, answer, extra := v.answer(s, q.question, b.turn.Add(1)-1)
	if verdict == forward {
		return nil
	}
	b.s.count.answered.Add(1)
	return q.say(verdict, answer, extra, s.forward)
}

// later waits for the sandbox to be declared, which takes a moment after a
// restart, and asks the resolvers where that is what the query needs.
func (b *box) later(ctx context.Context, q *query) []byte {
	if !b.s.declared(ctx, b.task) {
		return q.refuse(dns.RcodeServerFailure)
	}
	if reply := b.now(q); reply != nil {
		return reply
	}
	b.s.count.forwarded.Add(1)
	m := b.s.ask(ctx, b.resolvers(), q)
	if m == nil {
		return q.refuse(dns.RcodeServerFailure)
	}
	return q.packTheirs(m)
}

// resolvers are whom to ask for the sandbox.
func (b *box) resolvers() resolvers {
	v := b.s.view.Load()
	if s := v.sandboxes[b.task]; s != nil && len(s.upstreams) > 0 {
		return resolvers{list: s.upstreams, preferred: &b.preferred, own: true, internal: v.internal}
	}
	return resolvers{list: v.upstreams, preferred: &b.s.preferred}
}

func (b *box) serveTCP(ctx context.Context) {
	for {
		select { // for one to end, before another is taken
		case b.conns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := b.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			<-b.conns
			if b.pace.wait(ctx) != nil {
				return
			}
			continue
		}
		select {
		case b.s.conns <- struct{}{}:
		default:
			conn.Close()
			<-b.conns
			continue
		}
		b.running.Go(func() {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer func() { stop(); conn.Close(); <-b.s.conns; <-b.conns }()
			b.serveConn(ctx, conn)
		})
	}
}

// serveConn answers one query after the other until the connection is silent,
// slow or wrong.
func (b *box) serveConn(ctx context.Context, conn net.Conn) {
	head := make([]byte, 2)
	for b.pace.wait(ctx) == nil {
		conn.SetDeadline(time.Now().Add(idleTCP))
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(head))
		if n > maxQuery {
			return
		}
		raw := make([]byte, n)
		conn.SetDeadline(time.Now().Add(slowTCP))
		if _, err := io.ReadFull(conn, raw); err != nil {
			return
		}
		q, reply := parse(raw, true)
		if q != nil {
			reply = b.now(q)
		}
		if reply == nil && q != nil {
			if release, ok := b.queue(); ok {
				reply = b.later(ctx, q)
				release()
			} else {
				reply = q.refuse(dns.RcodeServerFailure)
			}
		}
		if reply == nil {
			return
		}
		conn.SetDeadline(time.Now().Add(slowTCP))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}
