package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/callstream"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// carried answers the calls that share a stream of this node's socket, each as if
// it had come by itself: the same authorizer judges it by the same rule, the same
// proxy answers it here or has the leader do it, and its end is logged alike.
type carried struct {
	controlpb.UnimplementedCallStreamServer
	az    *authz.Authorizer
	proxy proxy
	log   *slog.Logger
}

// Calls implements controlpb.CallStreamServer.
func (c carried) Calls(stream callstream.Stream) error {
	return callstream.Serve(stream, func(ctx context.Context, method string, request []byte) ([]byte, error) {
		start := time.Now()
		response, err := c.answer(ctx, method, request)
		return response, control.Ended(ctx, c.log, method, start, err)
	})
}

func (c carried) answer(ctx context.Context, method string, request []byte) ([]byte, error) {
	if unaryMethods[method] == nil {
		return nil, fmt.Errorf("no such method: %s", method)
	}
	ctx, err := c.az.Admit(ctx, method)
	if err != nil {
		return nil, err
	}
	return c.proxy.call(ctx, method, request)
}

// call answers a call with one request and one answer, both encoded, as handle
// does.
func (p proxy) call(ctx context.Context, method string, request []byte) ([]byte, error) {
	if p.direct != nil {
		if call := p.direct(method); call != nil {
			resp, err := call(ctx, func(m any) error { return decodeRequest(request, m) })
			if err != nil {
				return nil, err
			}
			return proto.Marshal(resp.(proto.Message)) // as every answer of a service is
		}
	}
	carried, alpn, err := authz.Carried(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := p.leader(ctx, alpn)
	if err != nil {
		return nil, err
	}
	var answer frame
	if err := conn.Invoke(carried, method, &frame{request}, &answer, grpc.ForceCodecV2(rawCodec{})); err != nil {
		return nil, ofLeader(ctx, err)
	}
	return answer.data, nil
}

func decodeRequest(b []byte, m any) error {
	if err := proto.Unmarshal(b, m.(proto.Message)); err != nil {
		return status.Errorf(codes.Internal, "the request cannot be decoded: %v", err)
	}
	return nil
}
