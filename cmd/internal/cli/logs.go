package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// logsFlags are those of service logs.
type logsFlags struct {
	follow, timestamps, raw, details, noTrunc bool
	since, until, tail                        string
	run                                       uint64
}

func (a *app) serviceLogsCmd() *cobra.Command {
	var l logsFlags
	c := &cobra.Command{
		Use:   "logs [flags] SERVICE|TASK",
		Short: "Show what a service's containers wrote",
		Long: `logs shows what the containers of a service, or of one task of it (web.3 or a
task's id), wrote; their stderr goes to stderr. On a terminal control
characters are shown as ^X, as output of a container is not to be trusted with
it; --raw shows lines as they are, without names. Lines of several tasks come in
the order of their times. Output is kept as long as its container is: of the
last few tasks of each slot, and the last one or two megabytes of each. Of which
tasks nothing can be read is said on stderr. --run shows one run of a job alone;
--follow then ends with it.`,
		Example: `  redoubt service logs --tail 20 web
  redoubt service logs --follow --since 10m web.3
  redoubt service logs --since 2026-01-02T15:00:00Z --until 2026-01-02T15:05:00Z web
  redoubt service logs --run 7 backup`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("run") && l.run == 0 {
				return usagef("--run 0: runs are numbered from 1: see `redoubt service runs %s`", args[0])
			}
			req, err := l.request(args[0], time.Now())
			if err != nil {
				return err
			}
			return a.runLogs(c.Context(), req, l)
		},
	}
	f := c.Flags()
	f.BoolVarP(&l.follow, "follow", "f", false, "go on as they write more")
	f.BoolVarP(&l.timestamps, "timestamps", "t", false, "show the time of each line")
	f.BoolVar(&l.raw, "raw", false, "lines as they are, without names")
	f.BoolVar(&l.details, "details", false, "show the ids of node, service and task with each line")
	f.BoolVar(&l.noTrunc, "no-trunc", false, "show the task's id in its name")
	f.StringVar(&l.since, "since", "", "only newer lines: 10m, or 2026-01-02T15:04:05Z")
	f.StringVar(&l.until, "until", "", "only older lines, likewise")
	f.StringVarP(&l.tail, "tail", "n", "all", "only the last lines of each task")
	f.Uint64Var(&l.run, "run", 0, "only this run of a job, by its number (redoubt service runs)")
	return c
}

func (l *logsFlags) request(target string, now time.Time) (*controlpb.ServiceLogsRequest, error) {
	req := &controlpb.ServiceLogsRequest{Target: target, Follow: l.follow, Tail: -1, Run: l.run}
	if l.tail != "all" {
		n, err := strconv.ParseInt(l.tail, 10, 32)
		if err != nil || n < 0 {
			return nil, usagef("--tail %q: give a number of lines, or all", l.tail)
		}
		req.Tail = n
	}
	var err error
	if req.Since, err = moment("--since", l.since, now); err != nil {
		return nil, err
	}
	if req.Until, err = moment("--until", l.until, now); err != nil {
		return nil, err
	}
	switch {
	case l.follow && l.until != "":
		return nil, usagef("--follow and --until exclude each other")
	case l.until != "" && req.Since >= req.Until:
		return nil, usagef("--since is not before --until: no line can be between them")
	case l.raw && l.details:
		return nil, usagef("--raw and --details exclude each other")
	case l.raw && l.noTrunc:
		return nil, usagef("--raw and --no-trunc exclude each other: there are no names")
	}
	return req, nil
}

func (a *app) runLogs(ctx context.Context, req *controlpb.ServiceLogsRequest, l logsFlags) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	stream, err := c.ServiceLogs(ctx, req)
	if err != nil {
		return apiclient.Err(err)
	}
	p := &logPrinter{out: a.Stdout, err: a.Stderr, flags: l, part: map[logStream][]byte{}}
	var failed error
	var gone []string // of tasks that ended
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if len(gone) > 0 {
				a.warn([]string{"nothing can be read of what these wrote, which have ended: " + strings.Join(gone, ", ")})
			}
			return errors.Join(p.flush(), failed)
		}
		if err != nil {
			return errors.Join(p.flush(), apiclient.Err(err))
		}
		switch {
		case r.Gone && req.Follow:
			a.warn([]string{fmt.Sprintf("nothing can be read of what %s wrote, which has ended: %s", r.TaskName, r.Error)})
		case r.Gone:
			gone = append(gone, fmt.Sprintf("%s (%s)", r.TaskName, r.Error))
		case r.Error != "":
			failed = failf(ExitError, "some logs are missing, of %s on %s: %s", r.TaskName, r.NodeName, r.Error)
			if req.Follow {
				a.printError(failed)
			}
		}
		if err := p.add(r); err != nil {
			return err
		}
	}
}

type logStream struct {
	task   string
	stderr bool
}

// logPrinter puts chunks together into lines, each with the name of its task.
type logPrinter struct {
	out, err io.Writer
	flags    logsFlags
	part     map[logStream][]byte // what came of a line so far
	name     map[string]string
	details  map[string]string
}

func (p *logPrinter) add(r *controlpb.ServiceLogsResponse) error {
	s := logStream{r.TaskId, r.Stderr}
	if p.name == nil {
		p.name, p.details = map[string]string{}, map[string]string{}
	}
	p.name[r.TaskId] = r.TaskName + "@" + r.NodeName
	if p.flags.noTrunc {
		p.name[r.TaskId] = r.TaskName + "." + r.TaskId + "@" + r.NodeName
	}
	if p.flags.details {
		p.details[r.TaskId] = fmt.Sprintf("node=%s,service=%s,task=%s ", r.NodeId, r.ServiceId, r.TaskId)
	}
	buf := append(p.part[s], r.Data...)
	for {
		i := bytes.IndexByte(buf, '\n')
		if i < 0 && len(buf) < maxLogLine {
			break
		}
		line, rest := buf, []byte(nil)
		if i >= 0 {
			line, rest = buf[:i], buf[i+1:]
		}
		if err := p.line(s, r.At, line); err != nil {
			return err
		}
		buf = rest
	}
	if len(buf) == 0 {
		delete(p.part, s)
		return nil
	}
	p.part[s] = bytes.Clone(buf)
	return nil
}

func (p *logPrinter) flush() error {
	var errs []error
	for s, b := range p.part {
		errs = append(errs, p.line(s, 0, b))
	}
	clear(p.part)
	return errors.Join(errs...)
}

func (p *logPrinter) line(s logStream, at int64, line []byte) error {
	w := p.out
	if s.stderr {
		w = p.err
	}
	var b strings.Builder
	if p.flags.timestamps && at != 0 {
		b.WriteString(time.Unix(0, at).UTC().Format("2006-01-02T15:04:05.000000000Z "))
	}
	if p.flags.raw {
		b.Write(line)
	} else {
		fmt.Fprintf(&b, "%s | %s", printable(p.name[s.task]), printable(p.details[s.task]))
		if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			b.WriteString(caret(string(line)))
		} else {
			b.Write(line)
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

// caret shows control characters as ^X, so that they do nothing.
func caret(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "?") {
		switch {
		case r == '\t':
			b.WriteRune(r)
		case r < 0x20:
			b.WriteByte('^')
			b.WriteRune(r + 0x40)
		case r == 0x7f:
			b.WriteString("^?")
		case r >= 0x80 && r < 0xa0:
			fmt.Fprintf(&b, "<%02x>", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
