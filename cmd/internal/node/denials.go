package node

import (
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// heardDenials takes which workload identities are revoked, by a manager's word.
func (n *Node) heardDenials(m *schedulerpb.Denials) {
	before := make(map[pki.IdentityHash]int64, len(m.GetDenials()))
	for _, d := range m.GetDenials() {
		if len(d.GetIdHash()) == len(pki.IdentityHash{}) {
			before[pki.IdentityHash(d.GetIdHash())] = d.GetBefore()
		}
	}
	n.denials.Set(before)
}
