package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func (a *app) nodeUpdateCmd() *cobra.Command {
	var (
		availability, role string
		add, rm            []string
		deadline           nonNegative
	)
	c := &cobra.Command{
		Use: "update [flags] NODE", Short: "Change a node's availability or labels",
		Example: `  # Move its tasks elsewhere
  redoubt node update --availability drain worker-1

  # At most five minutes after this, whatever their stop grace
  redoubt node update --availability drain --drain-deadline 5m worker-1

  redoubt node update --label-add disk=ssd --label-rm rack worker-1`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			if role != "" {
				return usagef("--role: use `redoubt node promote` and `redoubt node demote`")
			}
			req, err := nodeUpdate(names[0], availability, add, rm)
			if err != nil {
				return err
			}
			if deadline > 0 && availability != "drain" {
				return usagef("--drain-deadline is for --availability drain")
			}
			req.DrainDeadlineNs = int64(deadline)
			return a.each(c.Context(), names, func(ctx context.Context, api *api, _ string) (string, error) {
				r, err := api.UpdateNode(ctx, req)
				return r.GetNode().GetId(), err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&availability, "availability", "", "active, pause, drain or auto")
	f.Var(&deadline, "drain-deadline", "with drain: kill what still runs there after so long")
	f.StringArrayVar(&add, "label-add", nil, "add or change a label (key=value)")
	f.StringArrayVar(&rm, "label-rm", nil, "remove a label (key)")
	f.StringVar(&role, "role", "", "use promote and demote: refused")
	return c
}

func nodeUpdate(node, availability string, add, rm []string) (*controlpb.UpdateNodeRequest, error) {
	req := &controlpb.UpdateNodeRequest{Node: node, LabelRm: rm}
	switch availability {
	case "":
	case "active", "pause", "drain", "auto":
		req.Availability = schedulerpb.Availability(schedulerpb.Availability_value["AVAILABILITY_"+strings.ToUpper(availability)])
	default:
		return nil, usagef("--availability %q: use active, pause, drain or auto", availability)
	}
	var err error
	if req.LabelAdd, err = keyValues("--label-add", add); err != nil {
		return nil, err
	}
	for _, k := range rm {
		if _, both := req.LabelAdd[k]; both || k == "" {
			return nil, usagef("--label-rm %q: give a key that is not added in the same command", k)
		}
	}
	if availability == "" && len(add) == 0 && len(rm) == 0 {
		return nil, usagef("nothing to change: give --availability, --label-add or --label-rm")
	}
	return req, nil
}
