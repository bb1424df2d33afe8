package rund

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// node is a rund under test.
type node struct {
	t      testing.TB
	runDir string
	config Config
	logs   *lockedBuffer
	client rundpb.RundClient
	server *Server
	stop   func()
	gen    uint64
	digest string
	policy string // the cluster's image policy
	// plugins, when set, starts what runs CNI plugins.
	plugins func(*node) *cni.Client
}

func newNode(t testing.TB, change ...func(*Config)) *node {
	t.Helper()
	return newNodeWith(t, nil, change...)
}

func newNodeWith(t testing.TB, plugins func(*node) *cni.Client, change ...func(*Config)) *node {
	t.Helper()
	n := &node{t: t, plugins: plugins, runDir: filepath.Join(base, "n"+ident.New()[:6]), config: Defaults(), logs: &lockedBuffer{}}
	n.config.Containerd.Socket = ctrd.Socket
	n.config.CgroupParent = parent
	for _, f := range change {
		f(&n.config)
	}
	shared := filepath.Join(n.runDir, "netns")
	for _, err := range []error{
		os.MkdirAll(shared, 0o711), os.Chmod(n.runDir, 0o711),
		unix.Mount(shared, shared, "", unix.MS_BIND, ""),
		unix.Mount("", shared, "", unix.MS_SHARED, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n.start()
	t.Cleanup(func() {
		n.apply()
		n.awaitEmpty()
		n.stop()
		left, err := os.ReadDir(shared)
		if err != nil || len(left) != 0 {
			t.Errorf("left in netns: %v %v", left, err)
		}
		left, err = os.ReadDir(filepath.Join(n.runDir, "rund"))
		if err != nil || len(left) != 0 {
			t.Errorf("left in rund: %v %v", left, err)
		}
		if err := unix.Unmount(shared, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(n.logs.String())
			b, _ := os.ReadFile(filepath.Join(ctrd.Dir, "log"))
			t.Log(string(b[max(0, len(b)-4000):]))
		}
	})
	n.digest = n.load(probeRef, probeImage)
	return n
}

func (n *node) start() {
	n.t.Helper()
	var client *cni.Client
	if n.plugins != nil {
		client = n.plugins(n)
	}
	s, err := New(Options{Config: n.config, RunDir: n.runDir, DataDir: filepath.Join(base, "data"), CNI: client, Proxy: filepath.Join(base, "proxy", "program"),
		Log: slog.New(slog.NewTextHandler(n.logs, nil))})
	if err != nil {
		n.t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(n.runDir, "s"))
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	conn := dial(n.t, filepath.Join(n.runDir, "s"))
	n.client, n.server = rundpb.NewRundClient(conn), s
	n.stop = func() {
		conn.Close()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			n.t.Errorf("Serve: %v", err)
		}
		if client != nil {
			client.Close()
		}
	}
}

func (n *node) restart() { n.t.Helper(); n.stop(); n.start() }

func dial(t testing.TB, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	n.t.Cleanup(cancel)
	return ctx
}

func (n *node) load(ref string, img v1.Image) string {
	n.t.Helper()
	var b bytes.Buffer
	if err := rundtest.SaveDocker(&b, ref, img); err != nil {
		n.t.Fatal(err)
	}
	resp, err := n.importTar(&b)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.GetImages()[ref]
}

func (n *node) importTar(r io.Reader) (*rundpb.ImportImageResponse, error) {
	stream, err := n.client.ImportImage(n.ctx())
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 256<<10)
	for {
		k, err := r.Read(buf)
		if k > 0 {
			if serr := stream.Send(&rundpb.ImportImageRequest{Data: buf[:k]}); serr != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	return stream.CloseAndRecv()
}

// desired is a task that runs the probe.
func (n *node) desired(args ...string) *rundpb.TaskDesired {
	return &rundpb.TaskDesired{
		TaskId: ident.New(), Phase: rundpb.Phase_PHASE_RUNNING, ServiceId: ident.New(), ServiceName: "web", Slot: 1,
		Spec:     &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: probeRef, Digest: n.digest, Args: args}},
		Endpoint: &rundpb.Endpoint{Address: "10.9.8.7/24", Gateway: "10.9.8.1", Dns: []string{"10.9.8.1"}, Mac: "02:00:00:00:00:01"},
	}
}

func (n *node) apply(ts ...*rundpb.TaskDesired) {
	n.t.Helper()
	n.gen++
	copies := make([]*rundpb.TaskDesired, len(ts))
	for i, d := range ts {
		copies[i] = proto.CloneOf(d)
	}
	if _, err := n.client.Apply(n.ctx(), &rundpb.ApplyRequest{Generation: n.gen, Tasks: copies, ImagePolicy: []byte(n.policy)}); err != nil {
		n.t.Fatal(err)
	}
}

// await returns the task once ok says so.
func (n *node) await(id string, what string, ok func(*rundpb.TaskActual) bool) *rundpb.TaskActual {
	n.t.Helper()
	var last *rundpb.TaskActual
	err := n.watch(func(all map[string]*rundpb.TaskActual) bool {
		last = all[id]
		return last != nil && ok(last)
	})
	if err != nil {
		n.t.Fatalf("waiting for %s: %v; last %v\n%s", what, err, last, n.logs.String())
	}
	return last
}

func (n *node) awaitPhase(id string, p rundpb.Phase) *rundpb.TaskActual {
	n.t.Helper()
	return n.await(id, p.String(), func(a *rundpb.TaskActual) bool {
		if a.GetPhase() == rundpb.Phase_PHASE_FAILED && p != rundpb.Phase_PHASE_FAILED {
			n.t.Fatalf("task failed: %s", a.GetError())
		}
		return a.GetPhase() == p
	})
}

func (n *node) awaitEmpty() {
	n.t.Helper()
	if err := n.watch(func(all map[string]*rundpb.TaskActual) bool { return len(all) == 0 }); err != nil {
		n.t.Errorf("tasks remain: %v\n%s", err, n.logs.String())
	}
}

func (n *node) watch(ok func(map[string]*rundpb.TaskActual) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	stream, err := n.client.Watch(ctx, &rundpb.WatchRequest{})
	if err != nil {
		return err
	}
	all := map[string]*rundpb.TaskActual{}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, a := range m.GetTasks() {
			all[a.GetTaskId()] = a
		}
		for _, id := range m.GetRemoved() {
			delete(all, id)
		}
		if ok(all) {
			return nil
		}
	}
}

// output runs a task to its end and returns what it wrote.
func (n *node) output(d *rundpb.TaskDesired) string {
	n.t.Helper()
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	return n.logText(d.GetTaskId())
}

func (n *node) logText(id string) string {
	n.t.Helper()
	stream, err := n.client.Logs(n.ctx(), &rundpb.LogsRequest{TaskId: id})
	if err != nil {
		n.t.Fatal(err)
	}
	var b strings.Builder
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			n.t.Fatal(err)
		}
		b.Write(m.GetData())
	}
}

// awaitLog follows the log until a line holds text.
func (n *node) awaitLog(id, text string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	stream, err := n.client.Logs(ctx, &rundpb.LogsRequest{TaskId: id, Follow: true})
	if err != nil {
		n.t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			n.t.Fatalf("waiting for %q in the log: %v", text, err)
		}
		if strings.Contains(string(m.GetData()), text) {
			return
		}
	}
}

// pid of the container's first process on the host.
func (n *node) pid(id string) string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(ctrd.Dir, "state", "io.containerd.runtime.v2.task", Namespace, id, "init.pid"))
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

func signalPID(t *testing.T, pid string, sig syscall.Signal) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err == nil {
		err = unix.Kill(n, sig)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func sum(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
