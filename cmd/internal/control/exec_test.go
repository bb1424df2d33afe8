package control_test

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// RunExec is the dispatcher: the command says which task it is in, and mirrors its input.
func (w *world) RunExec(_ context.Context, r dispatcher.ExecRequest, c dispatcher.ExecClient) error {
	if r.Command.GetArgs()[0] == "refused" {
		return status.Error(codes.PermissionDenied, "this node runs no commands in containers: rund.exec in its configuration says so")
	}
	said := func(text string) error {
		return c.Send(&taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stdout{Stdout: []byte(text)}})
	}
	if err := said("in " + r.TaskID); err != nil {
		return err
	}
	for {
		in, err := c.Recv()
		if err == io.EOF {
			return c.Send(&taskpb.ExecOutput{Output: &taskpb.ExecOutput_Exit{Exit: &taskpb.ExecExit{Code: 3}}})
		}
		if err != nil {
			return err
		}
		if err := said(string(in.GetStdin())); err != nil {
			return err
		}
	}
}

// execStream is a caller that sends all that it has, and collects what it is sent.
type execStream struct {
	grpc.ServerStream
	ctx  context.Context
	send []*controlpb.ExecRequest
	got  []*controlpb.ExecResponse
}

func (s *execStream) Context() context.Context { return s.ctx }

func (s *execStream) RecvMsg(m any) error {
	r, err := s.Recv()
	if err == nil {
		proto.Merge(m.(proto.Message), r)
	}
	return err
}

func (s *execStream) SendMsg(m any) error { return s.Send(m.(*controlpb.ExecResponse)) }

func (s *execStream) Recv() (*controlpb.ExecRequest, error) {
	if len(s.send) == 0 {
		return nil, io.EOF
	}
	m := s.send[0]
	s.send = s.send[1:]
	return m, nil
}

func (s *execStream) Send(m *controlpb.ExecResponse) error {
	s.got = append(s.got, m)
	return nil
}

// TestExec: a command goes to the task that is named, or to the first of a service that
// runs, and to none that does not; what is no command is refused before anybody is asked.
func TestExec(t *testing.T) {
	w := newWorld(t)
	web, idle := w.create(w.spec("web")), w.create(w.spec("idle"))
	w.putTask(web, 1, schedstore.Failed)
	third := w.putTask(web, 3, schedstore.Running)
	second := w.putTask(web, 2, schedulerpb.TaskState_TASK_STATE_STARTING)
	w.putTask(web, 4, schedulerpb.TaskState_TASK_STATE_PREPARING)
	w.putTask(idle, 1, schedstore.Failed)
	exec := func(more ...*controlpb.ExecRequest) ([]*controlpb.ExecResponse, error) {
		s := &execStream{ctx: t.Context(), send: more}
		err := w.api.Exec(s)
		return s.got, err
	}
	ask := func(target string, args ...string) *controlpb.ExecRequest {
		return &controlpb.ExecRequest{Target: target, Command: &taskpb.ExecCommand{Args: args}}
	}
	input := &controlpb.ExecRequest{Input: &taskpb.ExecInput{Input: &taskpb.ExecInput_Stdin{Stdin: []byte("typed")}}}

	for target, want := range map[string]string{"web": second, "web.3": third, third: third} {
		got, err := exec(ask(target, "a"), input)
		if err != nil || len(got) != 4 || got[0].GetTaskId() != want || got[0].GetNodeName() != "worker-1" || got[0].GetOutput() != nil ||
			string(got[1].GetOutput().GetStdout()) != "in "+want || string(got[2].GetOutput().GetStdout()) != "typed" || got[3].GetOutput().GetExit().GetCode() != 3 {
			t.Errorf("%s: %v, %v", target, got, err)
		}
	}
	long := slices.Repeat([]string{strings.Repeat("x", 32<<10)}, 9)
	for _, c := range []struct {
		name   string
		send   []*controlpb.ExecRequest
		reason apierr.Reason
		want   string
	}{
		{"no task that runs", []*controlpb.ExecRequest{ask("idle", "a")}, apierr.ReasonState, "service idle has no task that runs"},
		{"one that ended", []*controlpb.ExecRequest{ask("web.1", "a")}, apierr.ReasonState, "task web.1 does not run: it is failed"},
		{"one that has no program yet", []*controlpb.ExecRequest{ask("web.4", "a")}, apierr.ReasonState, "task web.4 does not run: it is preparing"},
		{"no task", []*controlpb.ExecRequest{ask("web.9", "a")}, apierr.ReasonNotFound, "web.9"},
		{"no service", []*controlpb.ExecRequest{ask("nosuch", "a")}, apierr.ReasonNotFound, "nosuch"},
		{"nowhere", []*controlpb.ExecRequest{ask("", "a")}, apierr.ReasonInvalid, "a command needs a task"},
		{"no command", []*controlpb.ExecRequest{ask("web")}, apierr.ReasonInvalid, "there is no command"},
		{"an empty command", []*controlpb.ExecRequest{ask("web", "")}, apierr.ReasonInvalid, "there is no command"},
		{"one that is too long", []*controlpb.ExecRequest{ask("web", long...)}, apierr.ReasonInvalid, "too long"},
		{"input at once", []*controlpb.ExecRequest{{Target: "web", Command: &taskpb.ExecCommand{Args: []string{"a"}}, Input: input.Input}}, apierr.ReasonInvalid, "input came with the command"},
		{"two on a stream", []*controlpb.ExecRequest{ask("web", "a"), ask("web", "b")}, apierr.ReasonInvalid, "a second command"},
		{"refused there", []*controlpb.ExecRequest{ask("web", "refused")}, apierr.ReasonState, "rund.exec in its configuration says so"},
	} {
		got, err := exec(c.send...)
		t.Run(c.name, func(t *testing.T) { wantReason(t, err, c.reason, c.want) })
		if c.reason != apierr.ReasonInvalid && c.name != "refused there" && len(got) != 0 {
			t.Errorf("%s: a task is named: %v", c.name, got)
		}
	}
}

// TestExecIsOnRecord: where a command runs, and as whom, is on record before it is begun
// and with its end; what it is never.
func TestExecIsOnRecord(t *testing.T) {
	w := newWorld(t)
	web := w.create(w.spec("web"))
	task := w.putTask(web, 1, schedstore.Running)
	log := &audit.Log{Store: w.store, Manager: w.manager}
	s := &execStream{ctx: t.Context(), send: []*controlpb.ExecRequest{{Target: "web", Command: &taskpb.ExecCommand{Args: []string{"hunter2"}, User: "postgres"}}}}
	err := log.Stream(nil, s, &grpc.StreamServerInfo{FullMethod: controlpb.Execs_Exec_FullMethodName}, func(_ any, ss grpc.ServerStream) error {
		return w.api.Exec(&grpc.GenericServerStream[controlpb.ExecRequest, controlpb.ExecResponse]{ServerStream: ss})
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.store.Records()
	if err != nil {
		t.Fatal(err)
	}
	got := map[auditpb.Outcome]*auditpb.Record{}
	for n := range r.Log.Size() {
		e, err := r.Entry(n)
		rec := &auditpb.Record{}
		if err == nil {
			err = proto.Unmarshal(e.Record, rec)
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(rec.GetMethod(), "/Exec") {
			got[rec.GetOutcome()] = rec
		}
		if strings.Contains(rec.String(), "hunter2") {
			t.Errorf("the command is on record: %v", rec)
		}
	}
	node := w.worker
	want := []string{"Service web", "Service web", "Task " + task, "Node " + node, "User postgres"}
	for _, o := range []auditpb.Outcome{auditpb.Outcome_OUTCOME_BEGUN, auditpb.Outcome_OUTCOME_DONE} {
		if rec := got[o]; !slices.Equal(rec.GetObjects(), want) || rec.GetRequest() != got[auditpb.Outcome_OUTCOME_READ].GetRequest() {
			t.Errorf("%v: %v, want %q", o, rec, want)
		}
	}
}
