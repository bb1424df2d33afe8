package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) initCmd() *cobra.Command {
	var advertise string
	c := &cobra.Command{
		Use:   "init [--advertise HOST[:PORT]]",
		Short: "Make a new cluster with this machine as its first manager",
		Long: `init makes a new cluster. It first makes the operator key and prints it, once,
to stdout: write it down. Only its public half is sent to the node. Every
manager needs the key after a restart (redoubt unlock), and nothing can bring
a lost one back.`,
		Example: `  redoubt init
  redoubt init --advertise 192.0.2.10`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return a.runInit(c.Context(), advertise) },
	}
	c.Flags().StringVar(&advertise, "advertise", "", "address other nodes reach this one at (default: from the configuration)")
	alias(c.Flags(), "advertise-addr", "advertise")
	return c
}

func (a *app) runInit(ctx context.Context, advertise string) error {
	advertise, err := withPort(advertise)
	if err != nil {
		return usagef("--advertise: %v", err)
	}
	return a.with(ctx, func(ctx context.Context, c *api) error {
		// A node that cannot be initialised is said before a key is shown.
		st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
		if err != nil {
			return err
		}
		if st.Phase != controlpb.NodePhase_NODE_PHASE_EMPTY && st.Phase != controlpb.NodePhase_NODE_PHASE_REMOVED {
			return apierr.InCluster(st.ClusterId)
		}
		key, err := a.showNewKey("Operator key")
		if err != nil {
			return err
		}
		defer key.Wipe()
		r, err := c.Init(ctx, &controlpb.InitRequest{Slot: key.Slot(), Advertise: advertise})
		if err != nil {
			e := apierr.Decode(err)
			switch e.Reason {
			case apierr.ReasonTimeout, apierr.ReasonUnreachable, apierr.ReasonCanceled, apierr.ReasonInternal:
				fmt.Fprintln(a.Stderr, "redoubt: keep the key above until `redoubt status` says whether the cluster was made")
			default:
				fmt.Fprintln(a.Stderr, "redoubt: the key above opens nothing: no cluster was made with it")
			}
			return err
		}
		fmt.Fprintf(a.Stdout, `Cluster %s made; this node (%s) is its first manager.

To add a worker or a manager, run here and follow what it prints:

    redoubt join-token worker
    redoubt join-token manager
`, r.ClusterId, shortID(r.NodeId))
		return nil
	})
}

// showNewKey makes an operator key and prints it, before anything that could
// commit it. If it cannot be printed it is not used.
func (a *app) showNewKey(title string) (*autolock.OperatorKey, error) {
	key := autolock.NewOperatorKey()
	_, err := fmt.Fprintf(a.Stdout, `%s (shown this once; write it down and keep it off this machine):

    %s

`, title, key.String())
	if err != nil {
		return nil, fmt.Errorf("the key could not be shown, so nothing was done: %w", err)
	}
	return &key, nil
}
