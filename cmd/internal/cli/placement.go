package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func (a *app) placementCmd() *cobra.Command {
	c := &cobra.Command{Use: "placement", Short: "See and change how nodes are chosen"}
	group(c)
	c.AddCommand(a.placementShowCmd(), a.placementSetCmd())
	return c
}

// placementJSON is `placement show --format json`.
type placementJSON struct {
	Strategy string `json:"strategy"`
}

func (a *app) placementShowCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "show", Short: "Show how nodes are chosen for services that do not say", Example: `  redoubt placement show`, Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.GetPlacement(ctx, &controlpb.GetPlacementRequest{})
				if err != nil {
					return err
				}
				if out.structured() {
					return out.objects(a.Stdout, placementJSON{strategyName(r.GetStrategy())})
				}
				a.printPlacement(r.GetStrategy())
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) printPlacement(s taskpb.Strategy) {
	field(a.Stdout, "Strategy", printable(strategyName(s)))
}

func (a *app) placementSetCmd() *cobra.Command {
	var s clusterStrategy
	c := &cobra.Command{
		Use: "set --strategy spread|bin-pack", Short: "Change how nodes are chosen for services that do not say",
		Long: `set says how nodes are chosen for the tasks of services that were made without
--placement-strategy: spread gives each to the node with the fewest of the service,
bin-pack fills one node after the other, by what is reserved. A service that
reserves nothing is spread all the same. Tasks that are there stay where they are.`,
		Example: `  redoubt placement set --strategy bin-pack`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if s == "" {
				return usagef("nothing to change: give --strategy spread or --strategy bin-pack")
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.UpdatePlacement(ctx, &controlpb.UpdatePlacementRequest{Strategy: strategy(s).value()})
				if err == nil {
					a.printPlacement(r.GetStrategy())
				}
				return err
			})
		},
	}
	c.Flags().Var(&s, "strategy", "spread or bin-pack")
	fixed(c, "strategy", "spread", "bin-pack")
	return c
}

// clusterStrategy is one that holds where a service has none.
type clusterStrategy string

func (s *clusterStrategy) Type() string   { return "spread|bin-pack" }
func (s *clusterStrategy) String() string { return string(*s) }
func (s *clusterStrategy) Set(text string) error {
	if text != "spread" && text != "bin-pack" {
		return fmt.Errorf("use spread or bin-pack")
	}
	*s = clusterStrategy(text)
	return nil
}
