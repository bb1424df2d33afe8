package raftstore

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// transport is raft's transport with every message bound to the peer that sent
// it. Raft takes a message's word for who sent it; here each peer has a reader
// of its own, fed with that peer's connections only, and what it reads passes
// the rules of admit before raft sees it. Sending needs nothing of that: Dial
// verifies whom it reached.
type transport struct {
	*watchedTransport // outgoing
	layer             *streamLayer
	conf              raft.NetworkTransportConfig
	log               hclog.Logger
	rules             peerRules
	consume           chan raft.RPC
	notes             chan raft.RPC // capacity 1: a heartbeat that was answered, for raft to know
	stop              chan struct{} // closed by Close
	handover          time.Duration // what raft waits for one who is to take over
	wg                sync.WaitGroup

	mu      sync.Mutex // guards the rest
	readers map[string]*peerReader
	closed  bool
}

// peerRules is what the store says to a message before raft sees it.
type peerRules struct {
	// admit refuses a message of peer, or changes it to what peer may say.
	admit func(peer string, cmd any) error
	// answer answers a heartbeat where it can.
	answer func(peer string, rpc raft.RPC) bool
	// vouch is the answer to who asks for the leader.
	vouch func() []byte
	// applied is the term, and the last entry that was given to the state machine.
	applied func() (term, index uint64)
	// snapshot is the last entry of the newest snapshot, if all of it is applied;
	// 0 for none.
	snapshot func() (index, term uint64)
}

// peerReader is the reader of one peer.
type peerReader struct {
	*raft.NetworkTransport
	stream *handedStream
}

func newTransport(c *Config, layer *streamLayer, watch *progress, sleep *dormancy, written func(uint64) uint64, logger hclog.Logger, rules peerRules) *transport {
	t := &transport{
		layer: layer, log: logger, rules: rules, consume: make(chan raft.RPC), notes: make(chan raft.RPC, 1), stop: make(chan struct{}),
		readers: map[string]*peerReader{}, handover: c.ElectionTimeout,
		conf: raft.NetworkTransportConfig{
			Logger: logger, MaxPool: transportPool, MaxRPCsInFlight: maxRPCsInFlight, Timeout: c.IOTimeout,
		},
	}
	conf := t.conf
	conf.Stream = newHandedStream(c.Transport.Advertise, layer.Dial)
	t.watchedTransport = &watchedTransport{progress: watch, dormancy: sleep, written: written, NetworkTransport: raft.NewNetworkTransportWithConfig(&conf)}
	t.wg.Go(t.deliverNotes)
	return t
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.consume }

// SetHeartbeatHandler implements raft.Transport. Raft's handler is not used; see
// heartbeat.go.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

// note hands a heartbeat that was answered to raft's loop, without waiting: one
// that is on its way already says the same.
func (t *transport) note(req raft.AppendEntriesRequest) {
	select {
	case t.notes <- raft.RPC{Command: &req, RespChan: make(chan raft.RPCResponse, 1)}:
	default:
	}
}

func (t *transport) deliverNotes() {
	for {
		select {
		case rpc := <-t.notes:
			t.deliver(rpc)
		case <-t.stop:
			return
		}
	}
}

// serve accepts connections until the layer is closed.
func (t *transport) serve() {
	for {
		c, peer, err := t.layer.Accept()
		switch {
		case err == nil:
			if r := t.readerOf(peer); r == nil || !r.stream.hand(&questionedConn{Conn: c, answer: t.rules.vouch}) {
				_ = c.Close() // we are closing
			}
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		t.log.Error("accepting a connection failed", "error", err)
		timer := time.NewTimer(acceptRetry)
		select {
		case <-timer.C:
		case <-t.stop:
			timer.Stop()
			return
		}
	}
}

// readerOf returns the reader of peer, or nil when the transport is closed. How
// many there can be is bounded by whom the listener lets in.
func (t *transport) readerOf(peer string) *peerReader {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if r := t.readers[peer]; r != nil {
		return r
	}
	stream := newHandedStream(peer, nil)
	conf := t.conf
	conf.Stream = stream
	r := &peerReader{NetworkTransport: raft.NewNetworkTransportWithConfig(&conf), stream: stream}
	r.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if t.allowed(peer, rpc) && !t.rules.answer(peer, rpc) {
			t.deliver(rpc)
		}
	})
	t.readers[peer] = r
	t.wg.Go(func() { t.forward(peer, r) })
	return r
}

func (t *transport) forward(peer string, r *peerReader) {
	for {
		select {
		case rpc := <-r.NetworkTransport.Consumer():
			t.receive(peer, rpc)
		case <-t.stop:
			return
		}
	}
}

// deliver hands a message to raft.
func (t *transport) deliver(rpc raft.RPC) {
	if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
		rpc.Command = withinReach(req)
	}
	select {
	case t.consume <- rpc:
	case <-t.stop:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

// allowed answers what is refused, and cuts its sender off: nobody sends such a
// thing by mistake.
func (t *transport) allowed(peer string, rpc raft.RPC) bool {
	err := t.rules.admit(peer, rpc.Command)
	if err == nil {
		return true
	}
	if errors.Is(err, errDormant) {
		rpc.Respond(nil, err)
		return false
	}
	t.log.Warn("refused a message", "peer", peer, "message", fmt.Sprintf("%T", rpc.Command), "reason", err)
	rpc.Respond(nil, err)
	t.layer.cut(func(id string) bool { return id == peer })
	return false
}

// Close implements raft.WithClose.
func (t *transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	close(t.stop)
	readers := t.readers
	t.mu.Unlock()
	err := errors.Join(t.layer.Close(), t.NetworkTransport.Close())
	for _, r := range readers {
		err = errors.Join(err, r.NetworkTransport.Close())
	}
	t.wg.Wait()
	return err
}

// handedStream is a raft.StreamLayer whose connections are handed to it.
type handedStream struct {
	addr string
	dial func(raft.ServerAddress, time.Duration) (net.Conn, error)
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newHandedStream(addr string, dial func(raft.ServerAddress, time.Duration) (net.Conn, error)) *handedStream {
	return &handedStream{addr: addr, dial: dial, ch: make(chan net.Conn), done: make(chan struct{})}
}

// hand gives c to the reader, or reports that it is closed.
func (s *handedStream) hand(c net.Conn) bool {
	select {
	case s.ch <- c:
		return true
	case <-s.done:
		return false
	}
}

// Accept implements net.Listener.
func (s *handedStream) Accept() (net.Conn, error) {
	select {
	case c := <-s.ch:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *handedStream) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// Addr implements net.Listener: what raft calls itself.
func (s *handedStream) Addr() net.Addr { return advertised(s.addr) }

// Dial implements raft.StreamLayer.
func (s *handedStream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if s.dial == nil {
		return nil, errors.ErrUnsupported // a reader of others' connections
	}
	return s.dial(addr, timeout)
}
