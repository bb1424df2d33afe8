package dispatcher

import (
	"bytes"
	"context"
	"slices"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// followDenials tells every session which workload identities were revoked, as soon
// as that is committed. A session that begins is told first thing.
func (d *Dispatcher) followDenials(ctx context.Context) error {
	return pki.FollowDenials(ctx, d.config.Store, func(before map[pki.IdentityHash]int64) {
		m := denials(before)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.denials = m
		for _, member := range d.members {
			if member.session != nil {
				member.session.control(m)
			}
		}
	})
}

func denials(before map[pki.IdentityHash]int64) *schedulerpb.ManagerMessage {
	m := &schedulerpb.Denials{}
	for hash, at := range before {
		m.Denials = append(m.Denials, &schedulerpb.Denial{IdHash: hash[:], Before: at})
	}
	slices.SortFunc(m.Denials, func(a, b *schedulerpb.Denial) int { return bytes.Compare(a.GetIdHash(), b.GetIdHash()) })
	return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Denials{Denials: m}}
}
