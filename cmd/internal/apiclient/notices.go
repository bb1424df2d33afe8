package apiclient

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// notices tells what a security-admin is to hear with answers.
type notices struct{ told func(string) }

func (n notices) hear(md metadata.MD) {
	if n.told == nil {
		return
	}
	for _, text := range md.Get(controlpb.NoticeHeader) {
		n.told(text)
	}
}

func (n notices) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var md metadata.MD
	err := call(ctx, method, req, reply, cc, append(opts, grpc.Header(&md))...)
	n.hear(md)
	return err
}

func (n notices) stream(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, d, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &noticed{ClientStream: s, n: n}, nil
}

// noticed is a stream whose header is looked at with its first message.
type noticed struct {
	grpc.ClientStream
	n    notices
	done bool // RecvMsg is not called concurrently
}

func (s *noticed) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if !s.done {
		s.done = true
		if md, herr := s.Header(); herr == nil {
			s.n.hear(md)
		}
	}
	return err
}
