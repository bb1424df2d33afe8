package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func (a *app) serviceRollbackCmd() *cobra.Command {
	var w waitFlags
	var sf signFlags
	var to uint64
	c := &cobra.Command{
		Use: "rollback [flags] SERVICE", Short: "Have a service go back to what it was",
		Long: `rollback has a service go back to a former specification: while an update is on
its way or paused, to what it was before; else to the one before the one in
force. --to names another, by its number (redoubt service history). All of it is
gone back to, also the number of replicas. Tasks are replaced as --rollback-… of
that specification says. It waits until that is done (--detach does not).`,
		Example: `  redoubt service rollback web
  redoubt service rollback --to 3 web`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			if c.Flags().Changed("to") && to == 0 {
				return usagef("--to 0: specifications are numbered from 1: see `redoubt service history %s`", names[0])
			}
			return a.runRollback(c.Context(), names[0], to, w, &sf)
		},
	}
	c.Flags().Uint64Var(&to, "to", 0, "number of the specification to go back to")
	sf.add(c.Flags())
	w.add(c.Flags())
	return c
}

func (a *app) runRollback(ctx context.Context, name string, to uint64, w waitFlags, sf *signFlags) error {
	sg, err := a.signer(sf)
	if err != nil {
		return err
	}
	var id string
	err = a.within(ctx, resolveTimeout, func(ctx context.Context, c *api) (err error) {
		id, err = a.rollBack(ctx, c, name, to, sg)
		if err == nil {
			fmt.Fprintln(a.Stdout, printable(id))
		}
		return err
	})
	if err != nil {
		return err
	}
	w.follows = followsRollback
	return a.converge(ctx, []string{id}, w)
}

// rollBack goes back to what there was when it was asked: a change by somebody else in
// between is an error, as what is gone back to may be another then.
func (a *app) rollBack(ctx context.Context, c *api, name string, to uint64, sg *signer) (string, error) {
	all, err := serviceHistory(ctx, c, name)
	if err != nil {
		return "", err
	}
	var target *controlpb.StreamServiceHistoryResponse
	for _, h := range all {
		n := h.GetRecord().GetNumber()
		switch {
		case h.GetInForce() && to == n:
			return "", failf(ExitError, "specification %d of service %s is in force: there is nothing to go back to", n, printable(name))
		case h.GetPrevious() && to == 0, to > 0 && to == n:
			target = h
		}
	}
	switch {
	case target == nil && to == 0:
		return "", failf(ExitError, "service %s has no former specification: there is nothing to go back to", printable(name))
	case target == nil:
		return "", failf(ExitError, "service %s has no former specification %d: see `redoubt service history %[1]s`", printable(name), to)
	}
	req := &controlpb.RollbackServiceRequest{Service: target.GetRecord().GetServiceId(), Version: target.GetVersion(), To: target.GetRecord().GetNumber(), Spec: target.GetRecord().GetSpec()}
	if sg != nil {
		if err := sg.rollback(ctx, c, name, req, target.GetRecord().GetSigned()); err != nil {
			return "", err
		}
	}
	r, err := c.RollbackService(ctx, req)
	if err != nil {
		return "", err
	}
	a.warn(r.Warnings)
	return r.GetId(), nil
}

func serviceHistory(ctx context.Context, c *api, name string) (all []*controlpb.StreamServiceHistoryResponse, err error) {
	stream, err := c.StreamServiceHistory(ctx, &controlpb.StreamServiceHistoryRequest{Service: name})
	if err != nil {
		return nil, apiclient.Err(err)
	}
	for {
		h, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && len(all) == 0:
			return nil, apierr.NotFound("see `redoubt service ls`", "no service %q", name)
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, apiclient.Err(err)
		}
		all = append(all, h)
	}
}

// specJSON is one specification in `service history --format json`.
type specJSON struct {
	Number   uint64    `json:"number"`
	InForce  bool      `json:"in_force"`
	Previous bool      `json:"previous"`
	At       time.Time `json:"at"`
	By       string    `json:"by"`
	Revision uint64    `json:"revision"`
	Image    string    `json:"image"`
	Changes  []string  `json:"changes"`
}

func (a *app) serviceHistoryCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "history SERVICE", Short: "List the specifications that a service had, the newest first",
		Long: `history lists the specifications of a service: the one in force, and those before
that are kept (10, or less where they are large). What changed is told against the
one before in the list. "back" is what ` + "`redoubt service rollback`" + ` goes back to.`,
		Example: `  redoubt service history web
  redoubt service history --format json web`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := serviceHistory(ctx, api, names[0])
				if err != nil {
					return err
				}
				return a.printHistory(&out, all, time.Now())
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	return c
}

func (a *app) printHistory(out *output, all []*controlpb.StreamServiceHistoryResponse, now time.Time) error {
	var ids []string
	objects := []specJSON{}
	var rows [][]string
	for i, h := range all {
		rec := h.GetRecord()
		s := specJSON{Number: rec.GetNumber(), InForce: h.GetInForce(), Previous: h.GetPrevious(), By: rec.GetBy(),
			Revision: rec.GetRevision(), Image: rec.GetSpec().GetTask().GetContainer().GetImage(), Changes: []string{}}
		when := "unknown"
		if rec.GetAt() != 0 {
			s.At = time.Unix(0, rec.GetAt()).UTC()
			when = ago(s.At, now)
		}
		what := ""
		if i+1 < len(all) {
			s.Changes = specChanges(all[i+1].GetRecord().GetSpec(), rec.GetSpec())
			what = strings.Join(s.Changes, ", ")
		}
		mark := ""
		switch {
		case s.InForce:
			mark = "in force"
		case s.Previous:
			mark = "back"
		}
		ids, objects = append(ids, fmt.Sprint(s.Number)), append(objects, s)
		rows = append(rows, []string{fmt.Sprint(s.Number), mark, when, s.By, s.Image, out.text(what)})
	}
	return out.list(a.Stdout, ids, objects, []string{"NUMBER", "", "MADE", "BY", "IMAGE", "CHANGED"}, rows)
}

// specChanges names the fields in which two specifications differ. Of the environment
// only that it does: people put secrets there.
func specChanges(was, is *schedulerpb.ServiceSpec) (out []string) {
	out = []string{}
	for _, f := range audit.Compare(was, is) {
		path := strings.TrimPrefix(strings.TrimPrefix(f.GetPath(), "task."), "container.")
		if base, _, list := strings.Cut(path, "["); list {
			path = base
		}
		if len(out) == 0 || out[len(out)-1] != path {
			out = append(out, path)
		}
	}
	return out
}
