package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// maxAccessPolicy bounds what is read of a policy, in bytes; the managers take less.
const maxAccessPolicy = 1 << 20

func (a *app) authPolicyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Policies in Cedar, besides the roles",
		Long: `policy keeps Cedar documents. A statement permits or forbids; what one forbids,
no role permits. Principals are Redoubt::Person, Redoubt::LocalUser and
Redoubt::LocalRoot, each in Redoubt::Role; actions are the verbs, each in the
group of its noun (Redoubt::Action::"service"); resources are Redoubt::Service,
Node, Config, Secret, Network, NetworkPolicy and Cluster, in Redoubt::Stack where
they have its label; their labels are tags.`,
	}
	group(c)
	c.AddCommand(a.authPolicyLsCmd(), a.authPolicyShowCmd(), a.authPolicySetCmd(), a.authPolicyRmCmd())
	return c
}

// accessPolicyJSON is one policy in `auth policy ls --format json`.
type accessPolicyJSON struct {
	Name    string    `json:"name"`
	Updated time.Time `json:"updated"`
	Text    string    `json:"text"`
	// What asks for several people counts for nothing until it is set anew.
	Suspended bool `json:"suspended"`
}

func (a *app) authPolicyLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List policies",
		Example: `  redoubt auth policy ls`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListAccessPolicies(ctx, &controlpb.ListAccessPoliciesRequest{})
				if err != nil {
					return err
				}
				var names []string
				objects := []accessPolicyJSON{}
				var rows [][]string
				for _, v := range r.GetPolicies() {
					o := accessPolicyJSON{v.GetName(), time.Unix(0, v.GetUpdatedAt()).UTC(), v.GetText(), v.GetSuspended()}
					names, objects = append(names, o.Name), append(objects, o)
					rows = append(rows, []string{o.Name, o.Updated.Format(time.RFC3339), fmt.Sprint(len(o.Text)), map[bool]string{true: "asks nobody until it is set anew"}[o.Suspended]})
				}
				return out.list(a.Stdout, names, objects, []string{"NAME", "UPDATED", "BYTES", "NOTE"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

func (a *app) authPolicyShowCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "show POLICY", Short: "Print a policy",
		Example: `  redoubt auth policy show hands-off-prod`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListAccessPolicies(ctx, &controlpb.ListAccessPoliciesRequest{})
				if err != nil {
					return err
				}
				for _, v := range r.GetPolicies() {
					if v.GetName() == got[0] {
						fmt.Fprint(a.Stdout, printableText(v.GetText()))
						return nil
					}
				}
				return failf(ExitError, "there is no policy %q: `redoubt auth policy ls` lists them", got[0])
			})
		},
	}
	c.ValidArgsFunction = a.names(1, accessPolicyNames)
	return c
}

func (a *app) authPolicySetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "set POLICY FILE", Short: "Add a policy, or replace the one of that name",
		Long: `set reads Cedar from FILE, "-" for standard input. A policy that does not parse,
that speaks of what there is not, or that keeps local root from changing policies
when no person can, is refused, and nothing changes.`,
		Example: `  redoubt auth policy set hands-off-prod prod.cedar`,
		Args:    args(2, 2),
		RunE: func(c *cobra.Command, got []string) error {
			in := a.Stdin
			if got[1] != "-" {
				f, err := os.Open(got[1])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			text, err := io.ReadAll(io.LimitReader(in, maxAccessPolicy+1))
			if err != nil {
				return err
			}
			if len(text) > maxAccessPolicy {
				return usagef("the policy is longer than %d bytes", maxAccessPolicy)
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.SetAccessPolicy(ctx, &controlpb.SetAccessPolicyRequest{Name: got[0], Text: string(text)})
				if err == nil {
					fmt.Fprintln(a.Stdout, got[0])
				}
				return err
			})
		},
	}
}

func (a *app) authPolicyRmCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "rm POLICY...", Aliases: []string{"remove"}, Short: "Remove policies",
		Example: `  redoubt auth policy rm hands-off-prod`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				_, err := api.RemoveAccessPolicy(ctx, &controlpb.RemoveAccessPolicyRequest{Name: n})
				return n, err
			})
		},
	}
	c.ValidArgsFunction = a.names(-1, accessPolicyNames)
	return c
}

func accessPolicyNames(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListAccessPolicies(ctx, &controlpb.ListAccessPoliciesRequest{})
	for _, v := range r.GetPolicies() {
		out = append(out, v.GetName())
	}
	return out, err
}
