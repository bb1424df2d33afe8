package agent

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	taskplaces "github.com/redoubt-cluster/redoubt/scheduler/places"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// scripted is a leader that answers a delivery with these messages and then end.
type scripted struct {
	grpc.ClientConnInterface
	grpc.ClientStream
	say []*schedulerpb.DeliverResponse
	end error
}

func (s *scripted) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return s, nil
}
func (s *scripted) SendMsg(any) error { return nil }
func (s *scripted) CloseSend() error  { return nil }
func (s *scripted) RecvMsg(m any) error {
	if len(s.say) == 0 {
		return s.end
	}
	proto.Merge(m.(proto.Message), s.say[0])
	s.say = s.say[1:]
	return nil
}

// taker is a rund that takes deliveries, but for that of a task named "refused".
type taker struct {
	Executor
	none bool // it has no key
	got  map[string]int
}

func (r *taker) NodeKey(context.Context, *rundpb.NodeKeyRequest) (*rundpb.NodeKeyResponse, error) {
	if r.none {
		return nil, errors.New("rund is away")
	}
	return &rundpb.NodeKeyResponse{Statement: []byte("statement")}, nil
}

func (r *taker) Deliver(_ context.Context, req *rundpb.DeliverRequest) error {
	if req.GetTaskId() == "refused" {
		return errors.New("rund refuses it")
	}
	r.got[req.GetTaskId()] = len(req.GetFiles())
	return nil
}

// TestDeliver: what is given for a task reaches rund in one piece or not at all, and
// each task that got nothing says why.
func TestDeliver(t *testing.T) {
	part := func(id string, n int) *schedulerpb.DeliverResponse {
		return &schedulerpb.DeliverResponse{TaskId: id, File: &taskpb.DeliveredFile{Data: make([]byte, n)}}
	}
	last := func(id string, n int) *schedulerpb.DeliverResponse {
		m := part(id, n)
		m.Facts = &taskpb.FileFacts{}
		return m
	}
	many := func(n int) (out []*schedulerpb.DeliverResponse) {
		for range n - 1 {
			out = append(out, part("a", 1))
		}
		return append(out, last("a", 1))
	}
	type messages = []*schedulerpb.DeliverResponse
	for name, c := range map[string]struct {
		say    messages
		end    error
		none   bool
		got    map[string]int
		failed map[string]string // of a, b and refused, which are asked for
	}{
		"each its own": {say: messages{part("a", 1), last("a", 1), last("b", 1), last("refused", 1)},
			got: map[string]int{"a": 2, "b": 1}, failed: map[string]string{"refused": "rund refuses it"}},
		"one is refused by the managers": {say: messages{{TaskId: "a", Error: "it is too much"}, last("b", 1)},
			got: map[string]int{"b": 1}, failed: map[string]string{"a": "it is too much", "refused": "said nothing"}},
		"what was not asked for": {say: messages{last("other", 1), last("a", 1), last("a", 1)},
			got: map[string]int{"a": 1}, failed: map[string]string{"b": "said nothing", "refused": "said nothing"}},
		"broken off": {say: messages{last("a", 1), part("b", 1)}, end: status.Error(codes.Unavailable, "the leader is another"),
			got: map[string]int{"a": 1}, failed: map[string]string{"b": "the leader is another", "refused": "the leader is another"}},
		"begun again, so that rund sees a part": {say: messages{part("a", 1), last("b", 1), last("a", 1)},
			got: map[string]int{"a": 1, "b": 1}, failed: map[string]string{"refused": "said nothing"}},
		"as many and as large as may be": {say: append(many(taskplaces.MaxFiles+1), part("b", taskplaces.MaxBytes-1), last("b", 1)),
			got: map[string]int{"a": taskplaces.MaxFiles + 1, "b": 2}, failed: map[string]string{"refused": "said nothing"}},
		"too many": {say: many(taskplaces.MaxFiles + 2),
			failed: map[string]string{"a": "more than 65 files", "b": "more than 65 files", "refused": "more than 65 files"}},
		"too large": {say: messages{part("a", taskplaces.MaxBytes), last("a", 1)},
			failed: map[string]string{"a": "more than 8 MiB", "b": "more than 8 MiB", "refused": "more than 8 MiB"}},
		"no rund": {none: true, failed: map[string]string{"a": "rund is away", "b": "rund is away", "refused": "rund is away"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &taker{none: c.none, got: map[string]int{}}
			if c.end == nil {
				c.end = io.EOF
			}
			a := &agent{Config: Config{Executor: r, Delivery: &Delivery{Vouch: func([]byte) ([][]byte, []byte, error) { return nil, nil, nil }}}}
			failed := a.deliver(t.Context(), &scripted{say: c.say, end: c.end}, []string{"a", "b", "refused"})
			if !maps.Equal(r.got, c.got) && len(r.got)+len(c.got) > 0 {
				t.Errorf("rund got %v, want %v", r.got, c.got)
			}
			if !slices.Equal(slices.Sorted(maps.Keys(failed)), slices.Sorted(maps.Keys(c.failed))) {
				t.Errorf("failed %v, want %v", failed, c.failed)
			}
			for id, want := range c.failed {
				if err := failed[id]; err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, want %q", id, err, want)
				}
			}
		})
	}
}
