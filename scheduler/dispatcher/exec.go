package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// ExecFeature is what a node says to have that comes for commands.
const ExecFeature = "exec"

// ExecClient is who asked for a command: what it sends and what it is sent. Both calls
// fail once RunExec has returned.
type ExecClient interface {
	Recv() (*taskpb.ExecInput, error)
	Send(*taskpb.ExecOutput) error
}

// ExecRequest asks for a command in a task's container.
type ExecRequest struct {
	TaskID  string
	Command *taskpb.ExecCommand
	// Who asked, for a bound of each.
	Who string
}

type execStream = grpc.BidiStreamingServer[schedulerpb.ExecReport, schedulerpb.ExecOrder]

// execution is a command that a node was told of.
type execution struct {
	node, task, who string
	of              *session        // by which the node was told
	came            bool            // guarded by Dispatcher.mu
	come            chan execStream // capacity 1: where it came
	ctx             context.Context
	cancel          context.CancelCauseFunc
	release         func() bool // of the term that would cancel it
}

// errExited ends an execution that has come to its end.
var errExited = errors.New("the command has exited")

// RunExec has a task's node run a command in its container, and passes on what goes in and
// out, until the command is over, ctx ends or the node is gone. It holds one message in
// each direction: a side that does not read holds up the other, and neither holds up
// the node's session. An error is a gRPC status.
func (d *Dispatcher) RunExec(ctx context.Context, r ExecRequest, client ExecClient) error {
	node, err := d.execNode(r.TaskID)
	if err != nil {
		return err
	}
	id, e, err := d.openExec(ctx, node, r)
	if err != nil {
		return err
	}
	defer d.closeExec(id, e)
	patience := time.NewTimer(execPatience)
	defer patience.Stop()
	var stream execStream
	select {
	case stream = <-e.come:
	case <-patience.C:
		return status.Errorf(codes.Unavailable, "node %s did not come for the command", node)
	case <-e.ctx.Done():
		return e.why()
	}
	if err := stream.Send(&schedulerpb.ExecOrder{TaskId: r.TaskID, Command: r.Command}); err != nil {
		return status.Errorf(codes.Unavailable, "node %s went away", node)
	}
	// Neither can be interrupted other than by returning from here; Run waits for them.
	if !d.owned(func() { e.cancel(e.in(client, stream)) }) || !d.owned(func() { e.cancel(e.out(client, stream)) }) {
		return errNotLeading
	}
	<-e.ctx.Done()
	return e.why()
}

// owned runs f in a goroutine that Run waits for, unless that is over.
func (d *Dispatcher) owned(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.term == nil || d.term.Err() != nil {
		return false
	}
	d.sessions.Go(f)
	return true
}

// execNode is the node of a task that runs, and can do it.
func (d *Dispatcher) execNode(task string) (id string, err error) {
	verr := d.config.Store.View(func(r *raftstore.ReadTx) error {
		t, ok := store.Tasks.Get(r, task)
		switch {
		case !ok:
			err = status.Error(codes.NotFound, "there is no such task")
			return nil
		case t.GetNodeId() == "" || !store.Live(t) || store.State(t) < schedulerpb.TaskState_TASK_STATE_STARTING:
			err = status.Errorf(codes.FailedPrecondition, "the task does not run: it is %s", store.StateName(store.State(t)))
			return nil
		}
		id = t.GetNodeId()
		n, _ := store.Nodes.Get(r, id)
		err = status.Errorf(codes.FailedPrecondition, "node %s is of a version that runs no commands in containers: upgrade it", id)
		for _, f := range n.GetDescription().GetFeatures() {
			switch {
			case f.GetName() != ExecFeature:
			case f.GetPresent():
				err = nil
			default:
				err = status.Errorf(codes.FailedPrecondition, "node %s runs no commands in containers: %s", id, oneline.Text(f.GetDetail(), maxDetailText))
			}
		}
		return nil
	})
	if verr != nil {
		return "", status.Error(codes.Unavailable, verr.Error())
	}
	return id, err
}

// openExec tells the node.
func (d *Dispatcher) openExec(ctx context.Context, node string, r ExecRequest) (string, *execution, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.away(node); err != nil {
		if errors.Is(err, ErrAway) {
			err = status.Errorf(codes.Unavailable, "node %s is not connected", node)
		}
		return "", nil, err
	}
	here, his := 0, 0
	for _, e := range d.execs {
		if e.node == node {
			here++
		}
		if e.who == r.Who {
			his++
		}
	}
	switch {
	case len(d.execs) >= maxExecs:
		return "", nil, status.Errorf(codes.ResourceExhausted, "%d commands run in containers already: end one", maxExecs)
	case here >= maxNodeExecs:
		return "", nil, status.Errorf(codes.ResourceExhausted, "%d commands run in containers of node %s already: end one", maxNodeExecs, node)
	case his >= maxCallerExecs:
		return "", nil, status.Errorf(codes.ResourceExhausted, "you run %d commands in containers already: end one", maxCallerExecs)
	}
	e := &execution{node: node, task: r.TaskID, who: r.Who, of: d.members[node].session, come: make(chan execStream, 1)}
	e.ctx, e.cancel = context.WithCancelCause(ctx)
	id := ident.New()
	d.execs[id] = e
	e.release = context.AfterFunc(d.term, func() { e.cancel(errNotLeading) })
	e.of.control(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Exec{Exec: &schedulerpb.ExecCall{Id: id}}})
	return id, e, nil
}

// lostExecs ends the commands of a session that is over. d.mu is held.
func (d *Dispatcher) lostExecs(s *session) {
	for _, e := range d.execs {
		if e.of == s {
			e.cancel(e.gone())
		}
	}
}

func (d *Dispatcher) closeExec(id string, e *execution) {
	e.cancel(errExited)
	e.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.execs, id)
}

// Exec serves the stream of a node that comes for a command. It ends with that.
func (d *Dispatcher) Exec(stream execStream) error {
	id, ok := authz.FromContext(stream.Context())
	if !ok || id.NodeID == "" || id.LocalRoot {
		return status.Error(codes.PermissionDenied, "commands are for nodes: call with a node's certificate")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	e, err := d.execCame(stream, first.GetId(), id.NodeID)
	if err != nil {
		return err
	}
	select {
	case <-e.ctx.Done():
		return e.why()
	case <-stream.Context().Done():
		e.cancel(e.gone())
		return stream.Context().Err()
	}
}

// execCame finds the command that a node came for, which it alone was told of.
func (d *Dispatcher) execCame(stream execStream, id, node string) (*execution, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.execs[id]
	if e == nil || e.node != node {
		// One text for both: nobody learns which there are.
		return nil, status.Error(codes.NotFound, "there is no such command, or it is over")
	}
	if e.came {
		return nil, status.Error(codes.AlreadyExists, "the node came for this command before")
	}
	e.came = true
	e.come <- stream
	return e, nil
}

// in passes on what is sent to the command.
func (e *execution) in(client ExecClient, stream execStream) error {
	for {
		m, err := client.Recv()
		if errors.Is(err, io.EOF) {
			m = &taskpb.ExecInput{Input: &taskpb.ExecInput_StdinEnd{StdinEnd: true}}
		} else if err != nil {
			return err
		}
		if len(m.GetStdin()) > maxExecChunk {
			return status.Errorf(codes.InvalidArgument, "a piece of %d bytes of input: at most %d are accepted", len(m.GetStdin()), maxExecChunk)
		}
		if serr := stream.Send(&schedulerpb.ExecOrder{Input: m}); serr != nil {
			return e.gone()
		}
		if err != nil {
			<-e.ctx.Done()
			return nil
		}
	}
}

// out passes on what the node says of the command.
func (e *execution) out(client ExecClient, stream execStream) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return e.gone()
		}
		if m.GetError() != "" || m.GetCode() != 0 {
			return status.Error(execCode(m.GetCode()), oneline.Text(m.GetError(), maxMessageText))
		}
		o, err := e.clean(m.GetOutput())
		if err != nil {
			return err
		}
		if err := client.Send(o); err != nil {
			return err
		}
		if o.GetExit() != nil {
			return errExited
		}
	}
}

// clean is what a node sent with nothing but the known fields, within their bounds.
func (e *execution) clean(o *taskpb.ExecOutput) (*taskpb.ExecOutput, error) {
	if n := len(o.GetStdout()) + len(o.GetStderr()); n > maxExecChunk {
		return nil, status.Errorf(codes.Internal, "node %s sent a piece of %d bytes of output: at most %d are accepted", e.node, n, maxExecChunk)
	}
	switch v := o.GetOutput().(type) {
	case *taskpb.ExecOutput_Started:
		return &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Started{Started: true}}, nil
	case *taskpb.ExecOutput_Stdout:
		return &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stdout{Stdout: v.Stdout}}, nil
	case *taskpb.ExecOutput_Stderr:
		return &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stderr{Stderr: v.Stderr}}, nil
	case *taskpb.ExecOutput_Exit:
		return &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Exit{Exit: &taskpb.ExecExit{Code: v.Exit.GetCode() & 0xff, Cut: v.Exit.GetCut()}}}, nil
	}
	return nil, status.Errorf(codes.Internal, "node %s sent a word of a command that this manager does not know", e.node)
}

// execCode is a code that a node may give: it does not say who the caller is, or what
// managers are.
func execCode(n uint32) codes.Code {
	switch c := codes.Code(n); c {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.ResourceExhausted:
		return c
	}
	return codes.Unavailable
}

func (e *execution) gone() error {
	return status.Error(codes.Unavailable, fmt.Sprintf("node %s went away", e.node))
}

func (e *execution) why() error {
	err := context.Cause(e.ctx)
	if err == nil || errors.Is(err, errExited) {
		return nil
	}
	return err
}
