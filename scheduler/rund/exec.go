package rund

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// execName is the name of a command's process in containerd, by its place among those
// of the task.
func execName(place int) string { return "redoubt-exec-" + strconv.Itoa(place) }

// exec is the directory of a command's pipes. While it is there, there may be a process
// of that name.
func (d taskDir) exec(place int) string {
	return filepath.Join(string(d), "exec-"+strconv.Itoa(place))
}

type execStream = grpc.BidiStreamingServer[rundpb.ExecRequest, taskpb.ExecOutput]

// Exec runs a command as a process of a task's container: in its namespaces and its
// cgroup, under its filter of system calls, and with no capability that the container
// has not. It ends with the stream; what it left running in the background ends with
// the container.
func (s *Server) Exec(stream execStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := s.admitExec(first); err != nil {
		return err
	}
	if !s.enter() {
		return errEnding
	}
	defer s.running.Done()
	id := first.GetTaskId()
	ctx, stop := context.WithCancelCause(stream.Context())
	defer stop(nil)
	place, leave, err := s.execs.take(id, stop)
	if err != nil {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	defer leave()
	if err := s.admitExec(first); err != nil { // who refuses from now on ends it
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.execLife, status.Errorf(codes.FailedPrecondition, "the command ran for %v, which is as long as one may: begin it again", s.execLife))
	defer cancel()
	task, process, ulimits, err := s.execIn(ctx, id, place, first.GetCommand())
	if err != nil {
		return execError(err)
	}
	x, err := newExecution(stream, s.taskDir(id).exec(place), first.GetCommand())
	if err != nil {
		return execError(err)
	}
	if err = x.start(ctx, s, task, execName(place), id, process, ulimits); err == nil {
		err = x.run(ctx, s)
	}
	x.end(s, id)
	if err != nil {
		return execError(err)
	}
	return nil
}

var errEnding = status.Error(codes.Unavailable, "rund is about to end")

// enter has Serve wait for who calls running.Done, unless that is over.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil || s.ctx.Err() != nil {
		return false
	}
	s.running.Add(1)
	return true
}

// owned runs f in a goroutine that Serve waits for, unless that is over. f ends before
// long when the call that it belongs to has.
func (s *Server) owned(f func()) bool {
	if !s.enter() {
		return false
	}
	go func() { defer s.running.Done(); f() }()
	return true
}

// execRefusal says why this node runs no commands in containers; empty: it does.
func (s *Server) execRefusal() string {
	switch {
	case s.config.Exec == execRefused:
		return "rund.exec in its configuration says so"
	case s.trust.On():
		return "it has the deployment lock, and no deployer signed them"
	}
	return ""
}

// refuseExecs ends the commands that run where none may any more.
func (s *Server) refuseExecs() {
	if why := s.execRefusal(); why != "" {
		s.execs.end(noExecs(why))
	}
}

func noExecs(why string) error {
	return status.Error(codes.PermissionDenied, "this node runs no commands in containers: "+why)
}

func (s *Server) execFeature() *taskpb.Feature {
	why := s.execRefusal()
	return &taskpb.Feature{Name: "exec", Present: why == "", Detail: why}
}

// admitExec returns a refusal unless the command may be run here.
func (s *Server) admitExec(req *rundpb.ExecRequest) error {
	if why := s.execRefusal(); why != "" {
		return noExecs(why)
	}
	if !ident.Valid(req.GetTaskId()) {
		return status.Errorf(codes.InvalidArgument, "%.60q is no task id", req.GetTaskId())
	}
	if err := checkCommand(req.GetCommand()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}

var errNotRunning = status.Error(codes.FailedPrecondition, "the task does not run")

// execIn finds the container that runs, and makes the process of it.
func (s *Server) execIn(ctx context.Context, id string, place int, c *taskpb.ExecCommand) (containerd.Task, *specs.Process, []*taskpb.Ulimit, error) {
	ctx, cancel := context.WithTimeout(ctx, execStart)
	defer cancel()
	actual := s.hub.get(id)
	if actual.GetPhase() != rundpb.Phase_PHASE_RUNNING {
		return nil, nil, nil, errNotRunning
	}
	cont, err := s.client.LoadContainer(ctx, actual.GetContainerId())
	if err != nil {
		return nil, nil, nil, err
	}
	info, err := cont.Info(ctx, containerd.WithoutRefreshedMetadata)
	if err != nil {
		return nil, nil, nil, err
	}
	made, err := recorded(info)
	if err != nil {
		return nil, nil, nil, err
	}
	if made.GetTaskId() != id {
		return nil, nil, nil, errNotRunning
	}
	spec, err := cont.Spec(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if spec.Process == nil {
		return nil, nil, nil, fmt.Errorf("container %s has half a specification", cont.ID())
	}
	own := made.GetSpec().GetContainer()
	user := spec.Process.User
	if c.GetUser() != "" {
		if user, err = s.execUser(ctx, info.SnapshotKey, execName(place), c.GetUser()); err != nil {
			return nil, nil, nil, err
		}
	}
	process, err := execProcess(spec.Process, own, user, s.config.UserNS.Size, c)
	if err != nil {
		return nil, nil, nil, err
	}
	task, err := cont.Task(ctx, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	if st, err := task.Status(ctx); err != nil || st.Status != containerd.Running {
		return nil, nil, nil, errors.Join(err, errNotRunning)
	}
	return task, process, own.GetUlimits(), nil
}

// endExecs ends commands that an earlier rund left running in a container.
func (w *worker) endExecs(ctx context.Context) error {
	for place := range maxTaskExecs {
		dir := w.s.taskDir(w.id).exec(place)
		if w.s.execs.taken(w.id, place) {
			continue
		}
		if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		p, err := w.task.LoadProcess(ctx, execName(place), nil)
		if err == nil {
			err = endProcess(ctx, p)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("end a command that was left: %w", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// execError is what who asked is told.
func execError(err error) error {
	var st interface{ GRPCStatus() *status.Status }
	switch {
	case errors.As(err, &st):
		return st.GRPCStatus().Err()
	case transient(err):
		return status.Error(codes.Unavailable, "containerd does not answer: "+oneline.Text(err.Error(), maxSaid))
	case errdefs.IsNotFound(err), errors.Is(err, unix.ESRCH):
		return errNotRunning
	}
	return status.Error(codes.FailedPrecondition, plainRuntimeError(err))
}
