package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) autolockCmd() *cobra.Command {
	c := &cobra.Command{Use: "autolock", Short: "Say whether managers open by themselves"}
	group(c)
	for _, on := range []bool{false, true} {
		var force bool
		var wait time.Duration
		use, short, long := "off", "Have managers open by themselves, with a key on their disks",
			`off has each manager's keyd keep a key in a file of its own, by which it opens
itself when it starts. Whoever gets a manager's disk, a copy or a snapshot of it
then has the whole cluster: its state, its keys, its secrets. It is told of in
status and node ls as long as it lasts.`
		if on {
			use, short, long = "on", "Have managers stay locked until somebody opens them", `on has each manager forget the key on its disk and makes a new key-encryption
key. A copy of the disk of before opens as before: rotate the stores' keys next,
and take care of such copies. It is refused while a manager is away, unless
--force is given.`
		}
		sub := &cobra.Command{
			Use: use, Short: short, Long: long, Example: "  redoubt autolock " + use, Args: args(0, 0),
			RunE: func(c *cobra.Command, _ []string) error {
				what := map[bool]string{true: "people's slots alone: autolock is on", false: "a key on its own disk too: autolock is off"}[on]
				return a.changeSlots(c.Context(), wait, what, func(ctx context.Context, c *api) (func() (*controlpb.RotateSlotResponse, error), error) {
					stream, err := c.SetAutolock(ctx, &controlpb.SetAutolockRequest{On: on, Force: force})
					if err != nil {
						return nil, err
					}
					return stream.Recv, nil
				})
			},
		}
		if on {
			sub.Flags().BoolVarP(&force, "force", "f", false, "also while a manager is away")
		}
		sub.Flags().DurationVar(&wait, "timeout", rotateWait, "how long to wait for every manager")
		c.AddCommand(sub)
	}
	return c
}

// changeSlots has the leader change the slots, and follows it.
func (a *app) changeSlots(ctx context.Context, wait time.Duration, what string, begin func(context.Context, *api) (func() (*controlpb.RotateSlotResponse, error), error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, c, done, err := a.reach(ctx, wait)
	if err != nil {
		return err
	}
	defer done()
	recv, err := begin(ctx, c)
	if err != nil {
		return apiclient.Err(err)
	}
	return a.followSlots(cancel, recv, what, "")
}
