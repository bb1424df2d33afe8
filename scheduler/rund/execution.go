package rund

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// execution is a command that runs, between the stream of who asked for it and the
// pipes by which containerd's shim gives it its input and takes its output. Nothing is
// kept of either: who does not read holds up the command itself.
type execution struct {
	stream execStream
	dir    string
	config cio.Config
	stdin  *os.File   // nil: it reads nothing
	hold   []*os.File // the other ends, until the shim has opened them
	last   []*os.File // the other end of stdin: until the end
	stdout *os.File
	stderr *os.File // nil: on a terminal

	process containerd.Process
	exit    <-chan containerd.ExitStatus
	over    chan struct{} // closed when it has exited

	failed   chan error // capacity 1: of take
	sending  sync.Mutex // one message at a time
	cut      atomic.Bool
	pumps    sync.WaitGroup // Serve waits for them as well
	endStdin sync.Once
}

// newExecution makes the pipes.
func newExecution(stream execStream, dir string, c *taskpb.ExecCommand) (*execution, error) {
	x := &execution{stream: stream, dir: dir, over: make(chan struct{}), failed: make(chan error, 1)}
	err := x.open(c)
	if err != nil {
		x.close()
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return x, nil
}

func (x *execution) open(c *taskpb.ExecCommand) error {
	if err := os.RemoveAll(x.dir); err != nil { // of an earlier rund
		return err
	}
	if err := os.Mkdir(x.dir, 0o700); err != nil {
		return err
	}
	pipe := func(name string) (path string, r, w *os.File, err error) {
		path = filepath.Join(x.dir, name)
		if err = unix.Mkfifo(path, 0o600); err != nil {
			return path, nil, nil, fmt.Errorf("pipe of a command: %w", err)
		}
		if r, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
			return path, nil, nil, err
		}
		if w, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
			return path, nil, nil, errors.Join(err, r.Close())
		}
		return path, r, w, nil
	}
	x.config.Terminal = c.GetTty()
	var hold *os.File
	var err error
	if c.GetStdin() {
		if x.config.Stdin, hold, x.stdin, err = pipe("in"); err != nil {
			return err
		}
		x.last = append(x.last, hold) // the shim opens it in its own time
	}
	if x.config.Stdout, x.stdout, hold, err = pipe("out"); err != nil {
		return err
	}
	x.hold = append(x.hold, hold)
	if c.GetTty() {
		return nil
	}
	if x.config.Stderr, x.stderr, hold, err = pipe("err"); err != nil {
		return err
	}
	x.hold = append(x.hold, hold)
	return nil
}

// start returns when the command runs.
func (x *execution) start(ctx context.Context, s *Server, task containerd.Task, name, id string, p *specs.Process, ulimits []*taskpb.Ulimit) (err error) {
	ctx, cancel := context.WithTimeout(ctx, execStart)
	defer cancel()
	leave, err := s.place(ctx) // each start is work for containerd
	if err != nil {
		return err
	}
	defer leave()
	x.process, err = execAnew(ctx, task, name, p, func(string) (cio.IO, error) { return &checkIO{x.config}, nil })
	if err != nil {
		return err
	}
	// Of the stream: it outlives this call.
	if x.exit, err = x.process.Wait(x.stream.Context()); err != nil {
		return err
	}
	if err := x.process.Start(ctx); err != nil {
		return err
	}
	if err := s.bound(id, int(x.process.Pid()), ulimits); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for _, f := range x.hold {
		_ = f.Close()
	}
	x.hold = nil
	return x.send(&taskpb.ExecOutput{Output: &taskpb.ExecOutput_Started{Started: true}})
}

// run gives the command its input and passes on what it writes, until it has exited
// and all of that was sent, and how.
func (x *execution) run(ctx context.Context, s *Server) error {
	for f, of := range map[*os.File]func([]byte) *taskpb.ExecOutput{
		x.stdout: func(b []byte) *taskpb.ExecOutput {
			return &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stdout{Stdout: b}}
		},
		x.stderr: func(b []byte) *taskpb.ExecOutput {
			return &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stderr{Stderr: b}}
		},
	} {
		if f == nil {
			continue
		}
		x.pumps.Add(1)
		if !s.owned(func() { defer x.pumps.Done(); x.pump(f, of) }) {
			x.pumps.Done()
			return errEnding
		}
	}
	if !s.owned(x.take) {
		return errEnding
	}
	select {
	case st := <-x.exit:
		if st.Error() != nil {
			return st.Error()
		}
		close(x.over)
		for _, f := range []*os.File{x.stdout, x.stderr} {
			if f != nil {
				_ = f.SetReadDeadline(time.Now().Add(execSilence))
			}
		}
		x.pumps.Wait()
		exit := &taskpb.ExecExit{Code: st.ExitCode(), Cut: x.cut.Load()}
		return x.send(&taskpb.ExecOutput{Output: &taskpb.ExecOutput_Exit{Exit: exit}})
	case err := <-x.failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pump sends what comes out of a pipe. When the command has exited, what it left
// running may hold the other end: then it ends with the first silence, so that no output
// is lost which is only slow to be read.
func (x *execution) pump(f *os.File, of func([]byte) *taskpb.ExecOutput) {
	buf := make([]byte, maxExecChunk)
	for {
		select {
		case <-x.over:
			_ = f.SetReadDeadline(time.Now().Add(execSilence))
		default:
		}
		n, err := f.Read(buf)
		if n > 0 && x.send(of(buf[:n])) != nil {
			return // the stream is over, and run knows
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			x.cut.Store(true)
		}
		if err != nil {
			return
		}
	}
}

func (x *execution) send(o *taskpb.ExecOutput) error {
	x.sending.Lock()
	defer x.sending.Unlock()
	return x.stream.Send(o)
}

// take gives the command what is sent to it, until the stream is over.
func (x *execution) take() {
	for {
		m, err := x.stream.Recv()
		if errors.Is(err, io.EOF) {
			x.closeStdin()
			return
		}
		if err != nil {
			return // ctx has ended, too
		}
		if err := x.input(m.GetInput()); err != nil {
			select {
			case x.failed <- err:
			default:
			}
			return
		}
	}
}

func (x *execution) input(in *taskpb.ExecInput) error {
	ctx, cancel := context.WithTimeout(x.stream.Context(), callTimeout)
	defer cancel()
	switch v := in.GetInput().(type) {
	case *taskpb.ExecInput_Stdin:
		if len(v.Stdin) > maxExecChunk {
			return status.Errorf(codes.InvalidArgument, "a piece of %d bytes of input: at most %d are accepted", len(v.Stdin), maxExecChunk)
		}
		if x.stdin == nil {
			return status.Error(codes.InvalidArgument, "the command was started without input")
		}
		// It waits for the command to read. After its end nobody does.
		_, _ = x.stdin.Write(v.Stdin)
	case *taskpb.ExecInput_StdinEnd:
		x.closeStdin()
	case *taskpb.ExecInput_Size:
		if err := checkWindow(v.Size); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if x.config.Terminal && v.Size.GetRows() > 0 && v.Size.GetColumns() > 0 {
			_ = x.process.Resize(ctx, v.Size.GetColumns(), v.Size.GetRows()) // it may have ended
		}
	case *taskpb.ExecInput_Signal:
		sig, err := parseSignal(v.Signal)
		if err != nil || sig == 0 {
			return status.Errorf(codes.InvalidArgument, "%.32q is no signal", v.Signal)
		}
		_ = x.process.Kill(ctx, sig) // as above
	default:
		return status.Error(codes.InvalidArgument, "an input that this version does not know")
	}
	return nil
}

// closeStdin lets the command read to the end. On a terminal there is none.
func (x *execution) closeStdin() {
	if x.stdin == nil || x.config.Terminal {
		return
	}
	x.endStdin.Do(func() {
		_ = x.stdin.Close()
		ctx, cancel := context.WithTimeout(x.stream.Context(), callTimeout)
		defer cancel()
		_ = x.process.CloseIO(ctx, containerd.WithStdinCloser) // the shim's own end of it
	})
}

// end kills what still runs and clears up. Where it cannot, it is done when the place is
// taken again, or rund starts.
func (x *execution) end(s *Server, id string) {
	x.close()
	if x.process != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(x.stream.Context()), execEnd)
		defer cancel()
		if err := endProcess(ctx, x.process); err != nil {
			s.log.Warn("cannot end a command in a container", "task", id, "err", err)
			return
		}
	}
	if err := os.RemoveAll(x.dir); err != nil {
		s.log.Warn("cannot remove the pipes of a command", "task", id, "err", err)
	}
}

func (x *execution) close() {
	for _, f := range append(append(x.hold, x.last...), x.stdin, x.stdout, x.stderr) {
		if f != nil {
			_ = f.Close()
		}
	}
	x.hold = nil
}
