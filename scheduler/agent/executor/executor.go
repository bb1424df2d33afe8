// Package executor is the agent's way to containers: a client of rund over its
// unix socket. It translates nothing and keeps nothing; when rund goes away a
// call fails and a Watch ends, and the caller asks again.
//
// rund decides by the socket's peer credentials who may speak to it, so the
// connection carries no other protection and never leaves the machine.
package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// maxMessage bounds one message from rund: a report of every task of a node.
const maxMessage = 16 << 20

// Rund implements agent.Executor.
type Rund struct {
	conn   *grpc.ClientConn
	client rundpb.RundClient
}

// New returns a client of the socket at path. It connects when first used and
// again after rund was restarted.
func New(path string) (*Rund, error) {
	conn, err := grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket, checked by peer credentials
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("rund at %s: %w", path, err)
	}
	return &Rund{conn: conn, client: rundpb.NewRundClient(conn)}, nil
}

// Client is rund's whole interface, for images.
func (r *Rund) Client() rundpb.RundClient { return r.client }

// Close drops the connection.
func (r *Rund) Close() error { return r.conn.Close() }

// Probe asks what the runtime can do.
func (r *Rund) Probe(ctx context.Context) (*rundpb.ProbeResponse, error) {
	resp, err := r.client.Probe(ctx, &rundpb.ProbeRequest{})
	return resp, plain(err)
}

// Apply declares every task of the node.
func (r *Rund) Apply(ctx context.Context, req *rundpb.ApplyRequest) (*rundpb.ApplyResponse, error) {
	resp, err := r.client.Apply(ctx, req)
	return resp, plain(err)
}

// Watch passes reports to f until the connection or ctx ends, or f fails.
func (r *Rund) Watch(ctx context.Context, f func(*rundpb.WatchResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when f failed
	stream, err := r.client.Watch(ctx, &rundpb.WatchRequest{})
	if err != nil {
		return plain(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("rund ended its reports")
		}
		if err != nil {
			return plain(err)
		}
		if err := f(m); err != nil {
			return err
		}
	}
}

// Logs passes a task's output to f until its end.
func (r *Rund) Logs(ctx context.Context, req *rundpb.LogsRequest, f func(*rundpb.LogsResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.client.Logs(ctx, req)
	if err != nil {
		return plain(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return plain(err)
		}
		if err := f(m); err != nil {
			return err
		}
	}
}

// Exec opens the stream of a command in a task's container. Its errors are rund's, with
// their codes.
func (r *Rund) Exec(ctx context.Context) (grpc.BidiStreamingClient[rundpb.ExecRequest, taskpb.ExecOutput], error) {
	return r.client.Exec(ctx)
}

// NodeKey asks for the statement of rund's key.
func (r *Rund) NodeKey(ctx context.Context, req *rundpb.NodeKeyRequest) (*rundpb.NodeKeyResponse, error) {
	resp, err := r.client.NodeKey(ctx, req)
	return resp, plain(err)
}

// Check has rund judge this node by controls.
func (r *Rund) Check(ctx context.Context, controls []string) ([]*taskpb.CheckResult, error) {
	resp, err := r.client.Check(ctx, &rundpb.CheckRequest{Controls: controls})
	return resp.GetResults(), plain(err)
}

// Deliver hands on what is sealed to it.
func (r *Rund) Deliver(ctx context.Context, req *rundpb.DeliverRequest) error {
	_, err := r.client.Deliver(ctx, req)
	return plain(err)
}

// plain drops gRPC's wrapping: the text reaches people.
func plain(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return fmt.Errorf("rund: %s", s.Message())
	}
	return err
}
