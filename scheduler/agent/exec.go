package agent

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// execStream is a command in a container, as rund runs it.
type execStream = grpc.BidiStreamingClient[rundpb.ExecRequest, taskpb.ExecOutput]

// exec comes for a command that the manager has, and carries it between there and rund
// on a stream of its own: whoever reads slowly, or not at all, holds up that stream and
// nothing else. It ends with the session.
func (s *session) exec(ctx context.Context, call *schedulerpb.ExecCall) {
	select {
	case s.executing <- struct{}{}:
	default: // more than a manager asks for
		s.Logger.Warn("too many commands in containers: one is not run")
		return
	}
	s.execs.Go(func() {
		defer func() { <-s.executing }()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends both streams, and the command
		if err := s.carry(ctx, cancel, call.GetId()); err != nil && ctx.Err() == nil {
			s.Logger.Info("a command in a container came to no end", "error", oneline.Text(err.Error(), maxText))
		}
	})
}

// carry returns when the manager has heard how the command ended, or one side is gone.
func (s *session) carry(ctx context.Context, cancel func(), id string) error {
	manager, err := schedulerpb.NewDispatcherClient(s.conn).Exec(ctx)
	if err != nil {
		return err
	}
	if err := manager.Send(&schedulerpb.ExecReport{Id: id}); err != nil {
		return err
	}
	order, err := manager.Recv()
	if err != nil {
		return err
	}
	rund, err := s.openExec(ctx, order)
	s.execs.Go(func() {
		defer cancel() // nobody is there to read what the command says
		for {
			m, err := manager.Recv()
			if err != nil {
				return
			}
			if rund != nil {
				_ = rund.Send(&rundpb.ExecRequest{Input: m.GetInput()}) // who hears rund knows
			}
		}
	})
	if err == nil {
		err = passOutput(rund, manager)
	}
	if err != nil {
		st := status.Convert(err)
		err = manager.Send(&schedulerpb.ExecReport{Code: uint32(st.Code()), Error: oneline.Text(st.Message(), maxText)})
	}
	if err == nil {
		err = manager.CloseSend()
	}
	if err == nil {
		<-ctx.Done()
	}
	return err
}

// openExec has rund begin. Its error, like those of the stream, is for who asked.
func (s *session) openExec(ctx context.Context, order *schedulerpb.ExecOrder) (execStream, error) {
	s.mu.Lock()
	assigned := s.machine.has(order.GetTaskId())
	s.mu.Unlock()
	if !assigned {
		return nil, status.Error(codes.FailedPrecondition, "the task is not on this node")
	}
	rund, err := s.Executor.Exec(ctx)
	if err != nil {
		return nil, err
	}
	err = rund.Send(&rundpb.ExecRequest{TaskId: order.GetTaskId(), Command: order.GetCommand()})
	if err != nil && !errors.Is(err, io.EOF) { // with that Recv says why
		return nil, err
	}
	return rund, nil
}

func passOutput(rund execStream, manager interface {
	Send(*schedulerpb.ExecReport) error
}) error {
	for {
		out, err := rund.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := manager.Send(&schedulerpb.ExecReport{Output: out}); err != nil {
			return err
		}
	}
}
