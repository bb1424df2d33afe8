package clitest

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Exec implements Execs: there is a container of service web, with the programs show
// (what the command is), mirror (its input), where (what was named), exit CODE, cut (exits while another writes),
// and vanish (with its node).
func (n *Node) Exec(s grpc.BidiStreamingServer[controlpb.ExecRequest, controlpb.ExecResponse]) error {
	r, err := s.Recv()
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(r.GetTarget(), ".")
	n.mu.Lock()
	for _, svc := range n.services {
		for _, t := range n.tasksOf(svc) {
			if t.GetTask().GetId() == name {
				name = "of " + svc.GetSpec().GetName()
			}
		}
	}
	n.mu.Unlock()
	switch name {
	case "of db":
	case "web":
	case "stopped":
		return apierr.New(apierr.ReasonState, "see `redoubt service ps`", "task %s does not run: it is shutdown", r.GetTarget())
	default:
		return apierr.NotFound("see `redoubt service ls`", "no service or task %q", r.GetTarget())
	}
	if err := s.Send(&controlpb.ExecResponse{TaskId: "a", TaskName: "web.1", NodeName: "manager-1"}); err != nil {
		return err
	}
	said := func(text string) error {
		return s.Send(&controlpb.ExecResponse{Output: &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stdout{Stdout: []byte(text)}}})
	}
	exit := &taskpb.ExecExit{}
	c := r.GetCommand()
	switch c.GetArgs()[0] {
	case "show":
		err = said(fmt.Sprintf("args %q env %q user %q workdir %q stdin %v tty %v\n", c.GetArgs()[1:], c.GetEnv(), c.GetUser(), c.GetWorkdir(), c.GetStdin(), c.GetTty()))
	case "mirror":
		for {
			in, err := s.Recv()
			if err != nil {
				return err
			}
			if in.GetInput().GetStdinEnd() {
				break
			}
			if err := said(string(in.GetInput().GetStdin())); err != nil {
				return err
			}
		}
	case "where":
		err = said(name + " " + strconv.Itoa(len(r.GetTarget())) + "\n")
	case "exit":
		code, _ := strconv.ParseUint(c.GetArgs()[1], 10, 8)
		exit.Code = uint32(code)
	case "cut":
		exit.Cut = true
	case "vanish":
		return nil
	default:
		return apierr.New(apierr.ReasonInvalid, "", "the image has no program %s", c.GetArgs()[0])
	}
	if err != nil {
		return err
	}
	return s.Send(&controlpb.ExecResponse{Output: &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Exit{Exit: exit}}})
}
