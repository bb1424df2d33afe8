package pki

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// later is a refusal that is over after a while, which it says in its text and
// as a detail: a joiner asks again by itself.
func later(code codes.Code, after time.Duration, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	st, err := status.New(code, fmt.Sprintf("%s: try again in %v", text, after)).WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil { // cannot be for a code other than OK; the text still says it
		return status.Error(code, text)
	}
	return st.Err()
}

// LaterError is a refusal that is over after a while.
type LaterError struct {
	After time.Duration
	Err   error

	approval bool // an operator is waited for, who takes longer than a manager
}

func (e *LaterError) Error() string { return e.Err.Error() }
func (e *LaterError) Unwrap() error { return e.Err }

// callError is the error of a call as a person reads it: an answer by its text, a
// connection that ended without one as that.
func callError(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			// The other end is known to be a manager, and still does not decide how
			// long this node waits.
			return &LaterError{After: min(max(info.GetRetryDelay().AsDuration(), 0), maxJoinPause), Err: errors.New(s.Message())}
		}
	}
	if s.Code() == codes.Unavailable {
		return ErrConnectionLost
	}
	return &refusedError{s.Code(), s.Message()}
}

// refusedError is a manager's answer that no waiting changes.
type refusedError struct {
	code codes.Code
	text string
}

func (e *refusedError) Error() string { return e.text }

// mayPass reports whether a refusal may be over soon by itself, and the least
// pause before it is worth asking again.
func mayPass(err error) (time.Duration, bool) {
	if busy := (*LaterError)(nil); errors.As(err, &busy) {
		return busy.After, true
	}
	return 0, errors.Is(err, ErrConnectionLost)
}

// persist calls try until it succeeds, is refused for good, or patience is over
// before the next try, with growing pauses between. stop, closed, ends it after
// the try under way.
func persist(ctx context.Context, patience time.Duration, stop <-chan struct{}, try func() error) error {
	begun := time.Now()
	end := begun.Add(patience)
	for pause := minJoinPause; ; pause = min(2*pause, maxJoinPause) {
		err := try()
		if err == nil {
			return nil
		}
		after, ok := mayPass(err)
		wait := max(after, pause/2+rand.N(pause/2+1))
		if busy := (*LaterError)(nil); errors.As(err, &busy) && busy.approval {
			wait = after
			end = begun.Add(max(patience, maxApproval))
		}
		if !ok || ctx.Err() != nil || time.Now().Add(wait).After(end) {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return err
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
