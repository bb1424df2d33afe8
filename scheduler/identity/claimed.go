package identity

import (
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// claims are what nodes say that their tasks hold. It is all that a leader knows of
// what was signed before it led, and a node may say what it likes.
type claims struct {
	of     map[string][]*schedulerpb.HeldIdentity // by node
	signed map[string]bool                        // serial numbers that this leader had signed
}

// believed are the certificates among them that a node may have: of tasks that are
// assigned to it, and none that this leader had signed for somebody. Nodes take turns,
// each with its last to end first, so that one that claims much keeps no other's off
// a list. Of a certificate that several claim counts what says that it ends last.
func (c claims) believed(r raftstore.Reader, clusterID string, now int64) []*pkipb.IssuedCertificate {
	by := map[string][]*pkipb.IssuedCertificate{}
	known := map[string]*pkipb.IssuedCertificate{}
	for _, node := range slices.Sorted(maps.Keys(c.of)) {
		for _, held := range c.of[node] {
			t, ok := store.Tasks.Get(r, held.GetTaskId())
			if !ok || t.GetNodeId() != node {
				continue
			}
			if service, ok := store.Services.Get(r, t.GetServiceId()); !ok || Of(clusterID, service) != held.GetIdentity() {
				continue
			}
			for _, h := range held.GetCertificates() {
				if c.signed[string(h.GetSerial())] || h.GetExpiresAt() <= now {
					continue
				}
				// Who makes up an issuer takes no serial number from another.
				key := string(h.GetIssuer()) + string(h.GetSerial())
				k := known[key]
				if k == nil {
					k = &pkipb.IssuedCertificate{Serial: h.GetSerial(), Issuer: h.GetIssuer(), Claimed: true}
					known[key] = k
				}
				k.NotAfter = max(k.NotAfter, h.GetExpiresAt())
				by[node] = append(by[node], k) // each has its turn: who claims another's too takes no place from it
			}
		}
	}
	for _, certs := range by {
		lastFirst(certs)
	}
	out, nodes := make([]*pkipb.IssuedCertificate, 0, len(known)), slices.Sorted(maps.Keys(by))
	listed := make(map[*pkipb.IssuedCertificate]bool, len(known))
	for turn := 0; len(out) < len(known); turn++ {
		for _, node := range nodes {
			if turn < len(by[node]) && !listed[by[node][turn]] {
				listed[by[node][turn]] = true
				out = append(out, by[node][turn])
			}
		}
	}
	return out
}
