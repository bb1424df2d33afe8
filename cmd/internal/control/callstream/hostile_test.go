package callstream

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// raw opens a stream without the client above.
func raw(t *testing.T, answer func(context.Context, *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error)) controlpb.CallStream_CallsClient {
	t.Helper()
	c, _ := newWorld(t, &world{answer: answer}, true)
	s, err := controlpb.NewCallStreamClient(c.ClientConn).Calls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func waits(ctx context.Context, _ *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func send(t *testing.T, s controlpb.CallStream_CallsClient, b *controlpb.CallBatch) {
	t.Helper()
	if err := s.Send(b); err != nil {
		t.Fatal(err)
	}
}

// A caller who breaks the rules loses the stream, with all that was under way.
func TestHostileCaller(t *testing.T) {
	for _, c := range []struct {
		name string
		code codes.Code
		send func() *controlpb.CallBatch
	}{
		{"the same id twice", codes.InvalidArgument, func() *controlpb.CallBatch {
			return &controlpb.CallBatch{Calls: []*controlpb.Call{{Id: 1, Method: listNodes}, {Id: 1, Method: listNodes}}}
		}},
		{"too many calls", codes.ResourceExhausted, func() *controlpb.CallBatch {
			b := &controlpb.CallBatch{}
			for id := range uint64(maxServerCalls + 1) {
				b.Calls = append(b.Calls, &controlpb.Call{Id: id, Method: listNodes})
			}
			return b
		}},
		{"a field nobody knows", codes.InvalidArgument, func() *controlpb.CallBatch {
			call := &controlpb.Call{Id: 1, Method: listNodes}
			call.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
			return &controlpb.CallBatch{Calls: []*controlpb.Call{call}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := raw(t, waits)
			send(t, s, c.send())
			var err error
			for err == nil { // the calls under way may be answered yet
				_, err = s.Recv()
			}
			if status.Code(err) != c.code {
				t.Errorf("got %v, want %v", err, c.code)
			}
		})
	}
}

// What is no call of the service, and what cannot be decoded, is refused by
// itself; giving up what is not there does nothing; then the caller has no more,
// and gets what is left.
func TestOddCalls(t *testing.T) {
	s := raw(t, echo)
	good, err := proto.Marshal(&controlpb.ListNodesRequest{Nodes: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, &controlpb.CallBatch{Cancelled: []uint64{7, 7}, Calls: []*controlpb.Call{
		{Id: 1, Method: "/redoubt.pki.v1.Join/Join"}, {Id: 2, Method: ""}, {Id: 3, Method: listNodes, Request: []byte{0xff}},
		{Id: 0, Method: listNodes, Request: good, Timeout: -1}}})
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	got := map[uint64]*controlpb.Answer{}
	for {
		b, err := s.Recv()
		if err != nil {
			break
		}
		for _, a := range b.GetAnswers() {
			got[a.GetId()] = a
		}
	}
	if len(got) != 4 {
		t.Fatalf("%d answers", len(got))
	}
	for id := range uint64(4) {
		if refused := len(got[id].GetStatus()) > 0; refused != (id > 0) || refused && len(got[id].GetResponse()) > 0 {
			t.Errorf("call %d: %v", id, got[id])
		}
	}
}

// A refusal of any size, and one that says it is none, reaches the caller as a
// refusal.
func TestStatusIsBounded(t *testing.T) {
	for _, err := range []error{status.Error(codes.NotFound, strings.Repeat("x", maxStatus)), claimsSuccess{}} {
		if got := statusOf(encodeStatus(err)); got == nil || status.Code(got) == codes.OK || len(got.Error()) > maxStatus {
			t.Errorf("%T arrives as %.80v", err, got)
		}
	}
	for _, b := range [][]byte{{0xff}, {0x08, 0x00}} {
		if got := statusOf(b); status.Code(got) != codes.Internal {
			t.Errorf("%x is read as %v", b, got)
		}
	}
}

type claimsSuccess struct{}

func (claimsSuccess) Error() string              { return "no" }
func (claimsSuccess) GRPCStatus() *status.Status { return status.New(codes.OK, "yes") }

// An answer to a call that was not made ends the stream of a client, and the
// calls under way with it.
func TestHostileServer(t *testing.T) {
	c, _ := newWorld(t, &world{answer: echo}, true)
	s := c.session(t.Context())
	if s == nil {
		t.Fatal("no stream")
	}
	s.mu.Lock()
	s.items = append(s.items, &controlpb.Call{Id: 1 << 40, Method: listNodes})
	s.flushLocked(s.send)
	s.mu.Unlock()
	<-s.stream.Context().Done()
	if got, err := call(t.Context(), c, "again"); err != nil || got != "again" {
		t.Errorf("the next call: %q, %v", got, err)
	}
}
