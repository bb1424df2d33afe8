package cli

import (
	"context"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// stackSigner signs the services of a stack, for what its files say that configs hold.
type stackSigner struct {
	*signer
	configs map[string]*lockpb.Config // of the stack, by name
}

// stackSigner is nil where nothing is to be signed.
func (a *app) stackSigner(f *signFlags, want *stack.Stack) (stack.Signer, error) {
	s, err := a.signer(f)
	if s == nil || err != nil {
		return nil, err
	}
	out := &stackSigner{s, map[string]*lockpb.Config{}}
	for _, c := range want.Configs {
		out.configs[c.GetName()] = lock.NewConfig(c.GetName(), c.GetTemplate(), c.GetData())
	}
	return out, nil
}

// give has the signer know what the configs of a service are to hold.
func (s *stackSigner) give(sp *schedulerpb.ServiceSpec) {
	s.contents = map[string]*lockpb.Config{}
	for _, u := range sp.GetTask().GetContainer().GetConfigs() {
		if c := s.configs[u.GetSource()]; c != nil {
			s.contents[u.GetSource()] = c
		}
	}
}

// Create implements stack.Signer.
func (s *stackSigner) Create(ctx context.Context, c *api, req *controlpb.CreateServiceRequest) error {
	s.give(req.GetSpec())
	return s.create(ctx, c, req)
}

// Rollback implements stack.Signer.
func (s *stackSigner) Rollback(ctx context.Context, c *api, name string, req *controlpb.RollbackServiceRequest, signed []byte) error {
	s.contents = nil // what its configs hold was signed with it
	return s.rollback(ctx, c, name, req, signed)
}

// Update implements stack.Signer.
func (s *stackSigner) Update(ctx context.Context, c *api, name string, req *controlpb.UpdateServiceRequest, was *schedulerpb.ServiceSpec, signed []byte) error {
	s.give(req.GetSpec())
	return s.update(ctx, c, name, req, was, signed)
}
