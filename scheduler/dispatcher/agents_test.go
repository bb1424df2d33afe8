package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/scheduler/agent"
	"github.com/redoubt-cluster/redoubt/scheduler/agent/agenttest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// host is a real agent with fake helpers, in a session over real gRPC. What
// mutual TLS says elsewhere, its own listener says here: who is calling.
type host struct {
	w        *world
	id       string
	rund     *agenttest.Rund
	netd     *agenttest.Netd
	listener *bufconn.Listener
	server   *grpc.Server
	stop     func()
}

type identified struct {
	grpc.ServerStream
	ctx context.Context
}

func (s identified) Context() context.Context { return s.ctx }

func (w *world) addHost() *host {
	h := &host{w: w, id: w.addNode(), rund: agenttest.NewRund(), netd: agenttest.NewNetd(), listener: bufconn.Listen(1 << 20)}
	h.rund.Attached = func(task string) bool { return h.netd.Endpoint(task) != nil }
	h.server = grpc.NewServer(grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, identified{ss, authz.NewContext(ss.Context(), authz.Identity{NodeID: h.id})})
	}))
	schedulerpb.RegisterDispatcherServer(h.server, w.d)
	schedulerpb.RegisterDeliveryServer(h.server, w.d)
	go h.server.Serve(h.listener)
	h.start()
	return h
}

func (h *host) start() {
	local, err := mesh.NewLocal(mesh.LocalConfig{Netd: h.netd, Subnet: netip.MustParsePrefix("172.30.0.0/24")})
	if err != nil {
		h.w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.w.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- agent.Run(ctx, agent.Config{
			Dial: func(ctx context.Context) (grpc.ClientConnInterface, io.Closer, error) {
				c, err := grpc.NewClient("passthrough:///manager",
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return h.listener.DialContext(ctx) }),
					grpc.WithTransportCredentials(insecure.NewCredentials()))
				return c, c, err
			},
			Executor: h.rund, Network: local,
			Delivery: &agent.Delivery{ClusterID: ident.New(), NodeID: h.id, Vouch: func(b []byte) ([][]byte, []byte, error) { return [][]byte{b}, b, nil }},
			Describe: func() *schedulerpb.NodeDescription { return &schedulerpb.NodeDescription{Hostname: "n1"} },
		})
	}()
	h.stop = func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			h.w.t.Errorf("the agent ended with %v", err)
		}
	}
}

func (h *host) end() {
	h.stop()
	h.server.Stop()
	h.listener.Close()
	for _, v := range h.rund.Violations() {
		h.w.t.Error(v)
	}
}

// One picture of it all: tasks come to run on three nodes; the leader changes,
// an agent and its helpers restart, managers are away for long; nothing is
// started twice and what is recorded stays true. A node that stays away is
// down, and what was said meanwhile reaches it when it is back.
func TestAgents(t *testing.T) {
	inWorld(t, func(w *world) {
		var hosts []*host
		tasks := map[string]*host{}
		for range 3 {
			h := w.addHost()
			hosts = append(hosts, h)
			for range 10 {
				tasks[w.addTask(h.id)] = h
			}
		}
		w.settle(10 * time.Second)
		all := func(when string) {
			t.Helper()
			for id, h := range tasks {
				st := w.task(id).GetStatus()
				if st.GetState() != store.Running || h.netd.Endpoint(id) == nil || h.rund.Starts(id) != 1 {
					t.Fatalf("%s: task %v, started %d times", when, st, h.rund.Starts(id))
				}
			}
			for _, h := range hosts {
				w.wantNode(h.id, ready)
			}
		}
		all("at first")

		w.stop()
		w.settle(time.Minute)
		w.lead()
		w.settle(20 * time.Second)
		all("under a new leader")

		hosts[0].stop()
		hosts[0].start()
		hosts[1].rund.Restart()
		hosts[2].netd.Restart()
		w.settle(20 * time.Second)
		all("after restarts")

		// While managers are away something ends; they hear of it.
		w.stop()
		var gone string
		for id, h := range tasks {
			gone = id
			h.rund.Exit(id, 3, false)
			break
		}
		w.settle(5 * time.Minute)
		w.lead()
		w.settle(20 * time.Second)
		if st := w.task(gone).GetStatus(); st.GetState() != store.Failed || st.GetExitCode() != 3 || st.GetError() != "exit code 3" {
			t.Errorf("status %v", st)
		}
		delete(tasks, gone)
		all("after minutes without managers")

		hosts[0].stop()
		w.settle(20 * time.Second)
		w.wantNode(hosts[0].id, down)
		for id, h := range tasks {
			if h == hosts[0] {
				w.change(id, func(t *schedulerpb.Task) { t.Desired, t.Status.State = store.Shutdown, store.Orphaned })
			}
		}
		hosts[0].start()
		w.settle(20 * time.Second)
		w.wantNode(hosts[0].id, ready)
		for id, phase := range hosts[0].rund.Tasks() {
			if hosts[0].netd.Endpoint(id) != nil || hosts[0].rund.Actual(id).ExitCode == 0 {
				t.Errorf("lost task %s is %v", id, phase)
			}
		}

		// Output comes from where the tasks are.
		var ids []string
		for id, h := range tasks {
			ids = append(ids, id)
			h.rund.SetLogs(id, "from "+id+"\n")
		}
		text := map[string]string{}
		for c, err := range w.d.Logs(w.t.Context(), LogRequest{TaskIDs: ids, Tail: -1}) {
			if err != nil {
				t.Fatal(err)
			}
			text[c.TaskId] += string(c.Data) + c.Error
		}
		for _, id := range ids {
			if text[id] != fmt.Sprintf("from %s\n", id) {
				t.Errorf("output %q of %s", text[id], id)
			}
		}
		for _, h := range hosts {
			h.end()
		}
		if strings.Contains(w.log.String(), "refused") {
			t.Error(w.log.String())
		}
		w.stop()
		synctest.Wait()
	})
}
