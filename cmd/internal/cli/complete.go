package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// completeTimeout bounds how long a shell waits for a list of names.
const completeTimeout = 2 * time.Second

// completion is what fills in names where a shell asks for them.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// names completes with what fetch finds; where the node does not answer, or would be
// asked only after somebody typed a passphrase, there is nothing to offer, and no error
// or question on the operator's line.
func (a *app) names(max int, fetch func(context.Context, *api) ([]string, error)) completion {
	return func(c *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if max >= 0 && len(given) >= max || a.asks() {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var found []string
		err := a.within(c.Context(), completeTimeout, func(ctx context.Context, api *api) (err error) {
			found, err = fetch(ctx, api)
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found = slices.DeleteFunc(found, func(s string) bool { return !strings.HasPrefix(s, prefix) || slices.Contains(given, s) })
		for i := range found {
			found[i] = printable(found[i])
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func serviceNames(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{})
	for _, v := range r.GetServices() {
		out = append(out, v.GetService().GetSpec().GetName())
	}
	return out, err
}

func jobNames(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{})
	for _, v := range r.GetServices() {
		if sp := v.GetService().GetSpec(); spec.IsJob(sp) {
			out = append(out, sp.GetName())
		}
	}
	return out, err
}

func scaleNames(ctx context.Context, api *api) ([]string, error) {
	out, err := serviceNames(ctx, api)
	for i := range out {
		out[i] += "="
	}
	return out, err
}

func configNames(ctx context.Context, api *api) (out []string, err error) {
	all, err := api.ListConfigs(ctx)
	for _, v := range all {
		out = append(out, v.GetName())
	}
	return out, err
}

func secretNames(ctx context.Context, api *api) (out []string, err error) {
	all, err := api.ListSecrets(ctx, nil)
	for _, s := range all {
		out = append(out, s.GetSpec().GetName())
	}
	return out, err
}

// taskNames are services and their tasks.
func taskNames(ctx context.Context, api *api) ([]string, error) {
	out, err := serviceNames(ctx, api)
	if err != nil {
		return nil, err
	}
	r, err := api.ListTasks(ctx, &controlpb.ListTasksRequest{})
	for _, v := range r.GetTasks() {
		out = append(out, taskName(v))
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

func nodeNames(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListNodes(ctx, &controlpb.ListNodesRequest{})
	for _, n := range r.GetNodes() {
		out = append(out, n.GetName())
	}
	return out, err
}

func tokenIDs(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListTokens(ctx, &controlpb.ListTokensRequest{})
	for _, t := range r.GetTokens() {
		if !t.GetRevoked() {
			out = append(out, t.GetRecord().GetId())
		}
	}
	return out, err
}

func personNames(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListPeople(ctx, &controlpb.ListPeopleRequest{})
	for _, p := range r.GetPeople() {
		out = append(out, p.GetName())
	}
	return out, err
}

// contextNames completes with the contexts of this machine.
func (a *app) contextNames(_ *cobra.Command, given []string, prefix string) (out []string, _ cobra.ShellCompDirective) {
	s, err := a.contexts()
	if err == nil {
		all, _ := s.List() // nothing to offer where they cannot be read
		for _, h := range all {
			if strings.HasPrefix(h.Name, prefix) && !slices.Contains(given, h.Name) {
				out = append(out, h.Name)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// fixed completes a flag with the values that it takes.
func fixed(c *cobra.Command, flag string, values ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails only where a flag gets two
}

// completions gives the commands that name objects their completion.
func (a *app) completions(root *cobra.Command) {
	for path, fill := range map[string]completion{
		"service ps": a.names(-1, serviceNames), "service inspect": a.names(-1, serviceNames), "service events": a.names(-1, serviceNames), "service rm": a.names(-1, serviceNames),
		"service update": a.names(1, serviceNames), "service rollback": a.names(1, serviceNames), "service history": a.names(1, serviceNames), "service rebalance": a.names(-1, serviceNames), "service scale": a.names(-1, scaleNames),
		"service run": a.names(1, jobNames), "service runs": a.names(1, jobNames), "service suspend": a.names(-1, jobNames), "service resume": a.names(-1, jobNames),
		"service logs": a.names(1, taskNames), "service exec": a.names(1, taskNames), "service explain": a.names(1, taskNames),
		"config inspect": a.names(-1, configNames), "config rm": a.names(-1, configNames),
		"config update": a.names(1, configNames), "config rollback": a.names(1, configNames), "config grants": a.names(1, configNames),
		"secret inspect": a.names(-1, secretNames), "secret rm": a.names(-1, secretNames),
		"secret update": a.names(1, secretNames), "secret rollback": a.names(1, secretNames), "secret grants": a.names(1, secretNames),
		"identity ls": a.names(1, serviceNames), "identity revoke": a.names(-1, serviceNames), "identity allow": a.names(-1, serviceNames),
		"stack rm": a.names(-1, stackNames), "stack ps": a.names(1, stackNames), "stack services": a.names(1, stackNames), "stack deploy": a.names(1, stackNames),
		"network inspect": a.names(-1, networkNames), "network rm": a.names(-1, networkNames),
		"volume inspect": a.names(-1, volumeNames), "volume rm": a.names(-1, volumeNames),
		"policy inspect": a.names(-1, policyNames), "policy rm": a.names(-1, policyNames), "policy explain": a.names(2, serviceNames),
		"node inspect": a.names(-1, nodeNames), "node update": a.names(1, nodeNames), "node rm": a.names(-1, nodeNames),
		"node promote": a.names(-1, nodeNames), "node demote": a.names(-1, nodeNames),
		"node rotate-mesh-key": a.names(-1, nodeNames), "node revoke": a.names(-1, nodeNames),
		"join-token revoke": a.names(-1, tokenIDs),
		"person revoke":     a.names(-1, personNames), "person rm": a.names(-1, personNames), "person invite": a.names(1, personNames),
		"compliance get": a.names(1, reportNumbers), "compliance waiver approve": a.names(1, waiverIDs), "compliance waiver rm": a.names(-1, waiverIDs),
		"audit witness rm": a.names(1, witnessNames), "break-glass ack": a.names(1, brokenGlasses),
		"auth bind": a.bindings(), "auth unbind": a.bindings(),
		"context use": a.contextNames, "context show": a.contextNames, "context rm": a.contextNames,
	} {
		c, _, err := root.Find(strings.Fields(path))
		if err != nil || c.CommandPath() != "redoubt "+path {
			panic("completion of " + path + ", which is no command")
		}
		c.ValidArgsFunction = fill
	}
	a.flagCompletions(root)
}

// flagCompletions gives flags that name objects, or one of a few words, their completion.
func (a *app) flagCompletions(root *cobra.Command) {
	find := func(path ...string) *cobra.Command {
		c, _, _ := root.Find(path) // the tree's own
		return c
	}
	named := func(c *cobra.Command, fill completion, flags ...string) {
		for _, flag := range flags {
			if c.Flags().Lookup(flag) != nil {
				_ = c.RegisterFlagCompletionFunc(flag, fill) // fails only where a flag gets two
			}
		}
	}
	fixed(find("node", "update"), "availability", "active", "pause", "drain")
	fixed(find("service", "create"), "mode", modes...)
	named(find("service", "ps"), a.names(-1, nodeNames), "node")
	for _, name := range []string{"create", "update"} {
		c := find("service", name)
		fixed(c, "update-order", "stop-first", "start-first")
		fixed(c, "rollback-order", "stop-first", "start-first")
		fixed(c, "update-failure-action", "pause", "continue", "rollback")
		fixed(c, "rollback-failure-action", "pause", "continue")
		fixed(c, "concurrency", "forbid", "allow", "replace")
		fixed(c, "endpoint-mode", "vip", "dnsrr")
		fixed(c, "restart-condition", "any", "on-failure", "none")
		fixed(c, "isolation", "default", "userns")
		named(c, a.names(-1, networkNames), "network", "network-add", "network-rm")
		named(c, a.names(-1, secretNames), "secret", "secret-add", "secret-rm")
		named(c, a.names(-1, configNames), "config", "config-add", "config-rm")
		fixed(c, "placement-strategy", "spread", "bin-pack", "default")
		fixed(c, "rebalance", "auto", "manual")
		named(c, a.names(-1, serviceNames), "depends-on", "depends-on-add", "depends-on-rm")
	}
	for _, name := range []string{"create", "update", "scale", "rollback"} {
		named(find("service", name), a.deployerNames, "sign-with")
	}
}
