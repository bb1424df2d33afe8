package store

import (
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// ImagePolicyID is the id of the one policy in ImagePolicies.
const ImagePolicyID = "policy"

// ImagePolicies has at most one, and no index but the id.
var ImagePolicies = raftstore.NewTable[*schedulerpb.ImagePolicy]("image_policies")

// SetImagePolicy puts a document in the place of the one that was there, and returns
// what it says.
func SetImagePolicy(tx *raftstore.Tx, document []byte) (*imagepolicy.Policy, error) {
	p, err := imagepolicy.Parse(document)
	if err != nil {
		return nil, refuse("%v", err)
	}
	old, _ := ImagePolicies.Get(tx, ImagePolicyID)
	return p, ImagePolicies.Put(tx, &schedulerpb.ImagePolicy{Meta: old.GetMeta(), Id: ImagePolicyID, Document: document})
}

// ImagePolicyOf is the policy in force; nil: there is none.
func ImagePolicyOf(r raftstore.Reader) (*imagepolicy.Policy, error) {
	p, ok := ImagePolicies.Get(r, ImagePolicyID)
	if !ok {
		return nil, nil
	}
	return imagepolicy.Parse(p.GetDocument())
}
