package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/waivers"
	controls "github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

func (a *app) complianceWaiverCmd() *cobra.Command {
	c := &cobra.Command{Use: "waiver", Short: "Controls that may fail until a day, by the word of two people"}
	group(c)
	c.AddCommand(a.complianceWaiveCmd("create"), a.waiverApproveCmd(), a.waiverLsCmd(), a.waiverRmCmd())
	return c
}

// complianceWaiveCmd is compliance waive, and by its other name waiver create.
func (a *app) complianceWaiveCmd(name string) *cobra.Command {
	path := map[string]string{"waive": "waive", "create": "waiver create"}[name]
	var scope, reason, expires, approver, seen string
	c := &cobra.Command{
		Use:   name + " CONTROL",
		Short: "Ask that a control that fails be waived until a day",
		Long: name + ` asks for a waiver. It waives nothing until the person that --approved-by names
has approved it, by redoubt compliance waiver approve over a connection of their own; nobody
approves what they asked for. Waived are the lines of evidence that --report has of
the control there, as compliance run --format json wrote it: where another line comes
to them, it fails as before, and so does the waiver. The control is run as before:
where it fails it is "waived" in reports, with whose word that is; where it does not
fail, or the waiver has ended, the waiver itself is a finding.`,
		Example: `  redoubt compliance run --format json --out today.json
  redoubt compliance ` + path + ` autolock-on --scope node/manager-1 --report today.json --reason 'moves to the new rack' --expires 14d --approved-by bob

  # Bob, where he works
  redoubt compliance waiver approve --context prod ID`,
		Args:              args(1, 1),
		ValidArgsFunction: controlNames,
		RunE: func(c *cobra.Command, args []string) error {
			for _, name := range []string{"scope", "report", "reason", "expires", "approved-by"} {
				if !c.Flags().Changed(name) {
					return usagef("--%s is missing: a waiver has a scope, what was seen there, a reason, an end and somebody who approves it", name)
				}
			}
			req := &controlpb.CreateWaiverRequest{Control: args[0], Reason: reason, Approver: strings.TrimPrefix(approver, "person:")}
			kind, name, _ := strings.Cut(scope, "/")
			switch {
			case kind == "node" && name != "":
				req.Node = name
			case scope != "cluster":
				return usagef("--scope %q: give node/NAME, or cluster", scope)
			}
			end, err := waivedUntil(expires, time.Now())
			if err != nil {
				return err
			}
			req.ExpiresAt = end.Unix()
			if req.Evidence, err = waivedLines(seen, req.GetControl(), req.GetNode()); err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.CreateWaiver(ctx, req)
				if err != nil {
					return err
				}
				fmt.Fprintf(a.Stderr, "It waives nothing until %s has run: redoubt compliance waiver approve %s\n", printable(req.Approver), printable(r.GetId()))
				_, err = fmt.Fprintln(a.Stdout, printable(r.GetId()))
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&scope, "scope", "", "what of: node/NAME, or cluster for a control of the cluster")
	f.StringVar(&seen, "report", "", "the report, as JSON, that has what is to be waived")
	f.StringVar(&reason, "reason", "", "why, one line, which is in every report")
	f.StringVar(&expires, "expires", "", "when it ends: a day as 2027-01-31 (UTC), or in so many days as 30d; 366d at most")
	f.StringVar(&approver, "approved-by", "", "the person who is to approve it, and is not you")
	_ = c.RegisterFlagCompletionFunc("scope", a.names(-1, waivedScopes))      // fails only where a flag gets two
	_ = c.RegisterFlagCompletionFunc("approved-by", a.names(-1, personNames)) // fails only where a flag gets two
	return c
}

// waivedLines is what a report has against a control of a node, which is named by name
// or id, or of the cluster.
func waivedLines(path, control, node string) ([]string, error) {
	r, err := report.ReadFile(path)
	if err != nil {
		return nil, usagef("--report %v", err)
	}
	for _, x := range r.Results {
		there := x.Target.Kind == scopeCluster
		if node != "" {
			there = x.Target.Kind == scopeNode && (x.Target.Name == node || x.Target.ID == node)
		}
		if there && x.Control == control && (x.Outcome == controls.Fail || x.Outcome == report.Waived) {
			return x.Evidence, nil
		}
	}
	return nil, usagef("--report %s: %s does not fail there in it", path, printable(control))
}

// waivedUntil reads --expires.
func waivedUntil(s string, now time.Time) (time.Time, error) {
	if days, err := strconv.Atoi(strings.TrimSuffix(s, "d")); err == nil && strings.HasSuffix(s, "d") && days > 0 && days <= 366 {
		return now.Add(time.Duration(days) * 24 * time.Hour), nil
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || !t.After(now) {
		return t, usagef("--expires %q: give a day to come as 2027-01-31, or 1d to 366d", s)
	}
	return t, nil
}

func (a *app) waiverApproveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "approve WAIVER",
		Short: "Approve a waiver that names you",
		Long: `approve makes a waiver good that names you as who approves it. Read what it says
first: redoubt compliance waiver ls. It is never changed after that.`,
		Example: `  redoubt compliance waiver approve --context prod ID`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ApproveWaiver(ctx, &controlpb.ApproveWaiverRequest{Id: args[0]})
				if err != nil {
					return err
				}
				w := r.GetWaiver()
				fmt.Fprintf(a.Stderr, "%s of %s is waived until %s.\n", printable(w.GetControl()), printable(waivedOf(w)), unixUTC(w.GetExpiresAt()).Format(time.RFC3339))
				_, err = fmt.Fprintln(a.Stdout, printable(w.GetId()))
				return err
			})
		},
	}
}

func (a *app) waiverRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm WAIVER...", Aliases: []string{"remove"}, Short: "Take waivers out, approved or not",
		Example: `  redoubt compliance waiver rm ID`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				for _, id := range args {
					if _, err := api.RemoveWaiver(ctx, &controlpb.RemoveWaiverRequest{Id: id}); err != nil {
						return err
					}
					fmt.Fprintln(a.Stdout, id)
				}
				return nil
			})
		},
	}
}

// waiverJSON is a waiver in --format json.
type waiverJSON struct {
	ID       string    `json:"id"`
	Control  string    `json:"control"`
	Scope    string    `json:"scope"`
	State    string    `json:"state"`
	Reason   string    `json:"reason"`
	AskedBy  string    `json:"asked_by"`
	Approver string    `json:"approver"`
	Expires  time.Time `json:"expires"`
	Evidence []string  `json:"evidence"`
}

func (a *app) waiverLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List waivers, and who is asked to approve one",
		Example: `  redoubt compliance waiver ls
  redoubt compliance waiver ls --format '{{.ID}} {{.State}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListWaivers(ctx, &controlpb.ListWaiversRequest{})
				if err != nil {
					return err
				}
				var ids []string
				objects := []waiverJSON{}
				var rows [][]string
				for _, w := range r.GetWaivers() {
					v := waiverJSON{w.GetId(), w.GetControl(), waivedOf(w), enumName(w.GetState(), "STATE_"), w.GetReason(), w.GetAskedBy(), w.GetApprover(), unixUTC(w.GetExpiresAt()), w.GetEvidence()}
					ids, objects = append(ids, v.ID), append(objects, v)
					rows = append(rows, []string{out.id(v.ID), v.Control, v.Scope, v.State, v.Expires.Format(time.DateOnly), v.AskedBy, v.Approver, out.text(v.Reason), out.text(strings.Join(v.Evidence, "; "))})
				}
				return out.list(a.Stdout, ids, objects, []string{"WAIVER", "CONTROL", "SCOPE", "STATE", "UNTIL", "ASKED BY", "APPROVER", "REASON", "EVIDENCE"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	return c
}

func waiverIDs(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListWaivers(ctx, &controlpb.ListWaiversRequest{})
	for _, w := range r.GetWaivers() {
		out = append(out, w.GetId())
	}
	return out, err
}

func waivedOf(w *controlpb.WaiverView) string {
	switch {
	case w.GetNodeId() == "":
		return "cluster"
	case w.GetNodeName() == "":
		return "node/" + w.GetNodeId()
	}
	return "node/" + w.GetNodeName()
}

func unixUTC(unix int64) time.Time { return time.Unix(unix, 0).UTC() }

// waivers are those that were approved, as a report takes them.
func (a *app) waivers(ctx context.Context) (all []report.Waiver, err error) {
	err = a.with(ctx, func(ctx context.Context, api *api) error {
		r, err := api.ListWaivers(ctx, &controlpb.ListWaiversRequest{})
		all = waivers.Approved(r.GetWaivers())
		return err
	})
	return all, err
}
