package callstream

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
)

// Handler answers one call, request and response encoded. It judges the caller,
// as nobody has before it, and honours ctx. The request is its own; whose the
// response is does not change any more.
type Handler func(ctx context.Context, method string, request []byte) (response []byte, err error)

// Stream is the server's end.
type Stream = grpc.BidiStreamingServer[controlpb.CallBatch, controlpb.AnswerBatch]

// Serve answers the calls of a stream until it ends, and returns when all calls
// have.
func Serve(stream Stream, handle Handler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	s := &server{stream: stream, handle: handle, ctx: ctx, work: make(chan *running), calls: map[uint64]*running{}}
	err := s.receive()
	if err != nil {
		cancel() // nobody waits for the answers
	}
	close(s.work)
	s.workers.Wait()
	cancel()
	return err
}

type server struct {
	stream  Stream
	handle  Handler
	ctx     context.Context
	work    chan *running // to workers that have nothing to do; closed by Serve
	workers sync.WaitGroup
	outbox[*controlpb.Answer]

	// Guarded by the outbox's mu:
	calls  map[uint64]*running // under way, by id
	unsent int                 // calls under way or with an answer that is not sent
}

// running is a call under way.
type running struct {
	*controlpb.Call
	ctx    context.Context
	cancel context.CancelFunc
}

// receive begins calls until the caller has no more, which is nil.
func (s *server) receive() error {
	for {
		in, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if t := strictpb.Unknown(in); t != "" {
			return status.Errorf(codes.InvalidArgument, "%s has fields that this version does not know", t)
		}
		for _, c := range in.GetCalls() {
			if err := s.begin(c); err != nil {
				return err
			}
		}
		for _, id := range in.GetCancelled() {
			s.mu.Lock()
			c := s.calls[id]
			s.mu.Unlock()
			if c != nil { // else it was answered meanwhile
				c.cancel()
			}
		}
	}
}

// begin gives the call to a worker that is free, or to a new one: a stack that
// has grown is worth keeping.
func (s *server) begin(call *controlpb.Call) error {
	c := &running{Call: call}
	if call.GetTimeout() > 0 {
		c.ctx, c.cancel = context.WithTimeout(s.ctx, time.Duration(call.GetTimeout()))
	} else {
		c.ctx, c.cancel = context.WithCancel(s.ctx)
	}
	s.mu.Lock()
	known, full := s.calls[call.GetId()] != nil, s.unsent >= maxServerCalls
	if !known && !full {
		s.calls[call.GetId()] = c
		s.unsent++
	}
	s.mu.Unlock()
	switch {
	case known:
		c.cancel()
		return status.Errorf(codes.InvalidArgument, "two calls under way have the same id")
	case full:
		c.cancel()
		return status.Errorf(codes.ResourceExhausted, "more than %d calls under way in one stream", maxServerCalls)
	}
	select {
	case s.work <- c:
	default:
		s.workers.Go(func() { s.serve(c) })
	}
	return nil
}

// serve answers c, and then whatever comes.
func (s *server) serve(c *running) {
	for ok := true; ok; c, ok = <-s.work {
		response, err := s.handle(c.ctx, c.GetMethod(), c.GetRequest())
		c.cancel()
		s.answer(c.GetId(), response, err)
	}
}

func (s *server) answer(id uint64, response []byte, err error) {
	a := &controlpb.Answer{Id: id, Response: response}
	if err == nil && len(response) > maxResponse {
		err = status.Errorf(codes.ResourceExhausted, "the answer has %d bytes, more than the %d that clients take", len(response), maxResponse)
	}
	if err != nil {
		a.Response, a.Status = nil, encodeStatus(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, id)
	s.items = append(s.items, a)
	s.flushLocked(s.send)
}

// send sends answers in messages of bounded size. Where the stream has ended,
// receive finds out.
func (s *server) send(answers []*controlpb.Answer) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unsent -= len(answers)
	}()
	for rest := answers; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && size < batchBytes {
			size += len(rest[n].GetResponse()) + len(rest[n].GetStatus())
			n++
		}
		if err := s.stream.Send(&controlpb.AnswerBatch{Answers: rest[:n]}); err != nil {
			return
		}
		rest = rest[n:]
	}
}

// encodeStatus encodes a refusal; what cannot be told in so many bytes is told
// by its code.
func encodeStatus(err error) []byte {
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err) // as gRPC does for a call by itself
	}
	if st.Code() == codes.OK { // an error that says it is none
		st = status.New(codes.Internal, "internal error")
	}
	b, merr := proto.Marshal(st.Proto())
	if merr == nil && len(b) <= maxStatus {
		return b
	}
	b, _ = proto.Marshal(status.New(st.Code(), "the refusal is too large to be told").Proto())
	return b
}
