package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// principals are people and the local root of managers, as roles are bound to them: of
// those the caller may list.
func principals(ctx context.Context, api *api) (out []string, err error) {
	people, noPeople := personNames(ctx, api)
	for _, name := range people {
		out = append(out, "person:"+name)
	}
	r, err := api.ListNodes(ctx, &controlpb.ListNodesRequest{})
	for _, n := range r.GetNodes() {
		if n.GetManager() != nil {
			out = append(out, "root:"+n.GetName())
		}
	}
	if noPeople == nil || len(out) > 0 {
		err = nil
	}
	return out, err
}

// bindings completes with a role, then with whom it is for.
func (a *app) bindings() completion {
	roles, who := a.names(1, roleNames), a.names(2, principals)
	return func(c *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(given) == 0 {
			return roles(c, given, prefix)
		}
		return who(c, given, prefix)
	}
}

// waivedScopes are what a waiver can be of.
func waivedScopes(ctx context.Context, api *api) ([]string, error) {
	out, err := nodeNames(ctx, api)
	for i := range out {
		out[i] = scopeNode + "/" + out[i]
	}
	return append(out, scopeCluster), err
}

// brokenGlasses are the nodes whose root broke the glass, and nobody looked into it.
func brokenGlasses(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListBreakGlasses(ctx, &controlpb.ListBreakGlassesRequest{})
	for _, b := range r.GetBreakGlasses() {
		out = append(out, strings.TrimPrefix(b.GetPrincipal(), "root:"))
	}
	return out, err
}

// deployerNames completes with the deployers' keys of this machine.
func (a *app) deployerNames(_ *cobra.Command, given []string, prefix string) (out []string, _ cobra.ShellCompDirective) {
	d, err := a.deployers()
	if err == nil {
		all, _ := d.List() // nothing to offer where they cannot be read
		for _, h := range all {
			if strings.HasPrefix(h.Name, prefix) && !slices.Contains(given, h.Name) {
				out = append(out, h.Name)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
