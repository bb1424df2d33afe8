package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) authCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "auth", Short: "Who may do what: roles, bindings and policies",
		Long: `auth keeps who may do what. A role permits verbs (service.create, node.revoke);
a binding gives it to somebody, for everything or for what has certain labels;
policies, in Cedar, permit or forbid besides.

Somebody is written person:NAME, user:NAME@NODE (a user of a manager's machine)
or root:NODE. Local root of every manager is operator, and security-admin too
while no person is.`,
	}
	group(c)
	c.AddCommand(a.authRoleCmd(), a.authBindCmd(), a.authUnbindCmd(), a.authBindingsCmd(), a.authPolicyCmd(), a.authVerbsCmd(), a.authCanICmd(), a.authExplainCmd())
	return c
}

func (a *app) authRoleCmd() *cobra.Command {
	c := &cobra.Command{Use: "role", Short: "Roles"}
	group(c)
	c.AddCommand(a.authRoleLsCmd(), a.authRoleShowCmd(), a.authRoleCreateCmd(), a.authRoleRmCmd())
	return c
}

func (a *app) authRoleLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List roles",
		Example: `  redoubt auth role ls`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListRoles(ctx, &controlpb.ListRolesRequest{})
				if err != nil {
					return err
				}
				var names []string
				objects := []roleJSON{}
				var rows [][]string
				for _, v := range r.GetRoles() {
					o := roleJSON{v.GetName(), v.GetBuiltin(), v.GetDescription(), v.GetVerbs()}
					kind := "own"
					if o.Builtin {
						kind = "built in"
					}
					names, objects = append(names, o.Name), append(objects, o)
					rows = append(rows, []string{o.Name, kind, fmt.Sprint(len(o.Verbs)), o.Description})
				}
				return out.list(a.Stdout, names, objects, []string{"NAME", "KIND", "VERBS", "DESCRIPTION"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

// roleJSON is one role in `auth role ls --format json`.
type roleJSON struct {
	Name        string   `json:"name"`
	Builtin     bool     `json:"builtin"`
	Description string   `json:"description"`
	Verbs       []string `json:"verbs"`
}

func (a *app) authRoleShowCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "show ROLE", Short: "Print a role as the Cedar policy that it is",
		Example: `  redoubt auth role show operator`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListRoles(ctx, &controlpb.ListRolesRequest{})
				if err != nil {
					return err
				}
				for _, v := range r.GetRoles() {
					if v.GetName() == got[0] {
						fmt.Fprint(a.Stdout, printableText(v.GetText()))
						return nil
					}
				}
				return failf(ExitError, "there is no role %q: `redoubt auth role ls` lists them", got[0])
			})
		},
	}
	c.ValidArgsFunction = a.names(1, roleNames)
	return c
}

func (a *app) authRoleCreateCmd() *cobra.Command {
	req := &controlpb.CreateRoleRequest{}
	c := &cobra.Command{
		Use: "create [flags] ROLE", Short: "Make a role of verbs",
		Example: `  redoubt auth role create --verb node.list --verb node.update drainer`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			if req.Name = got[0]; len(req.Verbs) == 0 {
				return usagef("--verb: name one at least, see `redoubt auth verbs`")
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.CreateRole(ctx, req)
				if err == nil {
					fmt.Fprintln(a.Stdout, req.Name)
				}
				return err
			})
		},
	}
	c.Flags().StringSliceVar(&req.Verbs, "verb", nil, "a verb that it permits")
	c.Flags().StringVar(&req.Description, "description", "", "what it is for")
	_ = c.RegisterFlagCompletionFunc("verb", a.names(-1, verbNames)) // fails only where a flag gets two
	return c
}

func (a *app) authRoleRmCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "rm ROLE...", Aliases: []string{"remove"}, Short: "Remove roles that nobody has",
		Example: `  redoubt auth role rm drainer`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				_, err := api.RemoveRole(ctx, &controlpb.RemoveRoleRequest{Name: n})
				return n, err
			})
		},
	}
	c.ValidArgsFunction = a.names(-1, roleNames)
	return c
}

func (a *app) authBindCmd() *cobra.Command {
	var labels []string
	c := &cobra.Command{
		Use: "bind [flags] ROLE WHO", Short: "Give somebody a role",
		Long: `bind gives a role to person:NAME, user:NAME@NODE or root:NODE. With --label it
is only for what has all of these labels, and for nothing else: no listing of
all, and no change by which something gets or loses them.`,
		Example: `  redoubt auth bind viewer user:ann@manager-1
  redoubt auth bind --label com.docker.stack.namespace=shop deployer person:bob`,
		Args: args(2, 2),
		RunE: func(c *cobra.Command, got []string) error {
			l, err := keyValues("--label", labels)
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.Bind(ctx, &controlpb.BindRequest{Role: got[0], Principal: got[1], Labels: l})
				if err == nil {
					fmt.Fprintf(a.Stdout, "%s has the role %s\n", got[1], got[0])
				}
				return err
			})
		},
	}
	c.Flags().StringArrayVar(&labels, "label", nil, "KEY=VALUE that what it is for has")
	return c
}

func (a *app) authUnbindCmd() *cobra.Command {
	var labels []string
	c := &cobra.Command{
		Use: "unbind [flags] ROLE WHO", Short: "Take a role from somebody",
		Long:    `unbind takes back what bind gave, with the same labels. The last person who is security-admin stays one.`,
		Example: `  redoubt auth unbind viewer user:ann@manager-1`,
		Args:    args(2, 2),
		RunE: func(c *cobra.Command, got []string) error {
			l, err := keyValues("--label", labels)
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.Unbind(ctx, &controlpb.UnbindRequest{Role: got[0], Principal: got[1], Labels: l})
				if err == nil {
					fmt.Fprintf(a.Stdout, "%s has the role %s no more\n", got[1], got[0])
				}
				return err
			})
		},
	}
	c.Flags().StringArrayVar(&labels, "label", nil, "KEY=VALUE of the binding")
	return c
}

// bindingJSON is one binding in `auth bindings --format json`.
type bindingJSON struct {
	Principal string            `json:"principal"`
	Role      string            `json:"role"`
	Labels    map[string]string `json:"labels"`
	Implied   bool              `json:"implied"`
}

func (a *app) authBindingsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "bindings", Short: "List who has which role",
		Example: `  redoubt auth bindings`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListBindings(ctx, &controlpb.ListBindingsRequest{})
				if err != nil {
					return err
				}
				objects := []bindingJSON{}
				var rows [][]string
				for _, v := range r.GetBindings() {
					o := bindingJSON{v.GetPrincipal(), v.GetRole(), v.GetLabels(), v.GetImplied()}
					on := pairs(o.Labels)
					switch {
					case o.Implied:
						on = "everything, without a binding"
					case on == "":
						on = "everything"
					}
					objects = append(objects, o)
					rows = append(rows, []string{o.Principal, o.Role, on})
				}
				return out.list(a.Stdout, nil, objects, []string{"WHO", "ROLE", "FOR"}, rows)
			})
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) authVerbsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "verbs", Short: "List what can be permitted",
		Example: `  redoubt auth verbs`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListVerbs(ctx, &controlpb.ListVerbsRequest{})
				if err != nil {
					return err
				}
				var names []string
				objects := []verbJSON{}
				var rows [][]string
				for _, v := range r.GetVerbs() {
					names, objects = append(names, v.GetName()), append(objects, verbJSON{v.GetName(), v.GetOn()})
					rows = append(rows, []string{v.GetName(), strings.Join(v.GetOn(), ", ")})
				}
				return out.list(a.Stdout, names, objects, []string{"VERB", "DONE TO"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

// verbJSON is one verb in `auth verbs --format json`.
type verbJSON struct {
	Name string   `json:"name"`
	On   []string `json:"on"`
}

func roleNames(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListRoles(ctx, &controlpb.ListRolesRequest{})
	for _, v := range r.GetRoles() {
		out = append(out, v.GetName())
	}
	return out, err
}

func verbNames(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListVerbs(ctx, &controlpb.ListVerbsRequest{})
	for _, v := range r.GetVerbs() {
		out = append(out, v.GetName())
	}
	return out, err
}
