package authz

import (
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// judge permits everything until it is told otherwise.
type judge struct {
	mu      sync.Mutex // guards the rest
	denies  bool
	waits   bool
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

// Consent has each call be made by an approval, or wait for one.
func (j *judge) Consent(ctx context.Context, _ Identity, _ string, _ proto.Message, _ []Act) (context.Context, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.waits {
		return nil, status.Error(codes.FailedPrecondition, "others must be for it")
	}
	return WithApproval(ctx, "approval"), nil
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
	if _, err := a.Judged(ctx, probe, &emptypb.Empty{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("in place: %v", err)
	}
	if _, err := a.Judged(context.Background(), probe, &emptypb.Empty{}); status.Code(err) != codes.PermissionDenied {
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

// TestConsent: what others must be for reaches no handler until they are, and then with
// the approval that it is made by; so it is with a stream, from its request on.
func TestConsent(t *testing.T) {
	d := newDirectory()
	j := &judge{waits: true}
	var refused int
	a := New(Config{Directory: d, Judge: j, Refused: func(Identity, string, string) { refused++ }})
	ctx := overTLS(ALPNLocal, d.node(profilepb.Role_ROLE_MANAGER))
	unary := func() (approval string, err error) {
		_, err = a.Unary(ctx, &emptypb.Empty{}, &grpc.UnaryServerInfo{FullMethod: probe}, func(ctx context.Context, _ any) (any, error) {
			approval = ApprovalOf(ctx)
			return nil, nil
		})
		return approval, err
	}
	stream := func() (approval string, err error) {
		err = a.Stream(nil, requestStream{fakeStream{ctx: ctx}}, &grpc.StreamServerInfo{FullMethod: probe}, func(_ any, ss grpc.ServerStream) error {
			if ApprovalOf(ss.Context()) != "" {
				t.Error("approved before the request is there")
			}
			if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
				return err
			}
			approval = ApprovalOf(ss.Context())
			return nil
		})
		return approval, err
	}
	for name, call := range map[string]func() (string, error){"unary": unary, "stream": stream} {
		j.waits = true
		if got, err := call(); status.Code(err) != codes.FailedPrecondition || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		j.waits = false
		if got, err := call(); err != nil || got != "approval" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if refused != 2 {
		t.Errorf("%d refusals were told", refused)
	}
}
