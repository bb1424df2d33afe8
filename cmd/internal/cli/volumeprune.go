package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) volumePruneCmd() *cobra.Command {
	var w volumeWait
	var filter filterFlag
	var force, dry bool
	c := &cobra.Command{
		Use: "prune", Short: "Remove the volumes that nothing uses, after showing them",
		Long: `prune removes all volumes that no service names and no task has, with their data on
all nodes: there is no way back. It lists them and asks; --force lists them and does
not. What a service began to use in between stays.`,
		Example: `  redoubt volume prune --dry-run
  redoubt volume prune --filter label=team=web`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if in, ok := a.Stdin.(*os.File); !force && !dry && (!ok || !term.IsTerminal(int(in.Fd()))) {
				return usagef("nobody is at a terminal to say yes: look at what `redoubt volume prune --dry-run` lists, and give --force")
			}
			var unused []*controlpb.VolumeDetail
			err := a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListVolumes(ctx, nil)
				for _, v := range all {
					if volumeState(v) == volumeUnused && filter.label(v.GetVolume().GetSpec().GetLabels()) {
						unused = append(unused, v)
					}
				}
				return err
			})
			if err != nil || len(unused) == 0 {
				return err
			}
			var out output
			var rows [][]string
			for _, v := range unused {
				o := volumeView(v)
				rows = append(rows, o.cells(&out))
			}
			if err := table(a.Stdout, volumeHead, rows); err != nil || dry {
				return err
			}
			if !force {
				fmt.Fprintf(a.Stderr, "Delete the data of %s on all nodes? [y/N] ", plural(len(unused), "volume"))
				if !saysYes(a.Stdin) {
					return failf(ExitError, "nothing was removed")
				}
			}
			return a.within(c.Context(), callTimeout+w.timeout, func(ctx context.Context, api *api) error {
				return a.pruneVolumes(ctx, api, unused, w)
			})
		},
	}
	w.add(c)
	c.Flags().BoolVar(&force, "force", false, "do not ask")
	c.Flags().BoolVar(&dry, "dry-run", false, "list what would be removed, and do nothing")
	filter.add(c, "label")
	return c
}

// pruneVolumes removes those of them that nothing uses now, and says which stay.
func (a *app) pruneVolumes(ctx context.Context, api *api, unused []*controlpb.VolumeDetail, w volumeWait) error {
	removed, names := map[string]string{}, map[string]string{} // by id
	for _, v := range unused {
		names[v.GetVolume().GetId()] = v.GetVolume().GetSpec().GetName()
	}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(names)), maxPruned) {
		r, err := api.PruneVolumes(ctx, &controlpb.PruneVolumesRequest{Volumes: ids})
		if err != nil {
			return apiclient.Err(err)
		}
		for _, id := range r.GetRemoved() {
			removed[id] = names[id]
			fmt.Fprintln(a.Stdout, printable(names[id]))
		}
		for _, id := range slices.Sorted(maps.Keys(r.GetKept())) {
			fmt.Fprintf(a.Stderr, "redoubt: warning: volume %s stays: %s\n", printable(names[id]), printable(r.GetKept()[id]))
		}
	}
	return a.awaitNoVolumes(ctx, api, removed, w)
}
