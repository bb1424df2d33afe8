package node

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// leaderAPI is what stands behind the proxy.
type leaderAPI struct {
	controlpb.UnimplementedControlServer
	seen metadata.MD
}

func (l *leaderAPI) ListNodes(ctx context.Context, req *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	l.seen, _ = metadata.FromIncomingContext(ctx)
	if len(req.GetNodes()) > 0 {
		return nil, apierr.NotFound("look", "no node %q", req.GetNodes()[0])
	}
	return &controlpb.ListNodesResponse{Self: "leader"}, nil
}

func (l *leaderAPI) WatchService(req *controlpb.WatchServiceRequest, s controlpb.Control_WatchServiceServer) error {
	for range 3 {
		if err := s.Send(&controlpb.WatchServiceResponse{Removed: true}); err != nil {
			return err
		}
	}
	if req.GetService() == "forever" {
		<-s.Context().Done()
		return s.Context().Err()
	}
	return nil
}

func serve(t *testing.T, srv *grpc.Server) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		srv.Stop()
		<-done
	})
	return cc
}

// ofRoot has every call be local root's.
func ofRoot(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(srv, rootsStream{ss})
}

type rootsStream struct{ grpc.ServerStream }

func (s rootsStream) Context() context.Context {
	return authz.NewContext(s.ServerStream.Context(), authz.Identity{LocalRoot: true})
}

func TestProxy(t *testing.T) {
	// A lookup that another test began goes on by itself until it is answered.
	others := []goleak.Option{goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("net.(*Resolver).lookupIPAddr.func1"),
		goleak.IgnoreAnyFunction("net.(*Resolver).goLookupIPCNAMEOrder.func3.1")}
	t.Cleanup(func() { goleak.VerifyNone(t, others...) })
	api := &leaderAPI{}
	behind := grpc.NewServer()
	controlpb.RegisterControlServer(behind, api)
	leader := serve(t, behind)

	var refuse error
	p := proxy{leader: func(context.Context, string) (grpc.ClientConnInterface, error) { return leader, refuse }}
	front := serve(t, grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(p.handle), grpc.ChainStreamInterceptor(ofRoot)))
	client := controlpb.NewControlClient(front)

	ctx := metadata.AppendToOutgoingContext(t.Context(), "role", "manager")
	resp, err := client.ListNodes(ctx, &controlpb.ListNodesRequest{})
	if err != nil || resp.GetSelf() != "leader" {
		t.Fatalf("%v, %v", resp, err)
	}
	if len(api.seen.Get("role")) > 0 {
		t.Error("the caller's metadata reached the leader")
	}
	_, err = client.ListNodes(t.Context(), &controlpb.ListNodesRequest{Nodes: []string{"x"}})
	if e := apierr.Decode(err); e.Reason != apierr.ReasonNotFound || e.Remedy != "look" {
		t.Errorf("a refusal came back as %+v", e)
	}

	stream, err := client.WatchService(t.Context(), &controlpb.WatchServiceRequest{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; err == nil; n++ {
		_, err = stream.Recv()
	}
	if n != 4 {
		t.Errorf("%d messages before %v", n-1, err)
	}

	// A caller who goes away ends the call behind the proxy.
	cctx, cancel := context.WithCancel(t.Context())
	stream, err = client.WatchService(cctx, &controlpb.WatchServiceRequest{Service: "forever"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after cancel: %v", err)
	}

	// A connection that is given up because there is another leader is not
	// spoken of in the words of its transport.
	stream, err = client.WatchService(t.Context(), &controlpb.WatchServiceRequest{Service: "forever"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	leader.Close()
	_, err = stream.Recv()
	if e := apierr.Decode(err); e.Reason != apierr.ReasonUnreachable || !strings.Contains(e.Message, "the leader was lost") {
		t.Errorf("after the leader was given up: %v", err)
	}

	refuse = apierr.Locked()
	_, err = client.ListNodes(t.Context(), &controlpb.ListNodesRequest{})
	if !errors.Is(apierr.Decode(err), &apierr.Error{Reason: apierr.ReasonLocked}) {
		t.Errorf("without a leader: %v", err)
	}
	err = front.Invoke(t.Context(), "/redoubt.pki.v1.Join/Join", &controlpb.ListNodesRequest{}, &controlpb.ListNodesResponse{})
	if err == nil || !strings.Contains(err.Error(), "no such method") {
		t.Errorf("a method of another service: %v", err)
	}
}
