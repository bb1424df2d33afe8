package node

import (
	"context"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/scheduler/agent"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// delivery is how this node's agent gets secrets and configs: vouched for by its
// leaf.
func (n *Node) delivery(creds *pki.Credentials) *agent.Delivery {
	return &agent.Delivery{ClusterID: n.who().ClusterID, NodeID: n.who().NodeID,
		Vouch: func(statement []byte) ([][]byte, []byte, error) { return creds.Say(seal.StatementMessage(statement)) }}
}

// sealSecrets has this manager's keyd seal keys of secrets to a node's rund, which it
// verifies by itself.
func (n *Node) sealSecrets(ctx context.Context, req *schedulerpb.DeliverRequest, items []dispatcher.SealItem) ([][]byte, error) {
	ask := &keydpb.OpenAndSealRequest{Node: req.GetLeaf(), Statement: req.GetStatement(), Signature: req.GetSignature()}
	for _, i := range items {
		kind := seal.KindFile
		if i.Registry {
			kind = seal.KindRegistry
		}
		ask.Items = append(ask.Items, &keydpb.SealItem{ServiceId: i.ServiceID, TaskId: i.TaskID,
			Key: &keydpb.SecretKey{SecretId: i.SecretID, VersionId: i.VersionID, Kind: kind, Epoch: i.Epoch, Sealed: i.Sealed}})
	}
	got, err := n.keyd.OpenAndSeal(ctx, ask)
	return got.GetSealed(), err
}
