package stack

import (
	"context"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Read reads what there is, with the data of those configs that want has, too, and
// volumes where it has some. want may be nil.
func Read(ctx context.Context, api *apiclient.Client, want *Stack) (*Cluster, error) {
	c := &Cluster{}
	services, err := api.ListServices(ctx, &controlpb.ListServicesRequest{})
	if err != nil {
		return nil, err
	}
	for _, v := range services.GetServices() {
		c.Services = append(c.Services, v.GetService())
	}
	networks, err := api.ListNetworks(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, v := range networks {
		c.Networks = append(c.Networks, v.GetNetwork())
	}
	if want != nil && want.usesVolumes() {
		all, err := api.ListVolumes(ctx, nil)
		if err != nil {
			return nil, err
		}
		for _, v := range all {
			c.Volumes = append(c.Volumes, v.GetVolume())
		}
	}
	policies, err := api.ListPolicies(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, v := range policies {
		c.Policies = append(c.Policies, v.GetPolicy())
	}
	if c.Secrets, err = api.ListSecrets(ctx, nil); err != nil {
		return nil, err
	}
	configs, err := api.ListConfigs(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range configs {
		o := &secretspb.Config{Id: v.GetId(), Current: v.GetCurrent(), Spec: &secretspb.ConfigSpec{Name: v.GetName(), Labels: v.GetLabels()}}
		// Those of others are not asked for: who deploys one stack need not read the next.
		if want != nil && o.Spec.Labels[Label] == want.Name && slices.ContainsFunc(want.Configs, func(w *secretspb.ConfigSpec) bool { return w.GetName() == v.GetName() }) {
			r, err := api.GetConfigs(ctx, &controlpb.GetConfigsRequest{Configs: []string{v.GetId()}})
			if err != nil {
				return nil, err
			}
			if len(r.GetConfigs()) == 1 {
				o = r.GetConfigs()[0]
			}
		}
		c.Configs = append(c.Configs, o)
	}
	return c, nil
}
