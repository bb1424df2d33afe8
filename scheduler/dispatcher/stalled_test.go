package dispatcher

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// A node that reads nothing, but goes on speaking, holds up neither a newer
// session of its own nor the end of the term: what is written to it waits in
// gRPC, which only the end of the call interrupts.
func TestStalledNode(t *testing.T) {
	inWorld(t, func(w *world) {
		node := w.addNode()
		task := w.addTask(node)
		w.update(func(tx *raftstore.Tx) error { // more than a window
			return store.Revisions.Put(tx, &schedulerpb.Revision{Id: store.RevisionID(w.svc, 2), ServiceId: w.svc,
				Spec: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web", Env: []string{"A=" + strings.Repeat("x", 512<<10)}}}})
		})
		w.change(task, func(t *schedulerpb.Task) { t.Revision = 2 })

		listener := bufconn.Listen(1 << 10)
		server := grpc.NewServer(grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, identified{ss, authz.NewContext(ss.Context(), authz.Identity{NodeID: node})})
		}))
		schedulerpb.RegisterDispatcherServer(server, w.d)
		go server.Serve(listener)
		defer server.Stop()
		conn, err := grpc.NewClient("passthrough:///manager", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		stalled := func() grpc.BidiStreamingClient[schedulerpb.AgentMessage, schedulerpb.ManagerMessage] {
			stream, err := schedulerpb.NewDispatcherClient(conn).Session(w.t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// gRPC takes one message more than fits. The answer to the heartbeat is that.
			for _, m := range []*schedulerpb.AgentMessage{hello(), heartbeat()} {
				if err := stream.Send(m); err != nil {
					t.Fatal(err)
				}
				w.settle(time.Second)
			}
			return stream
		}
		end := func(stream grpc.BidiStreamingClient[schedulerpb.AgentMessage, schedulerpb.ManagerMessage]) error {
			for {
				if _, err := stream.Recv(); err != nil {
					return err
				}
			}
		}

		first := stalled()
		second := stalled()
		w.wantNode(node, ready)
		if err := end(first); status.Code(err) != codes.Aborted {
			t.Errorf("the older session ended with %v", err)
		}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			w.stop()
		}()
		synctest.Wait()
		select {
		case <-stopped:
		default:
			t.Error("a node that does not read keeps the term from its end")
			conn.Close()
		}
		if err := end(second); status.Code(err) != codes.Unavailable {
			t.Errorf("the session ended with %v", err)
		}
	})
}
