package rund

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// command is one that runs in a container of a test's node.
type command struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[rundpb.ExecRequest, taskpb.ExecOutput]
	cancel func()
}

func (n *node) exec(t *testing.T, id string, c *taskpb.ExecCommand) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx(), deadline)
	t.Cleanup(cancel)
	stream, err := n.client.Exec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&rundpb.ExecRequest{TaskId: id, Command: c}); err != nil {
		t.Fatal(err)
	}
	return &command{t, stream, cancel}
}

func (c *command) send(in *taskpb.ExecInput) {
	c.t.Helper()
	if err := c.stream.Send(&rundpb.ExecRequest{Input: in}); err != nil {
		c.t.Fatal(err)
	}
}

func stdin(text string) *taskpb.ExecInput {
	return &taskpb.ExecInput{Input: &taskpb.ExecInput_Stdin{Stdin: []byte(text)}}
}

var stdinEnd = &taskpb.ExecInput{Input: &taskpb.ExecInput_StdinEnd{StdinEnd: true}}

// until reads until text was written to stdout.
func (c *command) until(text string) {
	c.t.Helper()
	for got := ""; !strings.Contains(got, text); {
		m, err := c.stream.Recv()
		if err != nil {
			c.t.Fatalf("after %q: %v", got, err)
		}
		got += string(m.GetStdout())
	}
}

// rest is all that comes, and how it ended.
func (c *command) rest() (out, errs string, exit *taskpb.ExecExit, err error) {
	for {
		m, err := c.stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, errs, exit, nil
		}
		if err != nil {
			return out, errs, exit, err
		}
		out, errs = out+string(m.GetStdout()), errs+string(m.GetStderr())
		if m.GetExit() != nil {
			exit = m.GetExit()
		}
	}
}

func (n *node) begun() *rundpb.TaskDesired {
	n.t.Helper()
	d := n.desired()
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	return d
}

// TestExec: output in its two streams, the code, input to its end, the container's own
// environment and confinement.
func TestExec(t *testing.T) {
	n := newNode(t)
	d := n.begun()
	id := d.GetTaskId()
	for _, c := range []struct {
		name      string
		command   *taskpb.ExecCommand
		out, errs string
		code      uint32
	}{
		{"streams", &taskpb.ExecCommand{Args: []string{"/probe", "echo", "a", "b", "c"}}, "a\nb\n", "c\n", 0},
		{"code", &taskpb.ExecCommand{Args: []string{"/probe", "exit", "42"}}, "", "", 42},
		{"confined", &taskpb.ExecCommand{Args: []string{"/probe", "whoami"}}, "Uid:0 CapEff:00000000000000fb CapBnd:00000000000000fb NoNewPrivs:1 Seccomp:2 ", "", 0},
		{"user", &taskpb.ExecCommand{Args: []string{"/probe", "whoami"}, User: "app"}, "Uid:1000 CapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 Seccomp:2 ", "", 0},
		{"number", &taskpb.ExecCommand{Args: []string{"/probe", "whoami"}, User: "7:8"}, "Uid:7 CapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 Seccomp:2 ", "", 0},
		{"no input", &taskpb.ExecCommand{Args: []string{"/probe", "mirror"}}, "end\n", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, exit, err := n.exec(t, id, c.command).rest()
			if err != nil || out != c.out || errs != c.errs || exit.GetCode() != c.code || exit.GetCut() {
				t.Errorf("%q, %q, %v, %v", out, errs, exit, err)
			}
		})
	}
	t.Run("input", func(t *testing.T) {
		x := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "mirror"}, Stdin: true})
		x.send(stdin("hello\n"))
		x.until("hello\n")
		x.send(stdin("world\n"))
		x.send(stdinEnd)
		if out, _, exit, err := x.rest(); err != nil || out != "world\nend\n" || exit.GetCode() != 0 {
			t.Errorf("%q, %v, %v", out, exit, err)
		}
	})
	t.Run("much", func(t *testing.T) {
		out, _, _, err := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "flood", "20000"}}).rest()
		if lines := strings.Count(out, "\n"); err != nil || lines != 20000 {
			t.Errorf("%d lines, %v", lines, err)
		}
	})
	t.Run("signal", func(t *testing.T) {
		x := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "wait"}})
		x.until("ready")
		x.send(&taskpb.ExecInput{Input: &taskpb.ExecInput_Signal{Signal: "SIGUSR1"}})
		if out, _, exit, err := x.rest(); err != nil || !strings.Contains(out, "got user defined signal 1") || exit.GetCode() != 0 {
			t.Errorf("%q, %v, %v", out, exit, err)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		x := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "window"}, Tty: true, Stdin: true})
		x.send(&taskpb.ExecInput{Input: &taskpb.ExecInput_Size{Size: &taskpb.WindowSize{Rows: 24, Columns: 80}}})
		x.until("80x24\r\n")
		x.send(&taskpb.ExecInput{Input: &taskpb.ExecInput_Size{Size: &taskpb.WindowSize{Rows: 50, Columns: 132}}})
		x.until("132x50\r\n")
		x.send(&taskpb.ExecInput{Input: &taskpb.ExecInput_Signal{Signal: "TERM"}})
		if _, _, exit, err := x.rest(); err != nil || exit.GetCode() != 7 {
			t.Errorf("%v, %v", exit, err)
		}
	})
	t.Run("what it leaves", func(t *testing.T) {
		out, _, exit, err := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "behind"}}).rest()
		if err != nil || out != "left one\n" || !exit.GetCut() {
			t.Errorf("%q, %v, %v", out, exit, err)
		}
	})
	n.noExecs(t, id)
	t.Run("no more than the container", func(t *testing.T) {
		d := n.desired()
		d.Spec.Container.User = "app"
		n.apply(d)
		n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
		out, _, _, err := n.exec(t, d.GetTaskId(), &taskpb.ExecCommand{Args: []string{"/probe", "whoami"}, User: "0"}).rest()
		if want := "Uid:0 CapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 Seccomp:2 "; err != nil || out != want {
			t.Errorf("root in a container of another user: %q, %v", out, err)
		}
	})
}

// noExecs wants nothing to be left of commands.
func (n *node) noExecs(t *testing.T, id string) {
	t.Helper()
	for until := time.Now().Add(deadline); ; time.Sleep(20 * time.Millisecond) {
		left, err := filepath.Glob(n.server.taskDir(id).exec(0)[:len(n.server.taskDir(id).exec(0))-1] + "*")
		if err == nil && len(left) == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("left: %v, %v", left, err)
		}
	}
}

// running counts processes of the container with this argument.
func (n *node) processes(t *testing.T, arg string) (count int) {
	t.Helper()
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), "\x00"+arg+"\x00") {
			count++
		}
	}
	return count
}

// TestExecEnds: with its stream, with the container, and with rund, the command is over,
// also where nobody reads what it writes.
func TestExecEnds(t *testing.T) {
	n := newNode(t)
	d := n.begun()
	id := d.GetTaskId()
	gone := func(mark string) {
		t.Helper()
		for until := time.Now().Add(deadline); n.processes(t, mark) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%d processes %s run on", n.processes(t, mark), mark)
			}
		}
		n.noExecs(t, id)
	}
	begin := func(mark string, args ...string) *command {
		t.Helper()
		x := n.exec(t, id, &taskpb.ExecCommand{Args: append(args, mark)})
		x.until("ready")
		return x
	}
	x := begin("mark-left", "/probe", "deaf")
	if n.processes(t, "mark-left") == 0 {
		t.Fatal("it does not run")
	}
	x.cancel()
	gone("mark-left")

	// It floods, and nobody reads: it waits, and costs nobody else.
	x = n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "flood", "10000000", "mark-flood"}})
	x.until("line 0 ")
	if out, _, _, err := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "echo", "beside"}}).rest(); err != nil || out != "beside\n" {
		t.Errorf("another command beside it: %q, %v", out, err)
	}
	if n.processes(t, "mark-flood") == 0 {
		t.Error("it is over though nobody read it")
	}
	x.cancel()
	gone("mark-flood")

	begin("mark-rund", "/probe", "deaf")
	n.restart()
	n.awaitPhase(id, rundpb.Phase_PHASE_RUNNING)
	gone("mark-rund")

	x = begin("mark-stop", "/probe", "deaf")
	n.apply()
	if _, _, exit, err := x.rest(); err == nil && exit.GetCode() != 137 {
		t.Errorf("the container is gone, and the command says %v", exit)
	}
	n.awaitEmpty()
}

// TestExecRefused: what this node does not allow, and what makes no process.
func TestExecRefused(t *testing.T) {
	n := newNode(t)
	d := n.begun()
	id := d.GetTaskId()
	ok := []string{"/probe", "echo", "a"}
	refused := func(name, id string, c *taskpb.ExecCommand, code codes.Code, want string) {
		t.Helper()
		_, _, _, err := n.exec(t, id, c).rest()
		if st := status.Convert(err); st.Code() != code || !strings.Contains(st.Message(), want) || strings.Contains(st.Message(), "\n") {
			t.Errorf("%s: %v: %q, want %v: %q", name, st.Code(), st.Message(), code, want)
		}
	}
	refused("no task", "none", &taskpb.ExecCommand{Args: ok}, codes.InvalidArgument, "no task id")
	refused("another task", n.desired().GetTaskId(), &taskpb.ExecCommand{Args: ok}, codes.FailedPrecondition, "the task does not run")
	refused("nothing", id, nil, codes.InvalidArgument, "there is no command")
	refused("NUL", id, &taskpb.ExecCommand{Args: []string{"/probe", "a\x00b"}}, codes.InvalidArgument, "NUL")
	refused("no program", id, &taskpb.ExecCommand{Args: []string{"/nope"}}, codes.FailedPrecondition, "the image has no program /nope")
	refused("no user", id, &taskpb.ExecCommand{Args: ok, User: "nobody-here"}, codes.FailedPrecondition, "not known to the image")
	refused("a user of the host", id, &taskpb.ExecCommand{Args: ok, User: "4000000"}, codes.FailedPrecondition, "outside the user namespace")
	refused("out by proc", id, &taskpb.ExecCommand{Args: ok, Workdir: "/tmp/../proc/self/fd/7"}, codes.FailedPrecondition, "lies in /proc")

	x := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "deaf"}})
	x.until("ready")
	x.send(stdin("nobody asked"))
	if _, _, _, err := x.rest(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("input that was not announced: %v", err)
	}
	var all []*command
	for range maxTaskExecs {
		x := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "deaf"}})
		x.until("ready")
		all = append(all, x)
	}
	refused("too many", id, &taskpb.ExecCommand{Args: ok}, codes.ResourceExhausted, fmt.Sprintf("%d commands run in this container", maxTaskExecs))
	for _, x := range all {
		x.cancel()
	}
	n.noExecs(t, id)

	n.config.Exec = execRefused
	n.restart()
	n.awaitPhase(id, rundpb.Phase_PHASE_RUNNING)
	refused("by configuration", id, &taskpb.ExecCommand{Args: ok}, codes.PermissionDenied, "rund.exec in its configuration says so")
}

// TestExecLeft: a command that a killed rund left is ended by the next one.
func TestExecLeft(t *testing.T) {
	n := newNode(t)
	id := n.begun().GetTaskId()
	const place = 3
	task, process, _, err := n.server.execIn(n.ctx(), id, place, &taskpb.ExecCommand{Args: []string{"/probe", "deaf", "mark-killed"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n.server.taskDir(id).exec(place), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := execAnew(n.ctx(), task, execName(place), process, func(string) (cio.IO, error) { return &checkIO{}, nil })
	if err == nil {
		err = p.Start(n.ctx())
	}
	if err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(deadline); n.processes(t, "mark-killed") == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it does not run")
		}
	}
	// Nothing was done to it since it runs.
	if limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.Pid())); err != nil || !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("it may write core files: %v\n%s", err, limits)
	}
	n.restart()
	n.awaitPhase(id, rundpb.Phase_PHASE_RUNNING)
	for until := time.Now().Add(deadline); n.processes(t, "mark-killed") > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it runs on")
		}
	}
	n.noExecs(t, id)
}

// TestExecEndsWhereRefused: what runs ends when the node takes up the deployment lock, and
// when it has run for as long as a command may.
func TestExecEndsWhereRefused(t *testing.T) {
	n := newNode(t)
	id := n.begun().GetTaskId()
	ended := func(x *command, code codes.Code, want string) {
		t.Helper()
		if _, _, _, err := x.rest(); status.Code(err) != code || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		n.noExecs(t, id)
	}
	begin := func() *command {
		t.Helper()
		x := n.exec(t, id, &taskpb.ExecCommand{Args: []string{"/probe", "deaf", "mark-refused"}})
		x.until("ready")
		return x
	}
	n.server.execLife = 3 * time.Second
	ended(begin(), codes.FailedPrecondition, "as long as one may")
	n.server.execLife = maxExecLife

	x := begin()
	d := n.deployer()
	if err := n.server.trust.Forget(); err != nil {
		t.Fatal(err)
	}
	_, err := n.server.Lock(asRoot(t), &rundpb.LockRequest{Change: &rundpb.LockRequest_Chain{Chain: d.chain.Proto()}})
	if err != nil {
		t.Fatal(err)
	}
	ended(x, codes.PermissionDenied, "it has the deployment lock")
	if n.processes(t, "mark-refused") != 0 {
		t.Error("it runs on")
	}
}

// asRoot is the context of a call by root of the node.
func asRoot(t *testing.T) context.Context {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	at, err := peercred.Named(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{Addr: at.RemoteAddr()})
}
