package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
)

func (a *app) stackCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "stack", Short: "Run what compose files describe",
		Long: `stack has services, networks, volumes, secrets, configs and network policies come out of
compose files, as one thing that is deployed, looked at and removed. All of a stack
is called <stack>_<name> and carries the label ` + stack.Label + `.`,
	}
	group(c)
	c.AddCommand(a.stackDeployCmd(), a.stackLsCmd(), a.stackPsCmd(), a.stackServicesCmd(), a.stackConfigCmd(), a.stackRmCmd())
	return c
}

// stackJSON is one stack in `stack ls --format json`.
type stackJSON struct {
	Name     string `json:"name"`
	Services int    `json:"services"`
	Running  uint64 `json:"running"`
	Wanted   uint64 `json:"wanted"`
}

// stacks are those that have services, by name.
func stacks(ctx context.Context, api *api) ([]stackJSON, error) {
	r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{})
	if err != nil {
		return nil, err
	}
	all := map[string]stackJSON{}
	for _, v := range r.GetServices() {
		name := v.GetService().GetSpec().GetLabels()[stack.Label]
		if name == "" {
			continue
		}
		s := all[name]
		s.Name, s.Services, s.Running, s.Wanted = name, s.Services+1, s.Running+v.GetRunning(), s.Wanted+v.GetWanted()
		all[name] = s
	}
	out := []stackJSON{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name])
	}
	return out, nil
}

func stackNames(ctx context.Context, api *api) (out []string, err error) {
	all, err := stacks(ctx, api)
	for _, s := range all {
		out = append(out, s.Name)
	}
	return out, err
}

func (a *app) stackLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List stacks",
		Example: `  redoubt stack ls
  redoubt stack ls --format '{{.Name}} {{.Running}}/{{.Wanted}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := stacks(ctx, api)
				if err != nil {
					return err
				}
				var names []string
				var rows [][]string
				for _, s := range all {
					names = append(names, s.Name)
					rows = append(rows, []string{s.Name, fmt.Sprint(s.Services), fmt.Sprintf("%d/%d", s.Running, s.Wanted)})
				}
				return out.list(a.Stdout, names, all, []string{"NAME", "SERVICES", "TASKS"}, rows)
			})
		},
	}
	out.flags(c, false)
	c.Flags().BoolVarP(&out.quiet, "quiet", "q", false, "print names only")
	return c
}

// servicesOf are a stack's, which has at least one.
func servicesOf(ctx context.Context, api *api, name string) ([]*controlpb.ServiceView, error) {
	r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{})
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(r.GetServices(), func(v *controlpb.ServiceView) bool {
		return v.GetService().GetSpec().GetLabels()[stack.Label] != name
	})
	if len(all) == 0 {
		return nil, noStack(name)
	}
	return all, nil
}

func noStack(name string) error {
	return apierr.NotFound("list them with `redoubt stack ls`", "no stack %q", name)
}

func (a *app) stackServicesCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "services STACK", Short: "List the services of a stack",
		Example: `  redoubt stack services shop`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				views, err := servicesOf(ctx, api, names[0])
				if err != nil {
					return err
				}
				return a.printServices(&out, &filter, views)
			})
		},
	}
	serviceListFlags(c, &out, &filter)
	return c
}

func (a *app) stackPsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "ps STACK", Short: "List the tasks of a stack",
		Example: `  redoubt stack ps shop
  redoubt stack ps --filter desired-state=running shop`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				views, err := servicesOf(ctx, api, names[0])
				if err != nil {
					return err
				}
				var ids []string
				for _, v := range views {
					ids = append(ids, v.GetService().GetId())
				}
				r, err := api.ListTasks(ctx, &controlpb.ListTasksRequest{Services: ids})
				if err != nil {
					return err
				}
				tasks := slices.DeleteFunc(r.GetTasks(), func(t *controlpb.TaskView) bool { return !taskMatches(&filter, t) })
				if err := a.printTasks(&out, tasks, time.Now()); err != nil || out.structured() {
					return err
				}
				return a.sayHeld(ctx, api, ids)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "node", "state="+taskStates, "desired-state=running|shutdown")
	return c
}
