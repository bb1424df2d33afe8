package node

import (
	"context"
	"maps"

	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// announcer writes what is said of break-glasses into this manager's log, whichever
// manager it was at, until somebody acknowledges it.
func (m *managerState) announcer() func(context.Context) (bool, error) {
	said := map[string]string{}
	return func(ctx context.Context) (bool, error) {
		now := map[string]string{}
		err := m.store.View(func(r *raftstore.ReadTx) error {
			for b := range pkistore.BreakGlasses.All(r) {
				now[b.GetId()] = roles.Announcement(r, b)
			}
			return nil
		})
		for id, text := range now {
			if said[id] != text {
				m.n.log.ErrorContext(ctx, "break-glass", "node", id, "what", text)
			}
		}
		for id := range said {
			if now[id] == "" {
				m.n.log.WarnContext(ctx, "a break-glass was acknowledged", "node", id)
			}
		}
		if err == nil {
			clear(said)
			maps.Copy(said, now)
		}
		return true, err
	}
}
