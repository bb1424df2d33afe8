package store

import (
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Meddled is what a node says of somebody who changed its rules for networks, for
// as long as it shows that; empty: nothing.
func Meddled(n *schedulerpb.Node) string {
	for _, f := range n.GetDescription().GetFeatures() {
		if f.GetName() == mesh.RulesFeature && !f.GetPresent() {
			return f.GetDetail()
		}
	}
	return ""
}
