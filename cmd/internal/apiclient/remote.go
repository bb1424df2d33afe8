package apiclient

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/callstream"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/port"
)

// DialPerson connects a person to the cluster, by whichever manager answers.
// told hears of what is said with answers and is to be seen, each time; it may be nil.
func DialPerson(ctx context.Context, p *pki.Person, told func(string)) (*Client, error) {
	heard := notices{told: told}
	under, err := port.DialPerson(ctx, p,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
		grpc.WithChainUnaryInterceptor(remoteUnary, heard.unary), grpc.WithChainStreamInterceptor(remoteStream, heard.stream))
	if err != nil {
		if ctx.Err() != nil {
			return nil, apierr.Decode(ctx.Err())
		}
		return nil, apierr.New(apierr.ReasonUnreachable, "", "%v", err)
	}
	c := newClient(callstream.Over(under.ClientConn, func(string) bool { return false }, maxReply))
	c.under = under
	return c, nil
}

// Remote reports whether the cluster alone answers, and not the node itself: for a
// person by a certificate, and for a user who is not root.
func (c *Client) Remote() bool { return c.under != nil || c.users }

// Renew gets a person's next certificate over a connection that DialPerson made.
func (c *Client) Renew(ctx context.Context, p *pki.Person) (*pki.Person, error) {
	return p.Renew(ctx, c.conn)
}

var renewal = "/" + pkipb.PersonRenewal_ServiceDesc.ServiceName + "/"

// ofNode refuses what a node's own socket alone answers.
func ofNode(method string) error {
	if controlpb.OperatorMethod(method) || strings.HasPrefix(method, renewal) {
		return nil
	}
	return apierr.New(apierr.ReasonUnsupported, "log in to the node, or name its socket with --host", "this is answered by a node's own socket, not to a context")
}

func remoteUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := ofNode(method); err != nil {
		return err
	}
	return fromAfar(call(ctx, method, req, reply, cc, opts...))
}

func remoteStream(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := ofNode(method); err != nil {
		return nil, err
	}
	s, err := open(ctx, d, cc, method, opts...)
	if err != nil {
		return nil, fromAfar(err)
	}
	return remote{s}, nil
}

type remote struct{ grpc.ClientStream }

func (r remote) RecvMsg(m any) error {
	err := r.ClientStream.RecvMsg(m)
	if errors.Is(err, io.EOF) {
		return err
	}
	return fromAfar(err)
}

// fromAfar tells the end of the connection from an answer.
func fromAfar(err error) error {
	if st, ok := status.FromError(err); ok && st.Code() == codes.Unavailable && len(st.Details()) == 0 {
		return apierr.New(apierr.ReasonUnreachable, "try again: another manager may lead now; `redoubt context show` says until when the certificate is good", "the managers ended the connection")
	}
	return err
}
