package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// A recovery takes two steps, and can be cut short between them: the state, in
// which the other managers are denied and the tokens void, is written into a
// store of the next incarnation, beside the one in use; and keyd, which checked
// the operator key, raises the incarnation. From then on the new store is the
// one in use.

var (
	// errRecovering ends a manager's state for its recovery, errRecovered after it.
	errRecovering = errors.New("recovering")
	errRecovered  = errors.New("recovered")
)

// Recover is Bootstrap's.
func (b bootstrap) Recover(ctx context.Context, req *controlpb.RecoverRequest) (*controlpb.RecoverResponse, error) {
	if _, err := b.n.ask(ctx, req); err != nil {
		return nil, err
	}
	return &controlpb.RecoverResponse{Incarnation: b.n.incarnation.Load()}, nil
}

// recoverable refuses where there is a quorum to lose.
func (m *managerState) recoverable() error {
	if id, _ := m.store.Leader(); id != "" {
		return apierr.State("remove the managers that are lost with `redoubt node rm`", "the cluster has a leader: it has not lost its quorum")
	}
	if servers := m.store.Servers(); len(servers) == 1 {
		return apierr.State("wait, and see `redoubt status`", "this manager is the only one: there is nothing to recover from")
	}
	return nil
}

// recover makes the store of the next incarnation out of this one's.
func (m *managerState) recover(ctx context.Context, k *keys, boot *pki.Credentials) error {
	next := k.incarnation + 1
	m.n.log.Warn("recovering: this manager alone begins a new incarnation of the cluster", "incarnation", next)
	pr, pw := io.Pipe()
	var at raftstore.Position
	salvaged := make(chan struct{})
	go func() {
		defer close(salvaged)
		var err error
		at, err = m.store.Salvage(ctx, pw)
		pw.CloseWithError(err) // nil is the end
	}()
	err := raftstore.Import(m.n.storeConfig(k.ring, next), pr, func(d *raftstore.Draft) (raftstore.Position, error) {
		<-salvaged
		self := m.n.who()
		var dropped uint64
		if err := d.View(func(r *raftstore.ReadTx) error {
			dropped = pkistore.DroppedSegments(r)
			return nil
		}); err != nil {
			return at, err
		}
		if err := d.CopyRecords(m.store, dropped); err != nil {
			return at, err
		}
		return at, beginIncarnation(ctx, d, next, &self, m.creds.Chain(), boot.Chain())
	})
	pr.CloseWithError(errors.New("the state could not be written"))
	<-salvaged
	if err != nil {
		return fmt.Errorf("the state could not be saved, and nothing was changed: %w", err)
	}
	if err := m.n.keyd.RaiseIncarnation(ctx, next); err != nil {
		return fmt.Errorf("keyd did not begin the new incarnation, and nothing was changed: %w", err)
	}
	return nil
}

// beginIncarnation makes a state the next incarnation's, before there is a store
// of it: whoever opens that finds the tokens void, the others denied and no policy that
// asks for more people than can come.
func beginIncarnation(ctx context.Context, d *raftstore.Draft, incarnation uint64, m *member, leaf, boot *profilepb.CertificateChain) error {
	ctx = (&audit.Log{Manager: m.NodeID}).Own(ctx, "begin an incarnation")
	return pki.BeginIncarnation(ctx, d, incarnation, pki.FirstManager{Name: m.Name, Address: m.Advertise, Leaf: leaf, Boot: boot},
		schedstore.RemoveNode, func(tx *raftstore.Tx, n *pkipb.Node) error { return onJoin(tx, n) }, roles.Suspend)
}
