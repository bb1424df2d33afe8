package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

func (a *app) serviceRunCmd() *cobra.Command {
	var w waitFlags
	c := &cobra.Command{
		Use: "run [flags] JOB", Short: "Have a job run now",
		Long: `run begins a run of a job now, whatever its schedule, which goes on as it is. It
takes the place of a run that goes on, unless the job's concurrency is allow (both
go on) or forbid (it is refused). It waits until the run has completed (--detach
does not), and ends with exit code 3 where it failed.`,
		Example: `  redoubt service run backup
  redoubt service run --detach backup`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			var id string
			err := a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.BeginRun(ctx, &controlpb.BeginRunRequest{Service: names[0]})
				if err != nil {
					return err
				}
				fmt.Fprintln(a.Stdout, r.GetRun())
				id, w.run = r.GetId(), r.GetRun()
				return nil
			})
			if err != nil {
				return err
			}
			return a.converge(c.Context(), []string{id}, w)
		},
	}
	w.add(c.Flags())
	return c
}

// runJSON is one run in `service runs --format json`.
type runJSON struct {
	Run   uint64 `json:"run"`
	State string `json:"state"`
	// Due is when the schedule had it; none: it was begun by hand or with the job.
	Due       *time.Time `json:"due"`
	Began     *time.Time `json:"began"`
	Ended     *time.Time `json:"ended"`
	Completed uint64     `json:"completed"`
	Failed    uint64     `json:"failed"`
	Wanted    uint64     `json:"wanted"`
	By        string     `json:"by"`
	Message   string     `json:"message"`
	Revision  uint64     `json:"revision"`
	// Times is how many due times were missed; LastDue is the last of them.
	Times   uint64     `json:"times"`
	LastDue *time.Time `json:"last_due"`
}

func newRunJSON(r *schedulerpb.ServiceRun) runJSON {
	return runJSON{Run: r.GetNumber(), State: enumName(r.GetState(), "STATE_"), Due: instant(r.GetDueAt()), Began: instant(r.GetBeganAt()),
		Ended: instant(r.GetEndedAt()), Completed: r.GetCompleted(), Failed: r.GetFailed(), Wanted: r.GetWanted(), By: r.GetBy(),
		Message: r.GetMessage(), Revision: r.GetRevision(), Times: r.GetTimes(), LastDue: instant(r.GetLastDueAt())}
}

// instant is a time of Unix nanoseconds; nil: there is none.
func instant(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	t := time.Unix(0, ns).UTC()
	return &t
}

func (a *app) serviceRunsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "runs JOB", Short: "List the runs of a job, the newest first",
		Long: `runs lists the runs of a job that go on, and of the others the newest ones: 10, or
as many as --keep of its schedule says. A run that was missed is in the list, with
why; times missed one after the other for the same reason are one line.`,
		Example: `  redoubt service runs backup
  redoubt service runs --format '{{.Run}} {{.State}} {{.Ended}}' backup`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := jobRuns(ctx, api, names[0])
				if err != nil {
					return err
				}
				return a.printRuns(&out, all, time.Now())
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	return c
}

func jobRuns(ctx context.Context, c *api, name string) (all []*schedulerpb.ServiceRun, err error) {
	stream, err := c.StreamRuns(ctx, &controlpb.StreamRunsRequest{Service: name})
	if err != nil {
		return nil, apiclient.Err(err)
	}
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, apiclient.Err(err)
		}
		all = append(all, r.GetRun())
	}
}

func (a *app) printRuns(out *output, all []*schedulerpb.ServiceRun, now time.Time) error {
	var ids []string
	objects := []runJSON{}
	var rows [][]string
	for _, r := range all {
		j := newRunJSON(r)
		ids, objects = append(ids, fmt.Sprint(j.Run)), append(objects, j)
		began, took, done := "", "", fmt.Sprintf("%d/%d", j.Completed, j.Wanted)
		switch {
		case j.Began == nil:
			done = ""
		case j.Ended != nil:
			began, took = ago(*j.Began, now), j.Ended.Sub(*j.Began).Round(time.Second).String()
		default:
			began, took = ago(*j.Began, now), now.Sub(*j.Began).Round(time.Second).String()
		}
		text := j.Message
		if j.Times > 1 {
			text = fmt.Sprintf("%d times until %s: %s", j.Times, j.LastDue.Format(time.RFC3339), text)
		}
		due := j.By
		if j.Due != nil {
			due = j.Due.Format(time.RFC3339)
		}
		rows = append(rows, []string{fmt.Sprint(j.Run), j.State, done, due, began, took, out.text(text)})
	}
	return out.list(a.Stdout, ids, objects, []string{"RUN", "STATE", "COMPLETED", "DUE OR BY", "BEGAN", "TOOK", "MESSAGE"}, rows)
}

func (a *app) serviceSuspendCmd() *cobra.Command {
	return a.suspendCmd("suspend", true, "Have the schedules of jobs not count", `suspend has a job's schedule not count until redoubt service resume; a run that
goes on is left alone, and redoubt service run works all the same. It is no part of
the specification: an update or a stack that is deployed anew does not end it.`)
}

func (a *app) serviceResumeCmd() *cobra.Command {
	return a.suspendCmd("resume", false, "Have the schedules of jobs count again", `resume has a job's schedule count again, from now on: what was due meanwhile was
missed, and stands so in the list of its runs.`)
}

func (a *app) suspendCmd(use string, suspend bool, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use + " JOB...", Short: short, Long: long,
		Example: `  redoubt service ` + use + ` backup`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				r, err := api.SuspendService(ctx, &controlpb.SuspendServiceRequest{Service: n, Suspend: suspend})
				if at := instant(r.GetDue()); at != nil {
					n += ": due next at " + at.Format(time.RFC3339)
				}
				return n, err
			})
		},
	}
}

// nextText says when a job runs next.
func nextText(s *schedulerpb.Service) string {
	switch {
	case s.GetSpec().GetSchedule() == nil:
		return ""
	case s.GetSuspendedSince() != 0:
		return "suspended since " + instant(s.GetSuspendedSince()).Format(time.RFC3339)
	case s.GetDue() == 0:
		return "never"
	}
	return instant(s.GetDue()).Format(time.RFC3339)
}

// jobNote is what lists show beside the tasks of a job.
func jobNote(v *controlpb.ServiceView) string {
	if !spec.IsJob(v.GetService().GetSpec()) {
		return ""
	}
	run := spec.NewestRun(v.GetRuns())
	text := fmt.Sprintf("%d/%d completed", run.GetCompleted(), run.GetWanted())
	switch run.GetState() {
	case schedulerpb.ServiceRun_STATE_UNSPECIFIED:
		text = "no run yet"
	case schedulerpb.ServiceRun_STATE_FAILED:
		text += ", failed"
	case schedulerpb.ServiceRun_STATE_STOPPED:
		text += ", stopped"
	}
	if v.GetService().GetSuspendedSince() != 0 {
		text += ", suspended"
	}
	return text
}

// runText is a run for people.
func runText(r *schedulerpb.ServiceRun) string {
	if r == nil {
		return "none yet"
	}
	text := fmt.Sprintf("%d, %s, %d of %d completed, begun %s", r.GetNumber(), enumName(r.GetState(), "STATE_"), r.GetCompleted(), r.GetWanted(),
		instant(r.GetBeganAt()).Format(time.RFC3339))
	if at := instant(r.GetEndedAt()); at != nil {
		text += ", ended " + at.Format(time.RFC3339)
	}
	if m := r.GetMessage(); m != "" {
		text += ": " + m
	}
	return text
}

// followed is the run of a job that is waited for; nil: there is none to wait for.
func (c *convergence) followed() *schedulerpb.ServiceRun {
	if c.run == 0 && c.service.GetService().GetSpec().GetSchedule() != nil {
		return nil // it runs when that says
	}
	if c.run == 0 {
		return spec.NewestRun(c.service.GetRuns())
	}
	for _, r := range c.service.GetRuns() {
		if r.GetNumber() == c.run {
			return r
		}
	}
	return nil
}

// job reports whether it is one that is followed.
func (c *convergence) job() bool { return spec.IsJob(c.service.GetService().GetSpec()) }

// ran says whether the run that is waited for has ended, and what is left of it.
func (c *convergence) ran() (bool, string) {
	run := c.followed()
	switch run.GetState() {
	case schedulerpb.ServiceRun_STATE_FAILED, schedulerpb.ServiceRun_STATE_STOPPED:
		return true, fmt.Sprintf("run %d %s", run.GetNumber(), enumName(run.GetState(), "STATE_"))
	case schedulerpb.ServiceRun_STATE_RUNNING:
	default:
		return true, ""
	}
	return false, fmt.Sprintf("run %d: %d of %d completed", run.GetNumber(), run.GetCompleted(), run.GetWanted()) + c.reason()
}

// failedRun is an error where the run that is waited for did not complete.
func (c *convergence) failedRun() error {
	run, name := c.followed(), printable(c.service.GetService().GetSpec().GetName())
	switch run.GetState() {
	case schedulerpb.ServiceRun_STATE_FAILED:
		return failf(ExitNotConverged, "run %d of %s failed, %s: see `redoubt service logs --run %[1]d %[2]s`", run.GetNumber(), name, printable(run.GetMessage()))
	case schedulerpb.ServiceRun_STATE_STOPPED:
		return failf(ExitNotConverged, "run %d of %s was stopped: %s", run.GetNumber(), name, printable(run.GetMessage()))
	}
	if run == nil && c.run != 0 {
		return apierr.NotFound("see `redoubt service runs "+name+"`", "run %d of %s is not kept any more: it is not known how it ended", c.run, name)
	}
	return nil
}

// shown reports whether progress is shown of a place: of a job's run that is waited for.
func (c *convergence) shown(p place) bool { return p.run == 0 || p.run == c.followed().GetNumber() }

// doneText is what was waited for.
func (c *convergence) doneText() string {
	switch {
	case !c.job():
		return "converged"
	case c.followed() != nil:
		return "completed"
	}
	return "next run: " + nextText(c.service.GetService())
}
