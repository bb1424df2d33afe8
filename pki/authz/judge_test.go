package authz

import (
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// judge permits everything until it is told otherwise.
type judge struct {
	mu      sync.Mutex // guards the rest
	denies  bool
	asked   []Act
	changed func()
}

func (j *judge) Judge(_ context.Context, _ Identity, acts []Act) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked = append(j.asked, acts...)
	if j.denies {
		return status.Error(codes.PermissionDenied, "not permitted")
	}
	return nil
}

func (j *judge) Changes(ctx context.Context, changed func()) error {
	j.mu.Lock()
	j.changed = changed
	j.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (j *judge) deny(d bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.denies = d
}

var probe = methodOf(authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT)

// TestTheJudgeIsAsked: without one, and against its word, nothing with a verb is
// answered; what is the caller's own is.
func TestTheJudgeIsAsked(t *testing.T) {
	d := newDirectory()
	local := overTLS(ALPNLocal, d.node(profilepb.Role_ROLE_MANAGER))
	if err := tryUnary(New(Config{Directory: d}), local, probe); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without a judge: %v", err)
	}
	j := &judge{}
	a := New(Config{Directory: d, Judge: j})
	if err := tryUnary(a, local, probe); err != nil {
		t.Error(err)
	}
	if len(j.asked) != 1 || j.asked[0] != (Act{Verb: "probe.do"}) {
		t.Errorf("it was asked for %v", j.asked)
	}
	j.deny(true)
	if err := tryUnary(a, local, probe); status.Convert(err).Message() != "not permitted" {
		t.Errorf("against its word: %v", err)
	}
	if err := tryUnary(a, local, "/"+testService+"/Own"); err != nil {
		t.Errorf("what is the caller's own: %v", err)
	}
	ctx, err := a.Carry(NewContext(context.Background(), Identity{LocalRoot: true}), probe, d.node(profilepb.Role_ROLE_MANAGER))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Judged(ctx, probe, &emptypb.Empty{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("in place: %v", err)
	}
	if err := a.Judged(context.Background(), probe, &emptypb.Empty{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("nobody: %v", err)
	}
}

// requestStream has one request and then waits.
type requestStream struct {
	fakeStream
}

func (requestStream) RecvMsg(any) error { return nil }

// TestStreamsAreJudgedAndRejudged: by the request when it comes, and again whenever the
// judge may think otherwise, without taking the connection from others.
func TestStreamsAreJudgedAndRejudged(t *testing.T) {
	d := newDirectory()
	j := &judge{}
	a := New(Config{Directory: d, Judge: j})
	ctx, cancel := context.WithCancel(t.Context())
	run := make(chan error, 1)
	go func() { run <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-run; err != nil {
			t.Error(err)
		}
	}()
	open := func(inside func(ss grpc.ServerStream) error) error {
		s := requestStream{fakeStream{ctx: overTLS(ALPNLocal, d.node(profilepb.Role_ROLE_MANAGER))}}
		return a.Stream(nil, s, &grpc.StreamServerInfo{FullMethod: probe}, func(_ any, ss grpc.ServerStream) error {
			if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
				return err
			}
			return inside(ss)
		})
	}
	j.deny(true)
	if err := open(func(grpc.ServerStream) error { t.Error("its handler was reached"); return nil }); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	j.deny(false)
	err := open(func(ss grpc.ServerStream) error {
		a.rejudge(ctx)
		if err := ss.Context().Err(); err != nil {
			t.Errorf("cut though nothing changed: %v", err)
		}
		j.deny(true)
		a.rejudge(ctx)
		<-ss.Context().Done()
		return ss.Context().Err()
	})
	if status.Convert(err).Message() != "not permitted" {
		t.Errorf("ended by %v", err)
	}
}
