package apierr

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// maxText bounds what a server can make a terminal show.
const maxText = 2000

// Decode turns the error of a call into an *Error; nil stays nil. It knows
// ours by their details, and gives the transport's own the reason their code
// implies.
func Decode(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return New(ReasonCanceled, "", "canceled")
	}
	st, ok := status.FromError(err)
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) {
			return New(ReasonTimeout, "", "no answer in time")
		}
		return New(ReasonInternal, "", "%v", err)
	}
	out := New(reasonOf(st.Code()), "", "%s", st.Message())
	if st.Code() == codes.DeadlineExceeded && len(st.Details()) == 0 {
		// The transport's own words say how a stream ended, not what it means.
		out.Message, out.Remedy = "no answer in time", "it may still take effect: look before you repeat it"
	}
	for _, d := range st.Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.Domain != Domain {
			continue
		}
		// An unknown reason of a newer server keeps what its code implies, and
		// a reason that does not belong to the code is not believed.
		if code, known := codeOf[Reason(info.Reason)]; known && code == st.Code() {
			out.Reason = Reason(info.Reason)
		}
		out.Remedy = oneline.Text(info.Metadata["remedy"], maxText)
	}
	return out
}

func reasonOf(c codes.Code) Reason {
	switch c {
	case codes.InvalidArgument, codes.OutOfRange:
		return ReasonInvalid
	case codes.NotFound:
		return ReasonNotFound
	case codes.AlreadyExists:
		return ReasonExists
	case codes.Aborted:
		return ReasonConflict
	case codes.FailedPrecondition:
		return ReasonState
	case codes.PermissionDenied, codes.Unauthenticated:
		return ReasonDenied
	case codes.Unavailable:
		return ReasonUnreachable
	case codes.ResourceExhausted:
		return ReasonLimited
	case codes.Unimplemented:
		return ReasonUnsupported
	case codes.Canceled:
		return ReasonCanceled
	case codes.DeadlineExceeded:
		return ReasonTimeout
	}
	return ReasonInternal
}
