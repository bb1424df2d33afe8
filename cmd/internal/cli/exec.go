package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// execPiece bounds one piece of input, in bytes.
const execPiece = 32 << 10

func (a *app) serviceExecCmd() *cobra.Command {
	var cmd taskpb.ExecCommand
	c := &cobra.Command{
		Use:   "exec [flags] TASK|SERVICE COMMAND [ARG]...",
		Short: "Run a command in a container of a service",
		Long: `exec runs a command in the container of a task (web.3 or a task's id), or of the
first task of a service that runs, and ends with its exit code. The command is a
process of the container, and may do no more than that, whoever it runs as. It is
killed when this command ends; what it left running in the background ends with
the container. SIGINT and SIGTERM are passed on; the second one ends the command.

With -t it has a terminal, and what it writes gets to yours as it is, also what has
a terminal do other things than show text: use -t with those that you trust as far as
that. Without -t, control characters are shown as ^X where the output is a terminal;
what goes into a file or another program is what the command wrote.

Who ran a command, and where, is in the audit log, the command itself is not. Who has
to approve it sees it: give secrets by its input.`,
		Example: `  redoubt service exec -it web sh
  redoubt service exec web.3 cat /etc/hosts
  redoubt service exec -i --user postgres db psql < dump.sql`,
		Args: args(2, -1),
		RunE: func(c *cobra.Command, args []string) error {
			cmd.Args = args[1:]
			return a.runExec(c.Context(), args[0], &cmd)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the task is the command's
	f.BoolVarP(&cmd.Stdin, "interactive", "i", false, "pass input on")
	f.BoolVarP(&cmd.Tty, "tty", "t", false, "give it a terminal")
	f.StringVarP(&cmd.User, "user", "u", "", "user of the image or number, with :GROUP (default: the container's)")
	f.StringVarP(&cmd.Workdir, "workdir", "w", "", "working directory (default: the container's)")
	f.StringArrayVarP(&cmd.Env, "env", "e", nil, "variable as NAME=value")
	return c
}

func (a *app) runExec(ctx context.Context, target string, cmd *taskpb.ExecCommand) error {
	in, terminal := a.Stdin.(*os.File)
	terminal = terminal && term.IsTerminal(int(in.Fd()))
	if cmd.Tty && cmd.Stdin && !terminal {
		return usagef("-t with -i needs a terminal to type at: leave -t out")
	}
	// Signals are the command's.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGWINCH)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	target = exactTask(ctx, c, target)
	stream, err := c.Exec(ctx)
	if err != nil {
		return apiclient.Err(err)
	}
	x := &executing{stream: stream}
	if err := stream.Send(&controlpb.ExecRequest{Target: target, Command: cmd}); err != nil && !errors.Is(err, io.EOF) {
		return apiclient.Err(err) // else receive says why
	}
	if _, err := stream.Recv(); err != nil { // where it runs
		return apiclient.Err(err)
	}
	if cmd.Tty && cmd.Stdin {
		old, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(in.Fd()), old)
	}
	if w := window(in, terminal && cmd.Tty); w != nil {
		if err := x.send(&taskpb.ExecInput{Input: &taskpb.ExecInput_Size{Size: w}}); err != nil && !errors.Is(err, io.EOF) {
			return apiclient.Err(err)
		}
	}
	if cmd.Stdin {
		go x.input(a.Stdin) // a read cannot be interrupted: it ends with this process
	}
	var passing sync.WaitGroup
	defer passing.Wait()
	defer cancel()
	passing.Go(func() {
		x.signals(ctx, cancel, signals, func() *taskpb.WindowSize { return window(in, terminal && cmd.Tty) })
	})
	out, errs := a.Stdout, a.Stderr
	if !cmd.Tty {
		shown, said := shownOn(out), shownOn(errs)
		defer shown.end()
		defer said.end()
		out, errs = shown, said
	}
	return x.output(out, errs)
}

// exactTask is the whole id of the task that target stands for, as others approve no less.
// Where it finds none, or may not look, it is as it was: the leader says what is wrong.
func exactTask(ctx context.Context, c *apiclient.Client, target string) string {
	if ident.Valid(target) {
		return target
	}
	name, place, dotted := strings.Cut(target, ".")
	resp, err := c.ListTasks(ctx, &controlpb.ListTasksRequest{Services: []string{name}})
	if err != nil {
		return target
	}
	var found *schedulerpb.Task
	for _, v := range resp.GetTasks() {
		t := v.GetTask()
		state := t.GetStatus().GetState()
		switch {
		case state < schedulerpb.TaskState_TASK_STATE_STARTING || state > schedulerpb.TaskState_TASK_STATE_RUNNING:
		case dotted && place != strconv.FormatUint(uint64(t.GetSlot()), 10) && (t.GetSlot() != 0 || place != v.GetNodeName()):
		case found == nil, t.GetSlot() < found.GetSlot(),
			t.GetSlot() == found.GetSlot() && (t.GetMeta().GetCreatedAt() > found.GetMeta().GetCreatedAt()):
			found = t
		}
	}
	if found == nil {
		return target
	}
	return found.GetId()
}

// window is the size of the terminal; nil: there is none.
func window(f *os.File, terminal bool) *taskpb.WindowSize {
	if !terminal {
		return nil
	}
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return nil
	}
	return &taskpb.WindowSize{Rows: uint32(rows), Columns: uint32(columns)}
}

// executing is a command that runs.
type executing struct {
	stream  controlpb.Execs_ExecClient
	sending sync.Mutex // one message at a time
}

func (x *executing) send(in *taskpb.ExecInput) error {
	x.sending.Lock()
	defer x.sending.Unlock()
	return x.stream.Send(&controlpb.ExecRequest{Input: in})
}

// input passes on what is read, and that it ended.
func (x *executing) input(from io.Reader) {
	buf := make([]byte, execPiece)
	for {
		n, err := from.Read(buf)
		if n > 0 && x.send(&taskpb.ExecInput{Input: &taskpb.ExecInput_Stdin{Stdin: buf[:n]}}) != nil {
			return
		}
		if err != nil {
			_ = x.send(&taskpb.ExecInput{Input: &taskpb.ExecInput_StdinEnd{StdinEnd: true}})
			return
		}
	}
}

// signals passes signals on, and has the second one end all.
func (x *executing) signals(ctx context.Context, cancel func(), from <-chan os.Signal, size func() *taskpb.WindowSize) {
	passed := false
	for {
		var in *taskpb.ExecInput
		select {
		case <-ctx.Done():
			return
		case s := <-from:
			switch sig, _ := s.(syscall.Signal); {
			case sig == syscall.SIGWINCH:
				if w := size(); w != nil {
					in = &taskpb.ExecInput{Input: &taskpb.ExecInput_Size{Size: w}}
				}
			case passed:
				cancel()
				return
			default:
				passed = true
				in = &taskpb.ExecInput{Input: &taskpb.ExecInput_Signal{Signal: unix.SignalName(sig)}}
			}
		}
		if in != nil && x.send(in) != nil {
			return // output knows
		}
	}
}

// output writes what the command does, and returns its code.
func (x *executing) output(out, errs io.Writer) error {
	for {
		m, err := x.stream.Recv()
		if errors.Is(err, io.EOF) {
			return failf(ExitUnreachable, "the command came to no end: its node went away")
		}
		if err != nil {
			return apiclient.Err(err)
		}
		switch v := m.GetOutput().GetOutput().(type) {
		case *taskpb.ExecOutput_Stdout:
			_, err = out.Write(v.Stdout)
		case *taskpb.ExecOutput_Stderr:
			_, err = errs.Write(v.Stderr)
		case *taskpb.ExecOutput_Exit:
			if v.Exit.GetCut() {
				_, _ = io.WriteString(errs, "redoubt: what the command left running may write more, which is not shown\n")
			}
			if v.Exit.GetCode() != 0 {
				return childExit(v.Exit.GetCode())
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
