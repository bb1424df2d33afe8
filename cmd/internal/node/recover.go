package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// A recovery takes three steps, and can be cut short between any two: the state
// is written into a store of the next incarnation, beside the one in use; keyd,
// which checked the operator key, raises the incarnation, and from then on the
// new store is the one in use; its first leader denies the other managers and
// voids the tokens, before it serves anybody.

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
func (m *managerState) recover(ctx context.Context, k *keys) error {
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
	err := raftstore.Import(m.n.storeConfig(k.sealer, next), pr, func() raftstore.Position { <-salvaged; return at })
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

// reincarnate does, once, what a new incarnation begins with. The store knows
// whether it was done.
func (m *managerState) reincarnate(ctx context.Context, boot *pki.Credentials, incarnation uint64) error {
	m.n.incarnation.Store(incarnation)
	var was uint64
	err := m.store.View(func(r *raftstore.ReadTx) error {
		if c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID); ok {
			was = max(1, c.GetIncarnation())
		}
		return nil
	})
	if err != nil || was == 0 || was >= incarnation {
		return err
	}
	if err := m.awaitLead(ctx); err != nil {
		return err
	}
	self := m.n.who()
	err = pki.BeginIncarnation(ctx, m.store, incarnation,
		pki.FirstManager{Name: self.Name, Address: self.Advertise, Leaf: m.creds.Chain(), Boot: boot.Chain()},
		schedstore.RemoveNode, func(tx *raftstore.Tx, n *pkipb.Node) error { return onJoin(tx, n) })
	if err != nil {
		return fmt.Errorf("begin incarnation %d: %w", incarnation, err)
	}
	m.n.log.Warn("a new incarnation of the cluster has begun: the managers of before are denied and all join tokens void", "incarnation", incarnation)
	return nil
}
