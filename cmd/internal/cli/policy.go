package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
)

func (a *app) policyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Which services may reach which on a network",
		Long: "policy keeps rules of networks made with --default-deny.",
	}
	group(c)
	c.AddCommand(a.policyCreateCmd(), a.policyLsCmd(), a.policyInspectCmd(), a.policyRmCmd(), a.policyExplainCmd())
	return c
}

func (a *app) policyCreateCmd() *cobra.Command {
	spec := &meshpb.PolicySpec{}
	var allow, labels []string
	c := &cobra.Command{
		Use: "create [flags] POLICY", Short: "Make a policy",
		Example: `  redoubt policy create --network db --allow 'service:web->service:db:tcp/5432' web-to-db`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) (err error) {
			spec.Name = got[0]
			if spec.Labels, err = keyValues("--label", labels); err != nil {
				return err
			}
			for _, text := range allow {
				r, err := meshspec.ParseRule(text)
				if err != nil {
					return usagef("--allow: %v", err)
				}
				spec.Rules = append(spec.Rules, r)
			}
			if _, err := meshspec.Policy(spec); err != nil {
				return usagef("%v", err)
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.CreatePolicy(ctx, &controlpb.CreatePolicyRequest{Spec: spec})
				if err == nil {
					a.warn(r.GetWarnings())
					fmt.Fprintln(a.Stdout, printable(r.GetId()))
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&spec.Network, "network", "", "the network that it is for")
	c.Flags().StringArrayVar(&allow, "allow", nil, "service:FROM->service:TO[:tcp[/5432[-5439]]]")
	c.Flags().StringArrayVar(&labels, "label", nil, "label of the policy")
	_ = c.RegisterFlagCompletionFunc("network", a.names(-1, networkNames)) // fails only where a flag gets two
	return c
}

// policyJSON is one policy in `policy ls --format json`.
type policyJSON struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Network string            `json:"network"`
	Rules   []string          `json:"rules"`
	Labels  map[string]string `json:"labels"`
}

func policyOf(v *controlpb.PolicyDetail) policyJSON {
	p := v.GetPolicy()
	o := policyJSON{p.GetId(), p.GetSpec().GetName(), v.GetNetworkName(), []string{}, p.GetSpec().GetLabels()}
	for _, r := range p.GetSpec().GetRules() {
		o.Rules = append(o.Rules, meshspec.FormatRule(r))
	}
	return o
}

func (a *app) policyLsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List policies",
		Example: `  redoubt policy ls --filter network=db`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListPolicies(ctx, nil)
				if err != nil {
					return err
				}
				var ids []string
				objects := []policyJSON{}
				var rows [][]string
				for _, v := range all {
					o := policyOf(v)
					if !filter.begins("id", o.ID) || !filter.begins("name", o.Name) || !filter.begins("network", o.Network) || !filter.label(o.Labels) {
						continue
					}
					ids, objects = append(ids, o.ID), append(objects, o)
					rows = append(rows, []string{out.id(o.ID), o.Name, o.Network, fmt.Sprint(len(o.Rules))})
				}
				return out.list(a.Stdout, ids, objects, []string{"ID", "NAME", "NETWORK", "RULES"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "network", "label")
	return c
}

func (a *app) policyInspectCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "inspect POLICY...", Short: "Show policies with their rules",
		Example: `  redoubt policy inspect web-to-db`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListPolicies(ctx, names)
				if err != nil {
					return err
				}
				if out.structured() {
					return printProtos(a.Stdout, &out, all)
				}
				for i, v := range all {
					if i > 0 {
						fmt.Fprintln(a.Stdout)
					}
					o := policyOf(v)
					field(a.Stdout, "ID", o.ID)
					field(a.Stdout, "Name", o.Name)
					field(a.Stdout, "Labels", pairs(o.Labels))
					field(a.Stdout, "Created", time.Unix(0, v.GetPolicy().GetMeta().GetCreatedAt()).UTC().Format(time.RFC3339))
					field(a.Stdout, "Network", o.Network)
					for _, r := range o.Rules {
						field(a.Stdout, "Allow", r)
					}
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) policyRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm POLICY...", Aliases: []string{"remove"}, Short: "Remove policies",
		Example: `  redoubt policy rm web-to-db`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				_, err := api.RemovePolicy(ctx, &controlpb.RemovePolicyRequest{Policy: n})
				return n, err
			})
		},
	}
}

func (a *app) policyExplainCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "explain FROM TO [PORT]", Short: "Say whether one service may reach another, and why",
		Long: `explain looks at every network that both services are on and says which rule lets
tasks of the first open flows to tasks of the second, or that none does. PORT is
5432 (of tcp), tcp/5432, udp/53 or icmp; without it, it is about everything.
It ends with status 1 where nothing passes.`,
		Example: `  redoubt policy explain web db 5432`,
		Args:    args(2, 3),
		RunE: func(c *cobra.Command, got []string) error {
			req := &controlpb.ExplainPolicyRequest{FromService: got[0], ToService: got[1]}
			if len(got) == 3 {
				var err error
				if req.Protocol, req.Port, err = meshspec.ParseTraffic(got[2]); err != nil {
					return usagef("%v", err)
				}
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ExplainPolicy(ctx, req)
				if err != nil {
					return err
				}
				if out.structured() {
					err = out.objects(a.Stdout, protoJSON(r))
				} else {
					err = a.printPolicyExplained(r)
				}
				if err == nil && !r.GetAllowed() {
					err = failf(ExitError, "%s cannot reach %s", r.GetFromService(), r.GetToService())
				}
				return err
			})
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) printPolicyExplained(r *controlpb.ExplainPolicyResponse) error {
	if r.GetReason() != "" {
		fmt.Fprintln(a.Stdout, printable(r.GetReason()))
	}
	var rows [][]string
	for _, v := range r.GetNetworks() {
		says := "denied"
		if v.GetAllowed() {
			says = "allowed"
		}
		rows = append(rows, []string{v.GetNetworkName(), says, v.GetReason()})
	}
	if len(rows) > 0 {
		if err := table(a.Stdout, []string{"NETWORK", "VERDICT", "WHY"}, rows); err != nil {
			return err
		}
	}
	if len(r.GetRemedies()) > 0 {
		fmt.Fprintln(a.Stdout, "\nWhat may help:")
		for _, cmd := range r.GetRemedies() {
			fmt.Fprintln(a.Stdout, "  "+printable(cmd))
		}
	}
	return nil
}

func policyNames(ctx context.Context, api *api) (out []string, err error) {
	all, err := api.ListPolicies(ctx, nil)
	for _, v := range all {
		out = append(out, v.GetPolicy().GetSpec().GetName())
	}
	return out, err
}
