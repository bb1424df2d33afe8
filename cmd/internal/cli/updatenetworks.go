package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// changeNetworks takes networks as the service has them, by id, from what was
// looked up before: names in flags were replaced by ids there.
func (u *updateFlags) changeNetworks(c *cobra.Command, spec *schedulerpb.ServiceSpec) (err error) {
	task := spec.Task
	for _, text := range u.networkAdd {
		n, err := parseNetworkUse(text)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(u.networkRm, func(s string) bool { return u.networkID(s) == u.networkID(n.Network) }) {
			return usagef("network %s is added and removed in one command", n.Network)
		}
		n.Network = u.networkID(n.Network)
		task.Networks = slices.DeleteFunc(task.Networks, func(o *taskpb.NetworkUse) bool { return o.Network == n.Network })
		task.Networks = append(task.Networks, n)
	}
	for _, text := range u.networkRm {
		before := len(task.Networks)
		task.Networks = slices.DeleteFunc(task.Networks, func(o *taskpb.NetworkUse) bool { return o.Network == u.networkID(text) })
		if len(task.Networks) == before {
			return failf(ExitError, "--network-rm %s: the service is not on that network: see `redoubt service inspect`", text)
		}
	}
	if len(task.Networks) == 0 {
		spec.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_UNSPECIFIED
	}
	if c.Flags().Changed("endpoint-mode") {
		spec.EndpointMode, err = endpointMode(u.endpointMode)
	}
	return err
}

// networkID is the id of a network that a flag names, once that was looked up.
func (u *updateFlags) networkID(text string) string {
	if id := u.networkIDs[text]; id != "" {
		return id
	}
	return text
}

// lookUpNetworks finds the networks that the flags name.
func (u *updateFlags) lookUpNetworks(ctx context.Context, api *api) error {
	u.networkIDs = map[string]string{}
	var refs []string
	for _, text := range u.networkAdd {
		n, err := parseNetworkUse(text)
		if err != nil {
			return err
		}
		refs = append(refs, n.Network)
	}
	for _, ref := range append(refs, u.networkRm...) {
		all, err := api.ListNetworks(ctx, []string{ref})
		if err != nil {
			return err
		}
		if len(all) != 1 {
			return failf(ExitError, "the managers answer of %d networks %s", len(all), printable(ref))
		}
		u.networkIDs[ref] = all[0].GetNetwork().GetId()
	}
	return nil
}
