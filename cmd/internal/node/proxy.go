package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// proxy passes calls of the operator API from this node's socket to the leader
// without looking into them. The leader knows the call as that of this node's
// local root, from the connection, or as that of one of its users, whom this node
// names; no metadata is passed on.
type proxy struct {
	// leader returns a connection to the leader by that protocol, or a refusal.
	leader func(_ context.Context, alpn string) (grpc.ClientConnInterface, error)
	// direct answers a call here where this node leads and can; may be nil.
	direct func(method string) directCall
}

func (p proxy) handle(_ any, in grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(in)
	if !ok || !controlpb.OperatorMethod(method) {
		return fmt.Errorf("no such method: %s", method)
	}
	if p.direct != nil {
		if call := p.direct(method); call != nil {
			resp, err := call(in.Context(), in.RecvMsg)
			if err != nil {
				return err
			}
			return in.SendMsg(resp)
		}
	}
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	carried, alpn, err := authz.Carried(ctx)
	if err != nil {
		return err
	}
	conn, err := p.leader(ctx, alpn)
	if err != nil {
		return err
	}
	out, err := conn.NewStream(carried, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method,
		grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return ofLeader(in.Context(), err)
	}
	// It ends with the caller's stream, which ends when this function returns:
	// nothing else can interrupt RecvMsg.
	go func() {
		for {
			var f frame
			err := in.RecvMsg(&f)
			if errors.Is(err, io.EOF) {
				out.CloseSend()
				return
			}
			if err != nil {
				cancel()
				return
			}
			if out.SendMsg(&f) != nil {
				return // the receiving side has the reason
			}
		}
	}()
	return copyAnswers(in, out)
}

func copyAnswers(in grpc.ServerStream, out grpc.ClientStream) error {
	for {
		var f frame
		if err := out.RecvMsg(&f); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return ofLeader(in.Context(), err)
		}
		if err := in.SendMsg(&f); err != nil {
			return err
		}
	}
}

// ofLeader tells an answer of the leader, which explains itself, from the end of
// the connection to it, of which gRPC would speak to the operator.
func ofLeader(caller context.Context, err error) error {
	st := status.Convert(err)
	lost := st.Code() == codes.Canceled || st.Code() == codes.Unavailable && len(st.Details()) == 0
	if !lost || caller.Err() != nil {
		return passedOn{err}
	}
	return apierr.Unreachable("it may have taken effect: look before you repeat it", "the leader was lost before it answered")
}

// passedOn is the leader's own answer.
type passedOn struct{ error }

func (e passedOn) Unwrap() error              { return e.error }
func (e passedOn) GRPCStatus() *status.Status { return status.Convert(e.error) }

// LoggedElsewhere reports whether the leader has written the refusal down; it
// has not where it could not be reached.
func (e passedOn) LoggedElsewhere() bool { return status.Code(e.error) != codes.Unavailable }

// frame is a message as it came.
type frame struct{ data []byte }

// rawCodec passes frames through and leaves all other messages to protobuf, so
// that one server can have both.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.data = data.Materialize()
		return nil
	}
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}
