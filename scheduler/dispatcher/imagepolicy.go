package dispatcher

import (
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// nextImagePolicy is the policy in force, where the node was not told of it yet. It
// is looked at later than the tasks and said earlier, so a node never learns of a task
// without the policy that it was admitted under, or a later one.
func (s *session) nextImagePolicy() (*schedulerpb.ManagerMessage, error) {
	var p *schedulerpb.ImagePolicy
	err := s.d.config.Store.View(func(r *raftstore.ReadTx) error {
		p, _ = store.ImagePolicies.Get(r, store.ImagePolicyID)
		return nil
	})
	version := p.GetMeta().GetVersion()
	if err != nil || s.policyTold && version == s.policy {
		return nil, err
	}
	s.policyTold, s.policy = true, version
	return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_ImagePolicy{
		ImagePolicy: &schedulerpb.ImagePolicyInForce{Document: p.GetDocument()},
	}}, nil
}
