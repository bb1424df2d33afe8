package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
)

func (a *app) stackRmCmd() *cobra.Command {
	var w waitFlags
	c := &cobra.Command{
		Use: "rm STACK...", Aliases: []string{"remove", "down"}, Short: "Remove stacks, with all that is theirs but volumes",
		Long: `rm removes the services of a stack, waits until their tasks have stopped, and removes
its policies, configs, secrets and networks. What a service of no stack, or of another
one, uses stays, and is said; so do its volumes, with their data: redoubt volume rm
removes them. It ends with 3 where tasks have not stopped in time.`,
		Example: `  redoubt stack rm shop`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			for _, name := range names {
				if err := a.removeStack(c.Context(), name, w); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVarP(&w.detach, "detach", "d", false, "do not wait until tasks have stopped: what they have stays")
	f.DurationVar(&w.timeout, "timeout", defaultWait, "how long to wait (exit code 3 after that)")
	return c
}

func (a *app) removeStack(ctx context.Context, name string, w waitFlags) error {
	return a.within(ctx, callTimeout+w.timeout, func(ctx context.Context, c *api) error {
		have, err := stack.Read(ctx, c, nil)
		if err != nil {
			return err
		}
		plan := stack.Removal(name, have)
		if len(plan.Steps) == 0 {
			return noStack(name)
		}
		wait, cancel := context.WithTimeout(ctx, w.timeout)
		defer cancel()
		ap := &stack.Applier{API: c, Done: a.stepDone}
		left, err := ap.Remove(wait, plan, have, !w.detach)
		if err == nil {
			a.sayVolumes(ctx, c, name)
		}
		return a.sayLeft(left, err)
	})
}

// sayVolumes tells of the volumes that a stack leaves, to whoever may list them.
func (a *app) sayVolumes(ctx context.Context, c *api, name string) {
	all, _ := c.ListVolumes(ctx, nil) // it is said for convenience, and nothing hangs on it
	for _, v := range all {
		if v.GetVolume().GetSpec().GetLabels()[stack.Label] == name {
			fmt.Fprintf(a.Stderr, "redoubt: warning: volume %s stays, with its data: redoubt volume rm removes it\n", printable(v.GetVolume().GetSpec().GetName()))
		}
	}
}
