package node

import (
	"context"
	"net"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// reconcileAfter is how long a certificate that no record names waits to be looked
// at again: records of a manager lag behind, and a manager may have re-issued its own.
const reconcileAfter = 3 * time.Second

// shown is a certificate that no record named.
type shown struct {
	peer *authz.Peer
	at   time.Time
}

// presented has it looked into where a peer that verified shows a certificate that
// no record names. It decides nothing: who is admitted is for others to say.
func (m *managerState) presented(p *authz.Peer) {
	if p == nil || p.Leaf == nil || !m.opened.Load() || !m.forged(p) {
		return
	}
	select {
	case m.strange <- shown{p, time.Now()}:
	default: // whoever comes so often comes again
	}
}

func (m *managerState) forged(p *authz.Peer) (forged bool) {
	_ = m.store.View(func(r *raftstore.ReadTx) error { // a store that is closed knows nothing
		forged = pki.Forged(r, r.Level(), p)
		return nil
	})
	return forged
}

// reconcile holds what was presented against the records, once they have had time,
// and against keyd's journal, and raises the alarm where neither knows of it. The
// leader's goes on record; another manager's into its log alone.
func (m *managerState) reconcile(ctx context.Context) error {
	for {
		var s shown
		select {
		case s = <-m.strange:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, time.Until(s.at.Add(reconcileAfter))); err != nil {
			return err
		}
		p := s.peer
		if !m.forged(p) || m.journalled(ctx, p.SPKI) {
			continue
		}
		source := "an address that is not known"
		if p.Source != nil {
			source = p.Source.String()
			if host, _, err := net.SplitHostPort(source); err == nil {
				source = host
			}
		}
		log := m.n.log.With("node", p.NodeID, "role", profile.RoleName(p.Role), "serial", p.Leaf.SerialNumber.Text(16), "source", source)
		if !m.store.IsLeader() {
			log.Error("a certificate was shown that nobody gave out: the key of a CA is in other hands")
			continue
		}
		noted := false
		err := m.store.Update(ctx, func(tx *raftstore.Tx) (err error) {
			noted, err = pki.NoteUnjournalled(tx, p, source)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			log.Error("a certificate was shown that nobody gave out, and that is not on record", "err", err)
		case noted:
			log.Error("a certificate was shown that nobody gave out: the key of a CA is in other hands")
		}
	}
}

// journalled reports whether keyd here signed for that key. What it does not say
// counts as no.
func (m *managerState) journalled(ctx context.Context, spki []byte) bool {
	resp, err := m.n.keyd.Journalled(ctx, &keydpb.JournalledRequest{Spki: [][]byte{spki}})
	return err == nil && len(resp.GetKnown()) == 1 && resp.GetKnown()[0]
}
