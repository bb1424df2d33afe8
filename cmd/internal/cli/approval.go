package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) approvalCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "approval", Short: "Requests that several people must be for",
		Long: `approval shows and decides requests that, by a policy, take effect only when
several people are for them. Such a command ends with exit code 7 and names its
approval; others look at it and grant it; the same command by the same caller
then takes effect, once. It must be exactly the same, and within 24 hours.

Policies say for what and how many: see redoubt auth policy.`,
	}
	group(c)
	c.AddCommand(a.approvalLsCmd(), a.approvalShowCmd(), a.approvalGrantCmd(), a.approvalDenyCmd())
	return c
}

// approvalJSON is one approval in `approval ls --format json`.
type approvalJSON struct {
	ID        string    `json:"id"`
	Requester string    `json:"requester"`
	Verbs     []string  `json:"verbs"`
	State     string    `json:"state"`
	Progress  string    `json:"progress"`
	Requested time.Time `json:"requested"`
	Expires   time.Time `json:"expires"`
}

func approvalObject(v *controlpb.ApprovalView) approvalJSON {
	return approvalJSON{v.GetId(), v.GetRequester(), v.GetVerbs(), enumName(v.GetState(), "STATE_"), v.GetProgress(),
		time.Unix(v.GetRequestedAt(), 0).UTC(), time.Unix(v.GetExpiresAt(), 0).UTC()}
}

func (a *app) approvalLsCmd() *cobra.Command {
	var out output
	req := &controlpb.ListApprovalsRequest{}
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List requests that wait to be approved",
		Example: "  redoubt approval ls\n  redoubt approval ls --all",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListApprovals(ctx, req)
				if err != nil {
					return err
				}
				var ids []string
				objects := []approvalJSON{}
				var rows [][]string
				for _, v := range r.GetApprovals() {
					o := approvalObject(v)
					ids, objects = append(ids, o.ID), append(objects, o)
					rows = append(rows, []string{out.id(o.ID), o.Requester, strings.Join(o.Verbs, ", "), o.State, o.Progress, o.Expires.Format(time.RFC3339)})
				}
				return out.list(a.Stdout, ids, objects, []string{"ID", "ASKED BY", "VERBS", "STATE", "FOR IT", "EXPIRES"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	c.Flags().BoolVar(&req.All, "all", false, "those, too, that were used or denied or have expired")
	return c
}

func (a *app) approvalShowCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "show ID", Short: "Show what a request says, all of it",
		Long: `show prints a request, which is read and hashed here, and not where it was sent
from: with the SHA-256 it is this request that is granted, whoever is in between.`,
		Example: `  redoubt approval show k3qf7zpa`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.GetApproval(ctx, &controlpb.GetApprovalRequest{Approval: got[0]})
				if err != nil {
					return err
				}
				v, err := readApproval(got[0], r)
				if err != nil {
					return err
				}
				if out.structured() {
					return out.objects(a.Stdout, protoJSON(v))
				}
				showApproval(a.Stdout, v)
				return nil
			})
		},
	}
	out.flags(c, false)
	c.ValidArgsFunction = a.names(1, approvalIDs)
	return c
}

func showApproval(w io.Writer, v *controlpb.ApprovalView) {
	o := approvalObject(v)
	field(w, "Approval", o.ID)
	field(w, "Asked by", o.Requester)
	field(w, "Verbs", strings.Join(o.Verbs, ", "))
	field(w, "Call", strings.TrimPrefix(v.GetMethod(), "/"))
	field(w, "State", o.State)
	field(w, "For it", o.Progress)
	field(w, "Asked at", o.Requested.Format(time.RFC3339))
	field(w, "Expires", o.Expires.Format(time.RFC3339))
	if t := v.GetUsedAt(); t != 0 {
		field(w, "Used at", time.Unix(t, 0).UTC().Format(time.RFC3339))
	}
	field(w, "SHA-256", hex.EncodeToString(v.GetHash()))
	for _, vote := range v.GetVotes() {
		said := "granted"
		switch {
		case vote.GetDenied():
			said = "denied"
		case !vote.GetCounts():
			said = "granted, and counts no more"
		}
		field(w, "Said", fmt.Sprintf("%s %s it, %s", vote.GetBy(), said, time.Unix(vote.GetAt(), 0).UTC().Format(time.RFC3339)))
	}
	fmt.Fprintln(w, "The request says:")
	for _, f := range v.GetFields() {
		fmt.Fprintf(w, "  %s:", printable(f.GetPath()))
		if !strings.Contains(f.GetValue(), "\n") {
			fmt.Fprintf(w, " %s\n", printable(f.GetValue()))
			continue
		}
		fmt.Fprintln(w)
		for line := range strings.Lines(printableText(f.GetValue())) {
			fmt.Fprint(w, "    ", line)
		}
	}
	fmt.Fprintf(w, "  (%s)\n", map[bool]string{true: "everything is as it is by default", false: "everything else is as it is by default"}[len(v.GetFields()) == 0])
}

func approvalIDs(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListApprovals(ctx, &controlpb.ListApprovalsRequest{})
	for _, v := range r.GetApprovals() {
		out = append(out, v.GetId())
	}
	return out, err
}
