package rund

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/health"
)

// checkExec is the name of a check's process in containerd: a task has one at
// most, so whatever an earlier rund left under it is found and ended.
const checkExec = "redoubt-healthcheck"

// prober runs the healthchecks of one container, one after another, until it
// is stopped or the container is unhealthy.
type prober struct {
	s       *Server
	id      string // the task's
	task    containerd.Task
	process specs.Process // of a check
	ulimits []*taskpb.Ulimit
	policy  *health.Policy
	record  *health.Record // owned by run

	cancel context.CancelFunc
	done   chan struct{}    // closed by run
	news   chan healthState // buffered 1; the newest state is in it
}

type healthState struct {
	status  health.Status
	message string
}

// probe begins to check. The check is a process of the container: its user,
// capabilities, seccomp filter, cgroup and namespaces.
func (s *Server) probe(ctx context.Context, id string, task containerd.Task, container *specs.Process, p *health.Policy, started time.Time, healthy bool, ulimits []*taskpb.Ulimit) *prober {
	ctx, cancel := context.WithCancel(ctx)
	c := &prober{s: s, id: id, task: task, process: *container, ulimits: ulimits, policy: p, record: health.NewRecord(p, started, healthy),
		cancel: cancel, done: make(chan struct{}), news: make(chan healthState, 1)}
	c.process.Args, c.process.Terminal, c.process.ConsoleSize = p.Args, false, nil
	go c.run(ctx) // ends with ctx; stop waits for it
	return c
}

// stop ends a check that is under way. It may be called for nil.
func (c *prober) stop() {
	if c != nil {
		c.cancel()
		<-c.done
	}
}

// updates is nil, on which nothing ever comes, for nil.
func (c *prober) updates() <-chan healthState {
	if c == nil {
		return nil
	}
	return c.news
}

func (c *prober) run(ctx context.Context) {
	defer close(c.done)
	var last healthState
	for {
		t := time.NewTimer(c.record.Delay(time.Now()))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		place, err := c.s.place(ctx) // waiting is not in its time
		if err != nil {
			return
		}
		begun := time.Now()
		res, err := c.check(ctx, place)
		place()
		if ctx.Err() != nil {
			return
		}
		if err != nil { // containerd is away: says nothing of the container
			continue
		}
		c.record.Take(begun, res)
		var now healthState
		if now.status, now.message = c.record.Status(); now == last {
			continue
		}
		last = now
		select { // only the newest counts
		case <-c.news:
		default:
		}
		c.news <- now
		if now.status == health.Unhealthy {
			return
		}
	}
}

// place waits for one of the places in which checks are started, as each start
// is work for containerd, and returns how to leave it. Who does not is put out
// of it: a service whose checks take an hour must not keep the others from
// theirs.
func (s *Server) place(ctx context.Context) (leave func(), err error) {
	select {
	case s.checks <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	once := sync.OnceFunc(func() { <-s.checks })
	late := time.AfterFunc(checkPlace, once)
	return func() { late.Stop(); once() }, nil
}

// check runs one and calls started when it runs. An error means that nothing was
// learnt.
func (c *prober) check(ctx context.Context, started func()) (res health.Result, err error) {
	out, err := newCheckOutput(filepath.Join(string(c.s.taskDir(c.id)), "check"))
	if err != nil {
		return res, err
	}
	defer func() { res.Output = out.finish() }()
	ectx, cancel := context.WithTimeout(ctx, c.policy.Timeout+checkCallTimeout)
	defer cancel()
	p, err := execAnew(ectx, c.task, checkExec, &c.process, out.creator)
	if err != nil {
		return c.failed(err)
	}
	defer func() { // the process, and what is left of it in containerd
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkCallTimeout)
		defer cancel()
		if _, derr := p.Delete(dctx, containerd.WithProcessKill); derr != nil && !errdefs.IsNotFound(derr) && ctx.Err() == nil {
			c.s.log.Warn("cannot end a healthcheck", "task", c.id, "err", derr)
		}
	}()
	exit, err := p.Wait(ectx)
	if err != nil {
		return c.failed(err)
	}
	if err := p.Start(ectx); err != nil {
		return c.failed(err)
	}
	started()
	// As for the container itself; that it dumps nothing it has of the shim.
	if err := c.s.bound(c.id, int(p.Pid()), c.ulimits); err != nil && !errors.Is(err, unix.ESRCH) {
		return res, err
	}
	t := time.NewTimer(c.policy.Timeout)
	defer t.Stop()
	select {
	case st := <-exit:
		if st.Error() != nil {
			return res, st.Error() // the wait broke
		}
		res.Code = st.ExitCode()
	case <-t.C:
		res.TimedOut = true
	case <-ctx.Done():
		return res, ctx.Err()
	}
	return res, nil
}

// failed tells a check that cannot be run, as one whose program is missing,
// from a containerd that is away or a container that has ended.
func (c *prober) failed(err error) (health.Result, error) {
	if transient(err) || errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) || errors.Is(err, context.Canceled) {
		return health.Result{}, err
	}
	return health.Result{Err: errors.New(plainRuntimeError(err))}, nil
}

// checkOutput takes the first bytes of what a check writes through a named
// pipe. More is read and dropped up to a bound; what writes even more is held
// up until its time is over.
type checkOutput struct {
	path  string
	hold  *os.File // keeps the reader from its end until finish
	pipe  *os.File
	done  sync.WaitGroup
	first []byte // owned by the reader until done
}

func newCheckOutput(path string) (*checkOutput, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("output of the healthcheck: %w", err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	o := &checkOutput{path: path, hold: w, pipe: r}
	o.done.Go(o.read)
	return o, nil
}

func (o *checkOutput) read() {
	o.first, _ = io.ReadAll(io.LimitReader(o.pipe, maxCheckOutput))
	_, _ = io.CopyN(io.Discard, o.pipe, maxCheckDrain)
}

// finish returns the text. The writers are gone, or are not waited for.
func (o *checkOutput) finish() string {
	_ = o.hold.Close()
	_ = o.pipe.SetReadDeadline(time.Now().Add(checkOutputWait))
	o.done.Wait()
	_ = o.pipe.Close()
	_ = os.Remove(o.path)
	return oneline.Text(string(o.first), maxCheckOutput)
}

func (o *checkOutput) creator(string) (cio.IO, error) {
	return &checkIO{cio.Config{Stdout: o.path, Stderr: o.path}}, nil
}

// checkIO names the pipe to containerd; checkOutput owns it.
type checkIO struct{ config cio.Config }

func (i *checkIO) Config() cio.Config { return i.config }
func (i *checkIO) Cancel()            {}
func (i *checkIO) Wait()              {}
func (i *checkIO) Close() error       { return nil }
