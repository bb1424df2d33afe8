package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) authCanICmd() *cobra.Command {
	var as string
	c := &cobra.Command{
		Use: "can-i [flags] VERB [RESOURCE]", Short: "Say whether something is permitted",
		Long: `can-i asks for the caller, or with --as for somebody else. RESOURCE is service:web,
node:worker-1 and so on; without it, it is about the cluster. It ends with status
1 where it is not permitted.`,
		Example: `  redoubt auth can-i service.update service:web
  redoubt auth can-i --as user:ann@manager-1 node.revoke node:worker-1`,
		Args: args(1, 2),
		RunE: func(c *cobra.Command, got []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := mayDo(ctx, api, got, as)
				if err != nil {
					return err
				}
				if !r.GetAllowed() {
					fmt.Fprintln(a.Stdout, "no")
					return failf(ExitError, "%s", r.GetWhy())
				}
				fmt.Fprintln(a.Stdout, "yes")
				return nil
			})
		},
	}
	a.canFlags(c, &as)
	return c
}

func (a *app) authExplainCmd() *cobra.Command {
	var as string
	var out output
	c := &cobra.Command{
		Use: "explain [flags] VERB [RESOURCE]", Short: "Say why something is permitted or not",
		Long:    `explain says which roles and policies permit or forbid it, for the caller or with --as for somebody else.`,
		Example: `  redoubt auth explain service.update service:web --as person:ann`,
		Args:    args(1, 2),
		RunE: func(c *cobra.Command, got []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := mayDo(ctx, api, got, as)
				if err != nil {
					return err
				}
				if out.structured() {
					return out.objects(a.Stdout, protoJSON(r))
				}
				verdict := "not permitted"
				if r.GetAllowed() {
					verdict = "permitted"
				}
				field(a.Stdout, "Who", r.GetPrincipal())
				field(a.Stdout, "Verb", got[0])
				field(a.Stdout, "On", r.GetResource())
				field(a.Stdout, "Roles there", strings.Join(r.GetRoles(), ", "))
				field(a.Stdout, "Verdict", verdict)
				field(a.Stdout, "Why", r.GetWhy())
				return nil
			})
		},
	}
	out.flags(c, false)
	a.canFlags(c, &as)
	return c
}

func (a *app) canFlags(c *cobra.Command, as *string) {
	c.Flags().StringVar(as, "as", "", "person:NAME, user:NAME@NODE or root:NODE")
	_ = c.RegisterFlagCompletionFunc("as", a.names(-1, principals)) // fails only where a flag gets two
	c.ValidArgsFunction = a.names(1, verbNames)
}

func mayDo(ctx context.Context, api *api, got []string, as string) (*controlpb.CanIResponse, error) {
	req := &controlpb.CanIRequest{Verb: got[0]}
	if len(got) > 1 {
		req.Resource = got[1]
	}
	if as != "" {
		return api.CanThey(ctx, &controlpb.CanTheyRequest{What: req, Principal: as})
	}
	return api.CanI(ctx, req)
}
