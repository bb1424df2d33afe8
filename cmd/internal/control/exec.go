package control

import (
	"cmp"
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// ExecSource has tasks' nodes run commands in their containers: a *dispatcher.Dispatcher.
type ExecSource interface {
	RunExec(ctx context.Context, r dispatcher.ExecRequest, client dispatcher.ExecClient) error
}

// Exec runs a command in the container of a task. That it was asked for is recorded
// before anything else, without the command: that may hold a secret. Where it runs is on
// record before it is begun, and that it is over as well.
func (s *Server) Exec(stream controlpb.Execs_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := checkExec(first); err != nil {
		return err
	}
	ctx := stream.Context() // the caller and what it may do are known now
	var where *controlpb.ExecResponse
	var found []string
	err = s.view(ctx, func(r *raftstore.ReadTx) error {
		svc, t, err := execTask(r, first.GetTarget())
		if err != nil {
			return err
		}
		where = execWhere(r, svc, t)
		found = []string{"Service " + svc.GetSpec().GetName(), "Task " + t.GetId(), "Node " + t.GetNodeId(), "User " + cmp.Or(first.GetCommand().GetUser(), "of the container")}
		return nil
	})
	if err != nil {
		return err
	}
	if err := audit.Begun(ctx, s.c.Store, found...); err != nil {
		return err
	}
	if err := stream.Send(where); err != nil {
		return err
	}
	id, _ := authz.FromContext(ctx)
	ask := dispatcher.ExecRequest{TaskID: where.GetTaskId(), Command: first.GetCommand(), Who: id.String()}
	err = s.c.Execs.RunExec(ctx, ask, execCaller{stream})
	if derr := audit.Done(context.WithoutCancel(ctx), s.c.Store); derr != nil {
		s.c.Logger.Warn("the end of a command in a container is not on record", "task", where.GetTaskId(), "err", derr)
	}
	return execRefusal(err)
}

// checkExec refuses early what the node would.
func checkExec(r *controlpb.ExecRequest) error {
	c := r.GetCommand()
	n := 0
	for _, list := range [][]string{c.GetArgs(), c.GetEnv()} {
		for _, text := range list {
			n += len(text)
		}
	}
	switch {
	case r.GetTarget() == "":
		return apierr.Invalid("name one", "a command needs a task, or a service")
	case r.GetInput() != nil:
		return apierr.Invalid("send it after", "input came with the command")
	case len(c.GetArgs()) == 0 || c.GetArgs()[0] == "":
		return apierr.Invalid("name a program of the container", "there is no command")
	case len(c.GetArgs()) > spec.MaxArgs || len(c.GetEnv()) > spec.MaxEnv || n > maxExecBytes:
		return apierr.Invalid("give it as input", "the command and its variables are too long")
	}
	return nil
}

// execTask finds the task: the one that is named, or the first of a service that runs.
func execTask(r raftstore.Reader, target string) (*schedulerpb.Service, *schedulerpb.Task, error) {
	svc, err := schedstore.ResolveService(r, target)
	var t *schedulerpb.Task
	if err == nil {
		for x := range schedstore.OfService(r, svc.GetId()) {
			if runs(x) && (t == nil || x.GetSlot() < t.GetSlot() || x.GetSlot() == t.GetSlot() && x.GetId() < t.GetId()) {
				t = x
			}
		}
		if t == nil {
			return nil, nil, apierr.New(apierr.ReasonState, "see `redoubt service ps "+svc.GetSpec().GetName()+"`", "service %s has no task that runs", svc.GetSpec().GetName())
		}
	} else {
		var terr error
		if t, terr = schedstore.ResolveTask(r, target); terr != nil {
			if strings.Contains(target, ".") {
				err = terr
			}
			return nil, nil, err
		}
		svc, _ = schedstore.Services.Get(r, t.GetServiceId())
		if !runs(t) {
			return nil, nil, apierr.New(apierr.ReasonState, "see `redoubt service ps`", "task %s does not run: it is %s", target, schedstore.StateName(schedstore.State(t)))
		}
	}
	return svc, t, nil
}

// execWhere is what the caller is told of it.
func execWhere(r raftstore.Reader, svc *schedulerpb.Service, t *schedulerpb.Task) *controlpb.ExecResponse {
	node := nodeName(r, t.GetNodeId())
	name := schedstore.TaskName(svc.GetSpec().GetName(), t)
	if t.GetSlot() == 0 && node != "" {
		name = svc.GetSpec().GetName() + "." + node
	}
	return &controlpb.ExecResponse{TaskId: t.GetId(), TaskName: name, NodeName: node}
}

// runs reports whether there is a container with a program that runs, healthy or not.
func runs(t *schedulerpb.Task) bool {
	return schedstore.Live(t) && schedstore.State(t) >= schedulerpb.TaskState_TASK_STATE_STARTING
}

// execCaller is who asked.
type execCaller struct{ controlpb.Execs_ExecServer }

func (c execCaller) Recv() (*taskpb.ExecInput, error) {
	m, err := c.Execs_ExecServer.Recv()
	if err != nil {
		return nil, err
	}
	if m.GetInput() == nil {
		return nil, apierr.Invalid("open another stream", "a second command came on the stream of one")
	}
	return m.GetInput(), nil
}

func (c execCaller) Send(o *taskpb.ExecOutput) error {
	return c.Execs_ExecServer.Send(&controlpb.ExecResponse{Output: o})
}

// execRefusal is what the caller is told of why there is no exit code.
func execRefusal(err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	reason, ok := map[codes.Code]apierr.Reason{
		codes.InvalidArgument: apierr.ReasonInvalid, codes.NotFound: apierr.ReasonNotFound, codes.FailedPrecondition: apierr.ReasonState,
		codes.PermissionDenied: apierr.ReasonState, codes.ResourceExhausted: apierr.ReasonLimited, codes.Unavailable: apierr.ReasonUnreachable,
	}[st.Code()]
	if !ok || apierr.ReasonOf(err) != "" {
		return err
	}
	return apierr.New(reason, "", "%s", st.Message())
}
