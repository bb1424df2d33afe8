package apierr

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

func TestRoundTrip(t *testing.T) {
	for reason := range codeOf {
		want := New(reason, "do this", "that was wrong")
		// What a client sees: the status, nothing of the Go value.
		got := Decode(status.FromProto(want.GRPCStatus().Proto()).Err())
		if *got != *want {
			t.Errorf("%s came back as %+v", reason, got)
		}
		if got.Error() != "that was wrong: do this" {
			t.Errorf("text %q", got)
		}
	}
}

func TestForeignStatusGetsReasonOfItsCode(t *testing.T) {
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		want := "x"
		if c == codes.DeadlineExceeded { // the transport's wording helps nobody
			want = "no answer in time"
		}
		if got := Decode(status.Error(c, "x")); got.Reason == "" || got.Message != want {
			t.Errorf("%v: %+v", c, got)
		}
	}
	if got := Decode(status.Error(codes.Unauthenticated, "x")); got.Reason != ReasonDenied {
		t.Errorf("unauthenticated is %s", got.Reason)
	}
}

func TestReasonMustFitItsCode(t *testing.T) {
	p := Locked().GRPCStatus().Proto()
	p.Code = int32(codes.PermissionDenied)
	if got := Decode(status.FromProto(p).Err()); got.Reason != ReasonDenied {
		t.Fatalf("a PermissionDenied calling itself LOCKED was believed: %+v", got)
	}
}

func TestFromErrorHidesTheInside(t *testing.T) {
	err := FromError(fmt.Errorf("open /var/lib/x: secret"), "r1")
	if s := err.Error(); strings.Contains(s, "secret") || !strings.Contains(s, "r1") {
		t.Errorf("answer %q", s)
	}
	if err := FromError(fmt.Errorf("wrapped: %w", Locked()), ""); ReasonOf(err) != ReasonLocked {
		t.Errorf("%v", err)
	}
	if err := FromError(context.DeadlineExceeded, ""); ReasonOf(err) != ReasonTimeout {
		t.Errorf("%v", err)
	}
	if !errors.Is(FromError(NoLeader(), ""), &Error{Reason: ReasonNoLeader}) {
		t.Error("Is does not compare reasons")
	}
	if FromError(nil, "") != nil || Decode(nil) != nil {
		t.Error("nil did not stay nil")
	}
}

func TestTextIsOneHarmlessLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		e := Decode(status.Error(codes.NotFound, s+"\x1b[2J\n"+s))
		if strings.ContainsAny(e.Error(), "\x1b\n\r\u202e") || len(e.Error()) > maxText+8 {
			t.Fatalf("%q", e.Error())
		}
	})
}
