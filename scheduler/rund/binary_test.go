package rund

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// TestBinary runs the real program as the supervisor does: own mount namespace,
// the profile's capabilities, seccomp; and a container through it.
func TestBinary(t *testing.T) {
	// The kernel kills the program when the thread ends that started it, as one does whose
	// user was changed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := newNode(t)
	n.stop()
	bin := filepath.Join(base, "redoubt-rund")
	build := exec.Command("go", "build", "-o", bin, "github.com/redoubt-cluster/redoubt/cmd/redoubt-rund")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make does
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	conf := filepath.Join(n.runDir, "config.yaml")
	text := fmt.Sprintf("rund:\n  containerd: {socket: %q}\n  cgroup_parent: %q\n", ctrd.Socket, parent)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var plugins []string // of the supervisor's environment
	start := func(controlUID int) (*exec.Cmd, func()) {
		sock := filepath.Join(n.runDir, "b")
		var passed []*os.File
		var listeners []net.Listener
		for _, path := range []string{sock, filepath.Join(n.runDir, "i")} {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
			if err != nil {
				t.Fatal(err)
			}
			f, err := l.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			passed, listeners = append(passed, f), append(listeners, l)
		}
		cmd := exec.Command("/proc/self/exe", "launch", bin, "--config", conf, "--run-dir", n.runDir,
			"--data-dir", filepath.Join(base, "data"), fmt.Sprintf("--control-user=%d", controlUID))
		cmd.Env = append(os.Environ(), plugins...)
		cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = passed, n.logs, n.logs
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn := dial(t, sock)
		n.client = rundpb.NewRundClient(conn)
		return cmd, func() {
			conn.Close()
			for _, l := range listeners {
				l.Close()
			}
			if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
				t.Errorf("redoubt-rund: %v\n%s", err, n.logs)
			}
		}
	}
	cmd, stop := start(0)
	probe, err := n.client.Probe(n.ctx(), &rundpb.ProbeRequest{})
	if err != nil {
		t.Fatalf("%v\n%s", err, n.logs)
	}
	for _, f := range probe.GetFeatures() {
		if f.GetRequired() && !f.GetPresent() {
			t.Errorf("missing: %v", f)
		}
	}
	if probe.GetLoadedImages()[probeRef] != n.digest {
		t.Errorf("loaded images: %v", probe.GetLoadedImages())
	}
	st := procStatus(t, fmt.Sprint(cmd.Process.Pid))
	if st["NoNewPrivs"] != "1" || st["Seccomp"] != "2" || st["CapEff"] != "00000000002000fb" || st["CapBnd"] != "00000000002000fb" {
		t.Errorf("not confined: %v", st)
	}
	// Another image than the other tests', so that remapping happens here.
	img, err := mutateEnv(probeImage, "BINARY=yes")
	if err != nil {
		t.Fatal(err)
	}
	n.digest = n.load("redoubt.test/binary:1", img)
	d := n.desired()
	d.Spec.Container.Image = "redoubt.test/binary:1"
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(d.GetTaskId(), "ready")
	stop()
	if err := unix.Kill(mustAtoi(t, n.pid(d.GetTaskId())), 0); err != nil {
		t.Fatalf("the container did not survive: %v", err)
	}
	// With a process that runs plugins, rund itself is confined as before.
	text += "  cni: {plugins: {bridge: " + strings.Repeat("0", 64) + "}}\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	plugins = []string{withPlugins + "=1"}
	cmd, stop = start(0)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	st = procStatus(t, fmt.Sprint(cmd.Process.Pid))
	if st["NoNewPrivs"] != "1" || st["Seccomp"] != "2" || st["CapEff"] != "00000000002000fb" || st["CapPrm"] != "00000000002000fb" {
		t.Errorf("not confined: %v", st)
	}
	p := on(n.desired(), driverCNI, conflist("none"))
	p.Spec.Container.Image = d.Spec.Container.Image
	n.apply(d, p)
	if a := n.awaitPhase(p.GetTaskId(), rundpb.Phase_PHASE_FAILED); !strings.Contains(a.GetError(), "there is no /etc/redoubt") || !strings.Contains(n.logs.String(), "is not the pinned one") {
		t.Errorf("%q", a.GetError())
	}
	n.apply()
	n.awaitEmpty()
	stop()

	// Only root of the node and the configured user are let in.
	_, stop = start(12345)
	if _, err := n.client.Lock(n.ctx(), &rundpb.LockRequest{}); err != nil {
		t.Errorf("root asks about the deployment lock: %v", err)
	}
	for uid, want := range map[int]codes.Code{12345: codes.OK, 12346: codes.Unavailable} {
		conn := dialAs(t, filepath.Join(n.runDir, "b"), uid)
		if _, err := rundpb.NewRundClient(conn).Probe(n.ctx(), &rundpb.ProbeRequest{}); status.Code(err) != want {
			t.Errorf("uid %d: %v, want %v", uid, err, want)
		}
		conn.Close()
	}
	stop()
	n.start()
	n.gen = uint64(time.Now().UnixNano())
	if out := n.logs.String(); !strings.Contains(out, "may not use this socket") {
		t.Error("the refusal was not logged")
	}
}

// dialAs has a client whose connections the kernel says are of that user, who has no
// rights by it: the way to the socket is root's.
func dialAs(t *testing.T, path string, uid int) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			type dialled struct {
				conn net.Conn
				err  error
			}
			done := make(chan dialled)
			go func() {
				runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
				var d dialled
				defer func() { done <- d }()
				if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
					d.err = errno
					return
				}
				if _, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0); errno != 0 {
					d.err = errno
					return
				}
				d.conn, d.err = (&net.Dialer{}).DialContext(ctx, "unix", path)
			}()
			d := <-done
			return d.conn, d.err
		}))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
