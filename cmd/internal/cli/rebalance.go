package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) serviceRebalanceCmd() *cobra.Command {
	var w waitFlags
	var stop bool
	c := &cobra.Command{
		Use: "rebalance [flags] SERVICE...", Short: "Move tasks to where they would be placed today",
		Long: `rebalance moves tasks of services, one at a time, where they would be placed
elsewhere if they were placed now: after nodes joined, or came back. Each ends when
another runs in its stead, so no less of the service serves; connections to it
break, as in an update. It ends when no move gains anything, or when a
replacement does not come up, and then leaves what runs where it is (exit code 3).
redoubt service explain says what would move, and why.

A service that was made or updated with --rebalance auto is moved without being asked.`,
		Example: `  redoubt service rebalance web api
  redoubt service rebalance --stop web`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			if stop && c.Flags().Changed("detach") {
				return usagef("--stop waits for nothing: leave --detach out")
			}
			return a.runRebalance(c.Context(), names, stop, w)
		},
	}
	c.Flags().BoolVar(&stop, "stop", false, "move no more of their tasks")
	w.add(c.Flags())
	return c
}

func (a *app) runRebalance(ctx context.Context, names []string, stop bool, w waitFlags) error {
	var ids []string
	err := a.within(ctx, resolveTimeout, func(ctx context.Context, c *api) error {
		for _, name := range names {
			r, err := c.RebalanceService(ctx, &controlpb.RebalanceServiceRequest{Service: name, Stop: stop})
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Stdout, printable(r.GetId()))
			ids = append(ids, r.GetId())
		}
		return nil
	})
	if err != nil || stop || w.detach {
		return err
	}
	w.follows = followsMoves
	if err := a.converge(ctx, ids, w); err != nil || w.quiet {
		return err
	}
	return a.with(ctx, func(ctx context.Context, c *api) error {
		l, err := c.ListServices(ctx, &controlpb.ListServicesRequest{Services: ids})
		if err != nil {
			return err
		}
		for _, s := range l.Services {
			st := s.GetService().GetRebalanceStatus()
			fmt.Fprintf(a.Stderr, "%s: %s: %s\n", printable(s.GetService().GetSpec().GetName()), plural(int(st.GetMoves()), "move"), printable(st.GetMessage()))
		}
		return nil
	})
}
