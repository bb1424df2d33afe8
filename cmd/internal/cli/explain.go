package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) serviceExplainCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "explain SERVICE|TASK", Short: "Say why tasks do not run, and where they could",
		Long: `explain asks the scheduler's own rules about every node: which could run one more
task of the service, what speaks against the others, and which command would
mend it. For a task that waits (web.7) it says what it waits for.`,
		Example: `  redoubt service explain web.7
  redoubt service explain web`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.Explain(ctx, &controlpb.ExplainRequest{Target: names[0]})
				if err != nil {
					return err
				}
				if out.structured() {
					return out.objects(a.Stdout, protoJSON(r))
				}
				return a.printExplained(r)
			})
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) printExplained(r *controlpb.ExplainResponse) error {
	for i, line := range r.Summary {
		if i > 0 {
			line = "  " + line
		}
		fmt.Fprintln(a.Stdout, printable(line))
	}
	if len(r.Nodes) > 0 {
		fmt.Fprintln(a.Stdout)
		var rows [][]string
		for _, n := range r.Nodes {
			verdict := "can run one more"
			if n.Reason != "" {
				verdict = "no: " + n.Reason
			}
			rows = append(rows, []string{nodeLabel(n.Name, n.NodeId), verdict, strconv.Itoa(int(n.ServiceTasks)), strconv.Itoa(int(n.Tasks))})
		}
		if err := table(a.Stdout, []string{"NODE", "VERDICT", "OF THIS SERVICE", "TASKS"}, rows); err != nil {
			return err
		}
		if r.More > 0 {
			fmt.Fprintf(a.Stdout, "and %s\n", plural(int(r.More), "node"))
		}
	}
	if len(r.Remedies) > 0 {
		fmt.Fprintln(a.Stdout, "\nWhat may help:")
		for _, cmd := range r.Remedies {
			fmt.Fprintln(a.Stdout, "  "+printable(cmd))
		}
	}
	return nil
}
