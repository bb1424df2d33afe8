package callstream

import (
	"context"
	"errors"
	"io"
	"sync"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// Conn is a client connection whose short calls share a stream. It is safe for
// concurrent use.
type Conn struct {
	*grpc.ClientConn
	carried func(method string) bool
	maxRecv int

	mu      sync.Mutex // guards the rest; never held while waiting
	current *session   // nil: none
	opening bool
	without bool // the server knows no such stream, or this end is closed
	readers sync.WaitGroup
}

// Over returns a Conn over cc, which it owns from then on. carried says which
// methods may take the stream, maxRecv is the largest answer in bytes.
func Over(cc *grpc.ClientConn, carried func(method string) bool, maxRecv int) *Conn {
	return &Conn{ClientConn: cc, carried: carried, maxRecv: maxRecv}
}

// Close ends the connection and every call under way.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.without = true
	s := c.current
	c.mu.Unlock()
	if s != nil {
		s.cancel()
	}
	err := c.ClientConn.Close()
	c.readers.Wait()
	return err
}

// Invoke makes one call.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	req, isMessage := args.(proto.Message)
	resp, wantsMessage := reply.(proto.Message)
	if !isMessage || !wantsMessage || !plain(opts) || !c.carried(method) {
		return c.ClientConn.Invoke(ctx, method, args, reply, opts...)
	}
	if size := proto.Size(req); size <= maxRequest {
		if s := c.session(ctx); s != nil {
			b, err := proto.Marshal(req)
			if err != nil {
				return status.Errorf(codes.Internal, "the request cannot be encoded: %v", err)
			}
			b, err = s.call(ctx, method, b)
			if err == nil {
				if err = proto.Unmarshal(b, resp); err != nil {
					return status.Errorf(codes.Internal, "the answer cannot be decoded: %v", err)
				}
				return nil
			}
			if !errors.Is(err, errElsewhere) {
				return err
			}
		}
	}
	return c.ClientConn.Invoke(ctx, method, args, reply)
}

// plain reports whether the call has no options but the one that all generated
// clients give.
func plain(opts []grpc.CallOption) bool {
	for _, o := range opts {
		if _, ok := o.(grpc.StaticMethodCallOption); !ok {
			return false
		}
	}
	return true
}

// session returns the stream, which it opens where there is none; nil: the call
// goes by itself.
func (c *Conn) session(ctx context.Context) *session {
	c.mu.Lock()
	if c.current != nil || c.without || c.opening || c.GetState() != connectivity.Ready {
		defer c.mu.Unlock()
		return c.current
	}
	c.opening = true
	c.mu.Unlock()

	sctx, cancel := context.WithCancel(context.Background())
	// The stream outlives the call that opens it, but not its opening.
	stop := context.AfterFunc(ctx, cancel)
	stream, err := controlpb.NewCallStreamClient(c.ClientConn).Calls(sctx, grpc.MaxCallRecvMsgSize(c.maxRecv))
	opened := stop() && err == nil

	c.mu.Lock()
	defer c.mu.Unlock()
	c.opening = false
	if !opened || c.without {
		cancel()
		return nil
	}
	s := &session{stream: stream, cancel: cancel, waiting: map[uint64]*waiter{}}
	c.current = s
	c.readers.Go(func() {
		defer cancel()
		err := s.read()
		c.mu.Lock()
		c.current = nil
		if status.Code(err) == codes.Unimplemented {
			c.without, err = true, errElsewhere // it has taken none of the calls
		}
		c.mu.Unlock()
		s.fail(err)
	})
	return s
}

// errElsewhere says that the call was not made and goes by itself.
var errElsewhere = errors.New("not over this stream")

// session is one stream.
type session struct {
	stream grpc.BidiStreamingClient[controlpb.CallBatch, controlpb.AnswerBatch]
	cancel context.CancelFunc
	outbox[*controlpb.Call]

	// Guarded by the outbox's mu:
	last    uint64
	waiting map[uint64]*waiter // by the id of the call
	unsent  int                // bytes under way, as maxUnsent counts them
	gone    []uint64           // calls given up, to be told
	err     error              // why there will be no more answers
}

// waiter waits for an answer.
type waiter struct {
	size   int
	gaveUp bool
	answer *controlpb.Answer
	err    error
	done   chan struct{} // gets one value when answer or err is set
}

var waiters = sync.Pool{New: func() any { return &waiter{done: make(chan struct{}, 1)} }}

// call makes one call and returns the encoded answer.
func (s *session) call(ctx context.Context, method string, request []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	call := &controlpb.Call{Method: method, Request: request, Timeout: timeLeft(ctx)}
	w := waiters.Get().(*waiter)
	w.size, w.gaveUp, w.answer, w.err = len(request)+callOverhead, false, nil, nil

	s.mu.Lock()
	if s.err != nil || len(s.waiting) >= maxCalls || s.unsent+w.size > maxUnsent {
		s.mu.Unlock()
		return nil, errElsewhere
	}
	s.last++
	call.Id = s.last
	s.waiting[call.Id] = w
	s.unsent += w.size
	s.items = append(s.items, call)
	s.flushLocked(s.send)
	s.mu.Unlock()

	select {
	case <-w.done:
	case <-ctx.Done():
		if !s.giveUp(call.Id, w) {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		<-w.done // it was answered meanwhile
	}
	answer, err := w.answer, w.err
	waiters.Put(w)
	if err != nil {
		return nil, err
	}
	if len(answer.GetStatus()) > 0 {
		return nil, statusOf(answer.GetStatus())
	}
	return answer.GetResponse(), nil
}

// giveUp reports whether the call was answered already; otherwise w is the
// reader's from now on.
func (s *session) giveUp(id uint64, w *waiter) (answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[id] != w {
		return true
	}
	w.gaveUp = true
	s.gone = append(s.gone, id)
	s.flushLocked(s.send)
	return false
}

// send sends calls and what was given up. It is called by one at a time, without
// the lock. Where it fails the reader has the reason.
func (s *session) send(calls []*controlpb.Call) {
	s.mu.Lock()
	gone := s.gone
	s.gone = nil
	s.mu.Unlock()
	_ = s.stream.Send(&controlpb.CallBatch{Calls: calls, Cancelled: gone})
}

// read hands answers out until the stream ends.
func (s *session) read() error {
	for {
		in, err := s.stream.Recv()
		if errors.Is(err, io.EOF) { // it ends when this end does, and not before
			return status.Error(codes.Unavailable, "the server ended the stream")
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		for _, a := range in.GetAnswers() {
			w := s.waiting[a.GetId()]
			if w == nil {
				s.mu.Unlock()
				return status.Errorf(codes.Internal, "an answer came to a call that was not made")
			}
			s.endLocked(a.GetId(), w, a, nil)
		}
		s.mu.Unlock()
	}
}

func (s *session) endLocked(id uint64, w *waiter, a *controlpb.Answer, err error) {
	delete(s.waiting, id)
	s.unsent -= w.size
	if !w.gaveUp {
		w.answer, w.err = a, err
		w.done <- struct{}{}
	}
}

// fail ends every call under way.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	for id, w := range s.waiting {
		s.endLocked(id, w, nil, err)
	}
}

// statusOf decodes a refusal.
func statusOf(b []byte) error {
	p := &spb.Status{}
	if err := proto.Unmarshal(b, p); err != nil || p.GetCode() == int32(codes.OK) {
		return status.Error(codes.Internal, "a refusal came that cannot be read")
	}
	return status.ErrorProto(p)
}
