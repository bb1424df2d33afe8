package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
)

func (a *app) stackRmCmd() *cobra.Command {
	var w waitFlags
	c := &cobra.Command{
		Use: "rm STACK...", Aliases: []string{"remove", "down"}, Short: "Remove stacks, with all that is theirs",
		Long: `rm removes the services of a stack, waits until their tasks have stopped, and removes
its policies, configs, secrets and networks. What a service of no stack, or of another
one, uses stays, and is said. It ends with 3 where tasks have not stopped in time.`,
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
		return a.sayLeft(left, err)
	})
}
