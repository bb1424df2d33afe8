package cli

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// updateGoesOn returns an error unless the service's update is paused: to ask for
// nothing has it go on.
func updateGoesOn(ctx context.Context, c *api, name string) error {
	l, err := c.ListServices(ctx, &controlpb.ListServicesRequest{Services: []string{name}})
	if err != nil {
		return err
	}
	for _, s := range l.Services {
		switch s.GetService().GetUpdateStatus().GetState() {
		case statePaused, stateRollbackPaused:
			return nil
		}
	}
	return usagef("nothing to change: give at least one flag, or --force to replace every task")
}

func signFlagNames() (names []string) {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(signFlags).add(f)
	f.VisitAll(func(g *pflag.Flag) { names = append(names, g.Name) })
	return names
}

func onlyThese(c *cobra.Command, names ...string) bool {
	n := 0
	for _, name := range names {
		if c.Flags().Changed(name) {
			n++
		}
	}
	return n == c.Flags().NFlag()
}
