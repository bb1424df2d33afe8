package executor

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type server struct {
	rundpb.UnimplementedRundServer
	generation uint64
}

func (s *server) Probe(context.Context, *rundpb.ProbeRequest) (*rundpb.ProbeResponse, error) {
	return &rundpb.ProbeResponse{Runtime: "r"}, nil
}

func (s *server) Apply(_ context.Context, r *rundpb.ApplyRequest) (*rundpb.ApplyResponse, error) {
	if r.Generation <= s.generation {
		return nil, status.Error(codes.FailedPrecondition, "generation 1 is older")
	}
	s.generation = r.Generation
	return &rundpb.ApplyResponse{}, nil
}

func (s *server) Watch(_ *rundpb.WatchRequest, stream grpc.ServerStreamingServer[rundpb.WatchResponse]) error {
	if err := stream.Send(&rundpb.WatchResponse{Complete: true}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (s *server) Logs(r *rundpb.LogsRequest, stream grpc.ServerStreamingServer[rundpb.LogsResponse]) error {
	if r.TaskId == "" {
		return status.Error(codes.NotFound, "no log")
	}
	return stream.Send(&rundpb.LogsResponse{Data: []byte("x")})
}

// serve listens at path until the returned function is called.
func serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	rundpb.RegisterRundServer(g, &server{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Serve(l)
	}()
	return func() {
		g.Stop()
		<-done
	}
}

func TestRund(t *testing.T) {
	path := t.TempDir() + "/rund.sock"
	r, err := New(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Probe(t.Context()); err == nil {
		t.Error("a rund that is not there answered")
	}
	stop := serve(t, path)
	ctx := t.Context()
	// The client reconnects after a pause of its own.
	if p, err := r.Client().Probe(ctx, &rundpb.ProbeRequest{}, grpc.WaitForReady(true)); err != nil || p.Runtime != "r" {
		t.Fatalf("probe %v, %v", p, err)
	}
	if _, err := r.Apply(ctx, &rundpb.ApplyRequest{Generation: 1}); err != nil {
		t.Error(err)
	}
	if _, err := r.Apply(ctx, &rundpb.ApplyRequest{Generation: 1}); err == nil || err.Error() != "rund: generation 1 is older" {
		t.Errorf("error %v", err)
	}
	data := ""
	if err := r.Logs(ctx, &rundpb.LogsRequest{TaskId: "t"}, func(m *rundpb.LogsResponse) error { data += string(m.Data); return nil }); err != nil || data != "x" {
		t.Errorf("logs %q, %v", data, err)
	}
	if err := r.Logs(ctx, &rundpb.LogsRequest{}, nil); err == nil || !strings.Contains(err.Error(), "no log") {
		t.Errorf("error %v", err)
	}
	// f's error ends a Watch, and so does the end of rund.
	var stopped sync.WaitGroup
	own := errors.New("enough")
	if err := r.Watch(ctx, func(*rundpb.WatchResponse) error { return own }); !errors.Is(err, own) {
		t.Errorf("error %v", err)
	}
	if err := r.Watch(ctx, func(m *rundpb.WatchResponse) error {
		if !m.Complete {
			t.Error("not complete")
		}
		stopped.Go(stop) // it waits for this very call
		return nil
	}); err == nil {
		t.Error("a Watch outlived rund")
	}
	stopped.Wait()
}
