package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
)

func (a *app) initCmd() *cobra.Command {
	var advertise string
	pools := &meshpb.Pools{}
	c := &cobra.Command{
		Use:   "init [--advertise HOST[:PORT]]",
		Short: "Make a new cluster with this machine as its first manager",
		Long: `init makes a new cluster. It first makes the operator key and prints it, once,
to stdout: write it down. Only its public half is sent to the node. Every
manager needs the key after a restart (redoubt unlock), and nothing can bring
a lost one back.

Networks take their addresses from pools, which are chosen now and for good.
Addresses that the machines reach already are no good for that: init warns of
those that it sees on this one.`,
		Example: `  redoubt init
  redoubt init --advertise 192.0.2.10 --network-pool 172.20.0.0/14`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return a.runInit(c.Context(), advertise, pools) },
	}
	defaults := meshspec.DefaultPools("")
	c.Flags().StringVar(&pools.Networks, "network-pool", "", "CIDR that networks get their IPv4 subnets from (default "+defaults.Networks+")")
	c.Flags().StringVar(&pools.Networks6, "network-pool6", "", "CIDR that networks get their IPv6 subnets from (default: a /48 of the cluster's own)")
	c.Flags().StringVar(&pools.Nodes, "node-pool", "", "CIDR of the nodes' addresses inside the tunnels (default "+defaults.Nodes+")")
	c.Flags().StringVar(&pools.Ingress6, "ingress-pool6", "", "the same of IPv6 (default: made from the cluster's id)")
	c.Flags().StringVar(&pools.Ingress, "ingress-pool", "", "CIDR that published ports are carried in (default "+defaults.Ingress+")")
	c.Flags().StringVar(&advertise, "advertise", "", "address other nodes reach this one at (default: from the configuration)")
	alias(c.Flags(), "advertise-addr", "advertise")
	return c
}

func (a *app) runInit(ctx context.Context, advertise string, pools *meshpb.Pools) error {
	advertise, err := withPort(advertise)
	if err != nil {
		return usagef("--advertise: %v", err)
	}
	whole, err := meshspec.Pools(pools, "")
	if err != nil {
		return usagef("%v", err)
	}
	if proto.Equal(pools, &meshpb.Pools{}) {
		pools = nil
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
		a.warn(poolWarnings(whole, hostRoutes()))
		key, err := a.showNewKey("Operator key")
		if err != nil {
			return err
		}
		defer key.Wipe()
		r, err := c.Init(ctx, &controlpb.InitRequest{Slot: key.Slot(), Advertise: advertise, Pools: pools})
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
