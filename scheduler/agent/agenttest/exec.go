package agenttest

import (
	"context"
	"io"
	"sync"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exec runs commands of its own in any container that runs: "cat" gives back what it
// reads, "yes" writes for ever, "exit" ends with the code 3, and others do not exist.
func (r *Rund) Exec(ctx context.Context) (grpc.BidiStreamingClient[rundpb.ExecRequest, taskpb.ExecOutput], error) {
	x := &execution{rund: r, ctx: ctx, in: make(chan *rundpb.ExecRequest), out: make(chan *taskpb.ExecOutput)}
	r.mu.Lock()
	r.execs++
	r.mu.Unlock()
	x.running.Go(x.run)
	context.AfterFunc(ctx, func() {
		x.running.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.execs--
	})
	return x, nil
}

// Execs counts the commands that run.
func (r *Rund) Execs() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.execs
}

type execution struct {
	grpc.ClientStream // nil: nobody asks for more
	rund              *Rund
	ctx               context.Context
	in                chan *rundpb.ExecRequest
	out               chan *taskpb.ExecOutput // closed by run
	err               error                   // set before that
	running           sync.WaitGroup
}

func (x *execution) Send(m *rundpb.ExecRequest) error {
	select {
	case x.in <- m:
		return nil
	case <-x.ctx.Done():
		return x.ctx.Err()
	}
}

func (x *execution) CloseSend() error { return nil }

func (x *execution) Recv() (*taskpb.ExecOutput, error) {
	select {
	case m, ok := <-x.out:
		if !ok && x.err != nil {
			return nil, x.err
		}
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-x.ctx.Done():
		return nil, x.ctx.Err()
	}
}

func (x *execution) say(m *taskpb.ExecOutput) bool {
	select {
	case x.out <- m:
		return true
	case <-x.ctx.Done():
		return false
	}
}

func (x *execution) hear() *rundpb.ExecRequest {
	select {
	case m := <-x.in:
		return m
	case <-x.ctx.Done():
		return nil
	}
}

func (x *execution) run() {
	defer close(x.out)
	first := x.hear()
	if first == nil {
		return
	}
	if x.rund.Actual(first.GetTaskId()).GetPhase() != rundpb.Phase_PHASE_RUNNING {
		x.err = status.Error(codes.FailedPrecondition, "the task does not run")
		return
	}
	exit := &taskpb.ExecExit{}
	switch args := first.GetCommand().GetArgs(); args[0] {
	case "exit":
		exit.Code = 3
	case "yes":
		for x.say(&taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stdout{Stdout: make([]byte, 32<<10)}}) {
		}
		return
	case "cat":
		for {
			m := x.hear()
			if m == nil {
				return
			}
			if m.GetInput().GetStdinEnd() {
				break
			}
			if !x.say(&taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stdout{Stdout: m.GetInput().GetStdin()}}) {
				return
			}
		}
	default:
		x.err = status.Errorf(codes.FailedPrecondition, "the image has no program %s", args[0])
		return
	}
	x.say(&taskpb.ExecOutput{Output: &taskpb.ExecOutput_Exit{Exit: exit}})
}
