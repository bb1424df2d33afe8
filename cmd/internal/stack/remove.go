package stack

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// removePause is between two attempts to remove what tasks that stop still use.
const removePause = 250 * time.Millisecond

// Stay is what was not removed, and why.
type Stay struct {
	Step Step
	Why  string
	// Busy: tasks that stop have it, and it can be removed when they have.
	Busy bool
}

// Remove does the removals of the plan: services first, then what they leave, for
// which it waits until their tasks have stopped, as long as ctx lasts. Without wait
// each is tried once. What others use stays.
func (a *Applier) Remove(ctx context.Context, p *Plan, have *Cluster, wait bool) (left []Stay, err error) {
	gone := map[string]bool{} // ids of services
	for _, s := range p.Steps {
		if s.Action == Remove && s.Kind == KindService {
			gone[s.id] = true
		}
	}
	for _, s := range p.Steps {
		if s.Action != Remove {
			continue
		}
		if users := have.users(s.id, gone); len(users) > 0 && s.Kind != KindService {
			left = append(left, Stay{Step: s, Why: "in use by service " + strings.Join(users, ", ")})
			continue
		}
		switch err := a.remove(ctx, s, wait); apierr.ReasonOf(err) {
		case "":
			if err != nil {
				return left, fmt.Errorf("%s %s: %w", s.Kind, s.Name, err)
			}
			a.Done(s, nil)
		case apierr.ReasonNotFound: // somebody else was faster
		case apierr.ReasonState, apierr.ReasonInvalid:
			left = append(left, Stay{Step: s, Why: err.Error(), Busy: true})
		default:
			return left, fmt.Errorf("%s %s: %w", s.Kind, s.Name, err)
		}
	}
	return left, nil
}

// remove removes one object; while tasks that stop have it, again and again.
func (a *Applier) remove(ctx context.Context, s Step, wait bool) error {
	tick := time.NewTicker(removePause)
	defer tick.Stop()
	var busy error
	for {
		err := explain(a.removeOnce(ctx, s))
		switch {
		case busy != nil && ctx.Err() != nil:
			return busy
		case !wait, s.Kind == KindService || s.Kind == KindPolicy, apierr.ReasonOf(err) != apierr.ReasonState && apierr.ReasonOf(err) != apierr.ReasonInvalid:
			return err
		}
		busy = err
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (a *Applier) removeOnce(ctx context.Context, s Step) (err error) {
	switch s.Kind {
	case KindService:
		_, err = a.API.RemoveService(ctx, &controlpb.RemoveServiceRequest{Service: s.id})
	case KindPolicy:
		_, err = a.API.RemovePolicy(ctx, &controlpb.RemovePolicyRequest{Policy: s.id})
	case KindConfig:
		_, err = a.API.RemoveConfig(ctx, &controlpb.RemoveConfigRequest{Config: s.id})
	case KindSecret:
		_, err = a.API.RemoveSecret(ctx, &controlpb.RemoveSecretRequest{Secret: s.id})
	case KindNetwork:
		_, err = a.API.RemoveNetwork(ctx, &controlpb.RemoveNetworkRequest{Network: s.id})
	}
	return err
}

// users are the services that name what has that id, but those that are gone.
func (c *Cluster) users(id string, gone map[string]bool) (out []string) {
	for _, s := range c.Services {
		if !gone[s.GetId()] && uses(s.GetSpec(), id) {
			out = append(out, s.GetSpec().GetName())
		}
	}
	slices.Sort(out)
	return out
}

func uses(s *schedulerpb.ServiceSpec, id string) bool {
	t := s.GetTask()
	for _, u := range t.GetNetworks() {
		if u.GetNetwork() == id {
			return true
		}
	}
	for _, u := range slices.Concat(t.GetContainer().GetSecrets(), t.GetContainer().GetConfigs()) {
		if u.GetSource() == id {
			return true
		}
	}
	return t.GetContainer().GetRegistryAuth() == id
}
