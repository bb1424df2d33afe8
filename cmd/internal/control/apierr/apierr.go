// Package apierr is how the operator API refuses: a gRPC status whose message
// is one line for people, with a machine-readable reason and, apart from it,
// the remedy.
//
// The server makes errors with the constructors here; the command line turns
// whatever came back, from a server or from the transport, into an *Error
// with Decode. Both ends share the list of reasons, so an exit code never
// hangs on the wording of a message.
//
//	return nil, apierr.NotFound("run `redoubt service ls`", "no service %q", name)
//	return nil, apierr.Locked()
//
// A handler that returns any other error is answered as "internal error"
// (FromError): what went wrong inside goes to the server's log, not to callers.
package apierr

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Domain marks the details as ours.
const Domain = "redoubt"

// Reason says what kind of refusal this is. Reasons are part of the API:
// they may be added, never renamed.
type Reason string

// Reasons, each with the gRPC code it travels under.
const (
	ReasonInvalid     Reason = "INVALID"     // InvalidArgument
	ReasonNotFound    Reason = "NOT_FOUND"   // NotFound
	ReasonAmbiguous   Reason = "AMBIGUOUS"   // InvalidArgument
	ReasonExists      Reason = "EXISTS"      // AlreadyExists
	ReasonConflict    Reason = "CONFLICT"    // Aborted: changed since it was read
	ReasonState       Reason = "STATE"       // FailedPrecondition
	ReasonLocked      Reason = "LOCKED"      // FailedPrecondition
	ReasonNoCluster   Reason = "NO_CLUSTER"  // FailedPrecondition
	ReasonInCluster   Reason = "IN_CLUSTER"  // FailedPrecondition
	ReasonDenied      Reason = "DENIED"      // PermissionDenied
	ReasonNoLeader    Reason = "NO_LEADER"   // Unavailable
	ReasonUnreachable Reason = "UNREACHABLE" // Unavailable
	ReasonLimited     Reason = "LIMITED"     // ResourceExhausted
	ReasonUnsupported Reason = "UNSUPPORTED" // Unimplemented: not there yet
	ReasonInternal    Reason = "INTERNAL"    // Internal
	ReasonCanceled    Reason = "CANCELED"    // Canceled
	ReasonTimeout     Reason = "TIMEOUT"     // DeadlineExceeded
	ReasonApproval    Reason = "APPROVAL"    // FailedPrecondition: others must be for it first
)

var codeOf = map[Reason]codes.Code{
	ReasonInvalid:     codes.InvalidArgument,
	ReasonNotFound:    codes.NotFound,
	ReasonAmbiguous:   codes.InvalidArgument,
	ReasonExists:      codes.AlreadyExists,
	ReasonConflict:    codes.Aborted,
	ReasonState:       codes.FailedPrecondition,
	ReasonLocked:      codes.FailedPrecondition,
	ReasonNoCluster:   codes.FailedPrecondition,
	ReasonInCluster:   codes.FailedPrecondition,
	ReasonDenied:      codes.PermissionDenied,
	ReasonNoLeader:    codes.Unavailable,
	ReasonUnreachable: codes.Unavailable,
	ReasonLimited:     codes.ResourceExhausted,
	ReasonUnsupported: codes.Unimplemented,
	ReasonInternal:    codes.Internal,
	ReasonCanceled:    codes.Canceled,
	ReasonTimeout:     codes.DeadlineExceeded,
	ReasonApproval:    codes.FailedPrecondition,
}

// Error is a refusal: what was wrong, and what to do about it.
type Error struct {
	Reason  Reason
	Message string
	// Remedy may be empty where the message says it all.
	Remedy string
}

// New makes an Error. The message must hold no secret: it is shown and logged.
func New(reason Reason, remedy, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: oneline.Text(fmt.Sprintf(format, args...), maxText), Remedy: oneline.Text(remedy, maxText)}
}

// Error is the message and the remedy in one line.
func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.Message
	}
	return e.Message + ": " + e.Remedy
}

// Is makes errors.Is compare reasons, so that callers can write
// errors.Is(err, &apierr.Error{Reason: apierr.ReasonLocked}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// GRPCStatus lets an *Error be returned from a gRPC handler as it is.
func (e *Error) GRPCStatus() *status.Status {
	code, ok := codeOf[e.Reason]
	if !ok {
		code = codes.Internal
	}
	st := status.New(code, e.Message)
	info := &errdetails.ErrorInfo{Reason: string(e.Reason), Domain: Domain}
	if e.Remedy != "" {
		info.Metadata = map[string]string{"remedy": e.Remedy}
	}
	with, err := st.WithDetails(info)
	if err != nil { // cannot be for a code other than OK; the message still says it
		return st
	}
	return with
}

// ReasonOf returns the reason of the *Error in err's chain, or "".
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// FromError makes an answer out of any error of a handler. An *Error and a
// status pass as they are, the ends of a context get their codes; everything
// else becomes "internal error", as its text was not written for callers. The
// server logs the original under the same request id.
func FromError(err error, requestID string) error {
	if err == nil {
		return nil
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled):
		return New(ReasonCanceled, "", "canceled")
	case errors.Is(err, context.DeadlineExceeded):
		return New(ReasonTimeout, "try again, or see `redoubt status`", "the cluster did not answer in time")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return New(ReasonInternal, "see the log of redoubtd on this node and on the leader for the request id", "internal error (request %s)", requestID)
}
