package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/cli/clitest"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// terminal is a pseudo-terminal: the end of who sits at it, and what came out of it.
type terminal struct {
	*os.File
	device string
	mu     sync.Mutex
	out    bytes.Buffer
}

func newTerminal(t *testing.T, width, height uint16) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &terminal{File: master, device: fmt.Sprintf("/dev/pts/%d", n)}
	keep := p.open(t) // without one that has it open, reading it fails
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			p.mu.Lock()
			p.out.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { keep.Close(); <-read; master.Close() })
	return p
}

func (p *terminal) open(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(p.device, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// await waits until text came out after the first from bytes, and returns how many have.
func (p *terminal) await(t *testing.T, from int, text string) int {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		p.mu.Lock()
		out := p.out.String()
		p.mu.Unlock()
		if strings.Contains(out[from:], text) {
			return len(out)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q did not come: %q", text, out[from:])
		}
	}
}

// TestTop: top draws on a terminal, hears keys, and leaves it as it was, whether it is
// ended by a key or from outside.
func TestTop(t *testing.T) {
	for name, end := range map[string]func(p *terminal, cancel func()){
		"q":       func(p *terminal, _ func()) { io.WriteString(p, "q") },
		"Ctrl-C":  func(p *terminal, _ func()) { io.WriteString(p, "\x03") },
		"outside": func(_ *terminal, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			n, err := clitest.New("active")
			if err != nil {
				t.Fatal(err)
			}
			dir, err := os.MkdirTemp("", "rdt")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			stop, err := n.Serve(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			p := newTerminal(t, 80, 24)
			out := p.open(t)
			defer out.Close()
			before, err := term.GetState(int(out.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			var errs bytes.Buffer
			env := Env{Stdin: strings.NewReader(""), Stdout: out, Stderr: &errs, Terminal: func() (*os.File, error) { return p.open(t), nil },
				Getenv: func(name string) string {
					return map[string]string{"REDOUBT_HOST": "unix://" + filepath.Join(dir, "api.sock"), "NO_COLOR": "1"}[name]
				}}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ended := make(chan int, 1)
			go func() { ended <- Main(ctx, env, []string{"top", "--interval", "1s"}) }()
			at := p.await(t, 0, "manager-1 *")
			io.WriteString(p, "s")
			at = p.await(t, at, "0 services")
			end(p, cancel)
			code := <-ended
			if want := map[bool]int{true: ExitError, false: ExitOK}[name == "outside"]; code != want {
				t.Errorf("exit code %d: %s", code, errs.String())
			}
			p.await(t, at, screenOff)
			if after, err := term.GetState(int(out.Fd())); err != nil || *after != *before {
				t.Errorf("the terminal is another than before: %v", err)
			}
		})
	}
}

// TestTopDraws: no line is longer than the terminal, what lacks tasks is first and red,
// and texts of others bring no control characters.
func TestTopDraws(t *testing.T) {
	d := &topData{at: time.Unix(100, 0), status: &controlpb.GetStatusResponse{Nodes: 2, NodesReady: 1, Warnings: slices.Repeat([]string{"evil\x1b[2J " + strings.Repeat("long ", 50)}, 7)}}
	for i, running := range []uint64{3, 1} {
		d.services = append(d.services, &controlpb.ServiceView{Running: running, Wanted: 3,
			Service: &schedulerpb.Service{Spec: &schedulerpb.ServiceSpec{Name: []string{"whole", "short\x1b]0;x"}[i], Task: &taskpb.TaskSpec{}}}})
	}
	d.nodes = []*controlpb.NodeView{{Name: "w", Node: &schedulerpb.Node{State: schedulerpb.NodeState_NODE_STATE_DOWN}}}
	d.tasks = []*controlpb.TaskView{{Task: &schedulerpb.Task{Status: &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_FAILED, Error: "exited\x07"}}}}
	for _, width := range []int{80, 20, 1} {
		for _, page := range []topPage{topAll, topNodes, topServices, topTasks} {
			for _, l := range d.draw(topView{page: page}, width, false) {
				if utf8.RuneCountInString(l) > width || strings.ContainsFunc(l, unshown) {
					t.Errorf("page %d, width %d: %q", page, width, l)
				}
			}
		}
	}
	text := strings.Join(d.draw(topView{}, 0, true), "\n")
	if i, j := strings.Index(text, "\x1b[31mshort"), strings.Index(text, "whole"); i < 0 || j < i || !strings.Contains(text, "\x1b[31mw ") {
		t.Errorf("%q", text)
	}
	if !strings.Contains(text, "and 2 more: `redoubt doctor`") {
		t.Error("nothing is said of the other warnings")
	}
}

// TestTopKeys: pages of keys, also where several come at once or in pieces that mean nothing.
func TestTopKeys(t *testing.T) {
	for in, want := range map[string][]topKey{
		"q": {keyQuit}, "\x1b[A\x1b[B": {keyUp, keyDown}, "xz?": nil, "\x1b": nil, "\x1b[5~b ": {keyPageUp, keyPageUp, keyPageDown},
		"\x1b[Zn": {keyNodes}, "": nil,
	} {
		keys := make(chan topKey, 16)
		hearKeys(context.Background(), strings.NewReader(in), keys)
		var got []topKey
		for k := range keys {
			got = append(got, k)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v", in, got)
		}
	}
	v := topView{top: 5}
	v.press(keyPageUp, 24)
	if v.top != 0 {
		t.Errorf("%+v", v)
	}
	if v.press(keyNone, 24) || !v.press(keyTasks, 24) || v.page != topTasks {
		t.Errorf("%+v", v)
	}
}
