package callstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

const listNodes = "/redoubt.control.v1.Control/ListNodes"

// world is a server of Control whose calls come either way, and are counted.
type world struct {
	controlpb.UnimplementedControlServer
	controlpb.UnimplementedCallStreamServer
	alone, shared atomic.Int64
	hangs         bool // reads nothing from a stream
	// answer answers both ways.
	answer func(ctx context.Context, req *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error)
}

func (w *world) ListNodes(ctx context.Context, req *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	w.alone.Add(1)
	return w.answer(ctx, req)
}

func (w *world) Calls(s Stream) error {
	if w.hangs {
		<-s.Context().Done()
		return s.Context().Err()
	}
	return Serve(s, func(ctx context.Context, method string, request []byte) ([]byte, error) {
		w.shared.Add(1)
		if method != listNodes {
			return nil, status.Error(codes.Unimplemented, method)
		}
		req := &controlpb.ListNodesRequest{}
		if err := proto.Unmarshal(request, req); err != nil {
			return nil, err
		}
		resp, err := w.answer(ctx, req)
		if err != nil {
			return nil, err
		}
		return proto.Marshal(resp)
	})
}

// echo answers with the first name it was given.
func echo(_ context.Context, req *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	if len(req.GetNodes()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "no name")
	}
	return &controlpb.ListNodesResponse{Self: req.GetNodes()[0]}, nil
}

// newWorld serves w until the test ends, with the stream or without, and returns
// a connection that is ready.
func newWorld(t *testing.T, w *world, withStream bool) (*Conn, *grpc.Server) {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	srv := grpc.NewServer()
	controlpb.RegisterControlServer(srv, w)
	if withStream {
		controlpb.RegisterCallStreamServer(srv, w)
	}
	l := bufconn.Listen(1 << 16)
	var served sync.WaitGroup
	served.Go(func() { _ = srv.Serve(l) })
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	c := Over(cc, func(m string) bool { return m == listNodes }, 64<<20)
	t.Cleanup(func() {
		if err := c.Close(); err != nil && status.Code(err) != codes.Canceled {
			t.Error(err)
		}
		srv.Stop()
		served.Wait()
	})
	cc.Connect()
	for s := cc.GetState(); s != connectivity.Ready; s = cc.GetState() {
		if !cc.WaitForStateChange(t.Context(), s) {
			t.Fatal("no connection")
		}
	}
	return c, srv
}

func call(ctx context.Context, c *Conn, name string) (string, error) {
	r, err := controlpb.NewControlClient(c).ListNodes(ctx, &controlpb.ListNodesRequest{Nodes: []string{name}})
	return r.GetSelf(), err
}

// Many callers, more than may be under way in a stream, each get their own answer.
func TestEachGetsItsAnswer(t *testing.T) {
	w := &world{answer: echo}
	c, _ := newWorld(t, w, true)
	var wg sync.WaitGroup
	for i := range 2 * maxCalls {
		wg.Go(func() {
			for n := range 20 {
				want := fmt.Sprintf("%d-%d", i, n)
				if got, err := call(t.Context(), c, want); err != nil || got != want {
					t.Errorf("%q, %v, want %q", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
	if all := w.shared.Load() + w.alone.Load(); all != 40*maxCalls || w.shared.Load() < all/4 {
		t.Errorf("%d of %d calls shared the stream", w.shared.Load(), all)
	}
}

// A refusal arrives as it would by itself: code, words, reason and remedy.
func TestRefusal(t *testing.T) {
	w := &world{answer: func(context.Context, *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
		return nil, apierr.NotFound("look", "no node")
	}}
	c, _ := newWorld(t, w, true)
	_, shared := call(t.Context(), c, "x")
	if err := c.ClientConn.Invoke(t.Context(), listNodes, &controlpb.ListNodesRequest{}, &controlpb.ListNodesResponse{}); err == nil ||
		!proto.Equal(status.Convert(err).Proto(), status.Convert(shared).Proto()) {
		t.Errorf("over the stream %v, by itself %v", shared, err)
	}
	if e := apierr.Decode(shared); e.Reason != apierr.ReasonNotFound || e.Remedy != "look" {
		t.Errorf("%+v", e)
	}
	if w.shared.Load() != 1 {
		t.Error("the call did not share the stream")
	}
}

// Who gives up is let go at once, and the handler learns of it; a deadline travels.
// The stream stays usable.
func TestGivingUp(t *testing.T) {
	begun, ended := make(chan time.Time, 1), make(chan error, 1)
	w := &world{}
	w.answer = func(ctx context.Context, req *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
		if req.GetNodes()[0] != "wait" {
			return echo(ctx, req)
		}
		end, _ := ctx.Deadline()
		begun <- end
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	}
	c, _ := newWorld(t, w, true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := call(ctx, c, "wait")
		done <- err
	}()
	if end := <-begun; !end.IsZero() {
		t.Errorf("a deadline of %v where none was given", end)
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("the caller who gave up got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler saw %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := call(ctx, c, "wait"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("after the deadline: %v", err)
	}
	if end := <-begun; end.IsZero() {
		t.Error("the deadline did not travel")
	}
	<-ended
	if got, err := call(t.Context(), c, "still here"); err != nil || got != "still here" {
		t.Errorf("%q, %v", got, err)
	}
	if w.alone.Load() != 0 {
		t.Errorf("%d calls went by themselves", w.alone.Load())
	}
}

// A server that reads nothing holds no caller beyond its context, however much
// they have to say.
func TestServerHangs(t *testing.T) {
	c, _ := newWorld(t, &world{answer: echo, hangs: true}, true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 * maxCalls {
		wg.Go(func() {
			_, err := call(ctx, c, strings.Repeat("x", maxRequest-100))
			if err != nil && status.Code(err) != codes.DeadlineExceeded {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil || len(c.current.waiting) == 0 {
		t.Error("no call took the stream")
	}
}

// What the stream is not for goes by itself.
func TestByItself(t *testing.T) {
	w := &world{answer: echo}
	c, _ := newWorld(t, w, true)
	long := strings.Repeat("x", maxRequest+1)
	if got, err := call(t.Context(), c, long); err != nil || got != long {
		t.Errorf("a large request: %v", err)
	}
	client := controlpb.NewControlClient(c)
	if _, err := client.ListNodes(t.Context(), &controlpb.ListNodesRequest{Nodes: []string{"x"}}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("a call with an option: %v", err)
	}
	if _, err := client.GetStatus(t.Context(), &controlpb.GetStatusRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that takes no part: %v", err)
	}
	if w.shared.Load() != 0 || w.alone.Load() != 2 {
		t.Errorf("%d calls shared the stream, %d did not", w.shared.Load(), w.alone.Load())
	}
}

// A server of an earlier version has no such stream: calls reach it all the same.
func TestServerWithoutTheStream(t *testing.T) {
	w := &world{answer: echo}
	c, _ := newWorld(t, w, false)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if got, err := call(t.Context(), c, "x"); err != nil || got != "x" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if w.alone.Load() != 100 {
		t.Errorf("%d calls arrived", w.alone.Load())
	}
}

// A server that goes away ends the calls under way, and one that is back takes
// calls again.
func TestServerGone(t *testing.T) {
	begun := make(chan struct{})
	w := &world{answer: func(ctx context.Context, _ *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	c, srv := newWorld(t, w, true)
	done := make(chan error, 1)
	go func() {
		_, err := call(t.Context(), c, "x")
		done <- err
	}()
	<-begun
	srv.Stop()
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("the call under way got %v", err)
	}
	if _, err := call(t.Context(), c, "x"); status.Code(err) != codes.Unavailable {
		t.Errorf("the next call got %v", err)
	}
}

// Close ends what is under way.
func TestClose(t *testing.T) {
	begun := make(chan struct{})
	w := &world{answer: func(ctx context.Context, _ *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	c, _ := newWorld(t, w, true)
	done := make(chan error, 1)
	go func() {
		_, err := call(t.Context(), c, "x")
		done <- err
	}()
	<-begun
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("the call succeeded")
	}
	if _, err := call(t.Context(), c, "x"); err == nil {
		t.Error("a call after Close succeeded")
	}
}
