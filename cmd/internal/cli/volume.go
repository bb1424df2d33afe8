package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

func (a *app) volumeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "volume", Short: "Data of services that outlives their tasks",
		Long: `volume keeps what containers write and tasks are to find again. A volume is a name
in the cluster, and a directory on each node that had a task with it: what is on
one node is not on another. While there is data that no task of a service uses, its
next task goes to a node that has such data, and waits for it where it is down:
redoubt service explain says so.

Services have volumes by --mount or --volume, which makes those that are not there.
Nothing but volume rm and volume prune deletes data: the end of a service does not.`,
	}
	group(c)
	c.AddCommand(a.volumeCreateCmd(), a.volumeLsCmd(), a.volumeInspectCmd(), a.volumeRmCmd(), a.volumePruneCmd())
	return c
}

func (a *app) volumeCreateCmd() *cobra.Command {
	spec := &taskpb.VolumeSpec{}
	var options, labels []string
	c := &cobra.Command{
		Use: "create [flags] VOLUME", Short: "Make a volume",
		Long: `create makes a volume, of which no node has anything before a task uses it. The
driver is local: a directory of the node. Its option size bounds what each node's
data may be, where the node's file system has project quotas (ext4, XFS); tasks
that have such a volume go to nodes that can.`,
		Example: `  redoubt volume create db
  redoubt volume create --opt size=10GiB --label team=web uploads`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, got []string) (err error) {
			spec.Name = got[0]
			if spec.Labels, err = keyValues("--label", labels); err != nil {
				return err
			}
			if spec.Options, err = keyValues("--opt", options); err != nil {
				return err
			}
			if err := volumes.Check(volumes.Complete(spec)); err != nil {
				return usagef("%v", err)
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.CreateVolume(ctx, &controlpb.CreateVolumeRequest{Spec: spec})
				if err == nil {
					a.warn(r.GetWarnings())
					fmt.Fprintln(a.Stdout, printable(r.GetId()))
				}
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVarP(&spec.Driver, "driver", "d", volumes.Local, "driver of the volume")
	f.StringArrayVarP(&options, "opt", "o", nil, "option of the driver, KEY=VALUE: "+volumes.Size)
	f.StringArrayVar(&labels, "label", nil, "label of the volume")
	fixed(c, "driver", volumes.Local)
	return c
}

// volumeWait says how long a command waits until data is deleted.
type volumeWait struct {
	detach  bool
	timeout time.Duration
}

func (w *volumeWait) add(c *cobra.Command) {
	c.Flags().BoolVar(&w.detach, "detach", false, "do not wait until nodes have deleted the data")
	c.Flags().DurationVar(&w.timeout, "timeout", volumeTimeout, "how long to wait (exit code 3 after that)")
}

func (a *app) volumeRmCmd() *cobra.Command {
	var w volumeWait
	c := &cobra.Command{
		Use: "rm VOLUME...", Aliases: []string{"remove"}, Short: "Remove volumes, with their data on all nodes",
		Long: `rm deletes the data of volumes on every node that has some, and there is no way
back. It is refused while a service or a task uses the volume. It waits until nodes
that are up have deleted it; one that is away does so when it is back, and the
volume's name is not free before, or before that node is removed.`,
		Example: `  redoubt volume rm db`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.within(c.Context(), callTimeout+w.timeout, func(ctx context.Context, api *api) error {
				var last error
				said := map[string]string{} // names as they were given, by id
				for _, n := range names {
					r, err := api.RemoveVolume(ctx, &controlpb.RemoveVolumeRequest{Volume: n})
					if err != nil {
						if last != nil {
							a.printError(last)
						}
						last = apiclient.Err(err)
						continue
					}
					said[r.GetId()] = n
					fmt.Fprintln(a.Stdout, printable(n))
				}
				if err := a.awaitNoVolumes(ctx, api, said, w); err != nil {
					if last != nil {
						a.printError(last)
					}
					return err
				}
				return last
			})
		},
	}
	w.add(c)
	return c
}

// awaitNoVolumes waits until nodes that are up have deleted the data of volumes, which are
// names by id.
func (a *app) awaitNoVolumes(ctx context.Context, api *api, said map[string]string, w volumeWait) error {
	if w.detach || len(said) == 0 {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	tick := time.NewTicker(volumePoll)
	defer tick.Stop()
	for {
		all, err := api.ListVolumes(wait, nil)
		if err != nil && wait.Err() == nil {
			if apierr.ReasonOf(apiclient.Err(err)) == apierr.ReasonDenied { // may remove, and not list: it is on its way
				return nil
			}
			return err
		}
		up, left := "", []*controlpb.VolumeDetail{}
		for _, v := range all {
			name, ok := said[v.GetVolume().GetId()]
			if !ok {
				continue
			}
			left = append(left, v)
			if on := nodesOf(v, false); len(on) > 0 {
				up = fmt.Sprintf("volume %s is still on %s", printable(name), few(on))
			}
		}
		if err == nil && up == "" {
			for _, v := range left {
				if on := nodesOf(v, true); len(on) > 0 {
					fmt.Fprintf(a.Stderr, "redoubt: warning: volume %s is on %s, not heard of now: its data is deleted when it is back, and its name is free then\n",
						printable(v.GetVolume().GetSpec().GetName()), few(on))
				}
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-wait.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if up == "" {
				up = "whether nodes have deleted the data is not known"
			}
			return failf(ExitNotConverged, "%s: `redoubt volume ls` says when it is gone", up)
		}
	}
}

// nodesOf are the names of the nodes that have data of a volume: those that are away, or
// those that are not.
func nodesOf(v *controlpb.VolumeDetail, away bool) (out []string) {
	for _, n := range v.GetNodes() {
		if n.GetAway() == away {
			out = append(out, nodeLabel(n.GetNodeName(), n.GetNodeId()))
		}
	}
	slices.Sort(out)
	return out
}

// few names some of many.
func few(names []string) string {
	if more := len(names) - 2; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:2], ", "), more)
	}
	return strings.Join(names, ", ")
}

func volumeNames(ctx context.Context, api *api) (out []string, err error) {
	all, err := api.ListVolumes(ctx, nil)
	for _, v := range all {
		out = append(out, v.GetVolume().GetSpec().GetName())
	}
	return out, err
}
