package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// adoptKeyset brings keyd to the keyset of the store and reports whether it is
// there.
func (m *managerState) adoptKeyset(ctx context.Context) (bool, error) {
	var want *autolockpb.KeysetRecord
	if err := m.store.View(func(r *raftstore.ReadTx) error {
		want, _ = autolockstore.Keysets.Get(r, m.n.who().NodeID)
		return nil
	}); err != nil {
		return false, err
	}
	st, err := m.n.keyd.Status(ctx)
	if err != nil {
		return false, fmt.Errorf("%w (%v)", errKeydLost, err)
	}
	epoch := st.GetKeysetEpoch()
	if want.GetEpoch() > epoch {
		resp, err := m.n.keyd.AdoptKeyset(ctx, &keydpb.AdoptKeysetRequest{Epoch: want.GetEpoch(), SealedKeyset: want.GetSealed()})
		if err != nil {
			m.n.log.Error("keyd did not take over the rotated keyset", "epoch", want.GetEpoch(), "err", err)
		} else {
			epoch = resp.GetEpoch()
			m.n.log.Info("rotated keyset taken over", "epoch", epoch)
		}
	}
	m.keysetEpoch.Store(epoch)
	select {
	case m.spread <- struct{}{}:
	default:
	}
	return epoch >= want.GetEpoch(), nil
}

// membershipOf is what the leader tells a node about itself. A new issuer is
// told once this keyd signs with it.
func (m *managerState) membershipOf(id string) *schedulerpb.Membership {
	out := &schedulerpb.Membership{}
	_ = m.store.View(func(r *raftstore.ReadTx) error { // a store that is closed tells nobody anything
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		if n, known := pkistore.Nodes.Get(r, id); ok && known {
			m.fillMembership(out, c, n)
		}
		return nil
	})
	return out
}

func (m *managerState) fillMembership(out *schedulerpb.Membership, c *pkipb.Cluster, n *pkipb.Node) {
	if m.keysetEpoch.Load() >= pki.KeysetEpoch(c) && pki.NeedsReissue(c, n) {
		out.Issuer = pki.ActiveIssuer(c)
	}
	out.Promote = pki.Wanted(n, time.Now())
}

const (
	// spreadPause is the least time between two looks at all nodes.
	spreadPause = 100 * time.Millisecond
	// spreadAtOnce bounds the nodes told at one look, so that a rotation does not
	// bring all nodes at the same moment.
	spreadAtOnce = 50
	// formerInterval is how often it is looked whether former issuers are used.
	formerInterval = 30 * time.Second
)

// spreadMembership tells nodes over their sessions what has changed for them,
// and forgets former issuers when all have followed.
func (m *managerState) spreadMembership(ctx context.Context, d *dispatcher.Dispatcher) error {
	told := map[string]string{} // what each node was told last
	for {
		err := m.watchMembership(ctx, d, told)
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (m *managerState) watchMembership(ctx context.Context, d *dispatcher.Dispatcher, told map[string]string) error {
	w, err := m.store.Watch(func(*raftstore.ReadTx) error { return nil }, pkistore.Nodes, pkistore.Cluster)
	if err != nil {
		return err
	}
	defer w.Close()
	changes := make(chan error)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_, err := w.Next(ctx)
			select {
			case changes <- err:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { cancel(); <-ended }()
	former := time.NewTicker(formerInterval)
	defer former.Stop()
	for {
		more, err := m.tellNodes(d, told)
		if err != nil {
			return err
		}
		if err := sleep(ctx, spreadPause); err != nil {
			return err
		}
		if more {
			continue
		}
		select {
		case err := <-changes:
			if err != nil {
				return err
			}
		case <-m.spread:
		case <-former.C:
			clear(told) // what was said to a node that could not follow is said again
			if err := m.dropFormer(ctx); err != nil {
				m.n.log.Warn("former issuers were not dropped", "err", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tellNodes tells some of those for whom something changed and reports whether
// there are more.
func (m *managerState) tellNodes(d *dispatcher.Dispatcher, told map[string]string) (more bool, err error) {
	var ids []string
	err = m.store.View(func(r *raftstore.ReadTx) error {
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		if !ok {
			return nil
		}
		for n := range pkistore.Nodes.All(r) {
			var what schedulerpb.Membership
			m.fillMembership(&what, c, n)
			key := fmt.Sprintf("%x %t", what.Issuer, what.Promote)
			nothing := what.Issuer == nil && !what.Promote
			switch {
			case nothing:
				delete(told, n.GetId())
			case told[n.GetId()] == key:
			case len(ids) == spreadAtOnce:
				more = true
				return nil
			default:
				told[n.GetId()] = key
				ids = append(ids, n.GetId())
			}
		}
		return nil
	})
	d.Tell(ids...)
	return more, err
}

func (m *managerState) dropFormer(ctx context.Context) error {
	due := false
	err := m.store.View(func(r *raftstore.ReadTx) error {
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		due = ok && pki.FormerUnused(r, c, r.Clock())
		return nil
	})
	if err != nil || !due {
		return err
	}
	if err := m.store.Update(ctx, pki.DropFormer); err != nil {
		return err
	}
	m.n.log.Info("former issuers are accepted no more: every node has a certificate of the one in force")
	return nil
}

// heardMembership takes what the leader said about this node.
func (n *Node) heardMembership(what *schedulerpb.Membership) {
	if len(what.GetIssuer()) > 0 {
		select {
		case <-n.issuer: // not looked at yet
		default:
		}
		select {
		case n.issuer <- what.GetIssuer():
		default:
		}
	}
	if what.GetPromote() {
		select {
		case n.promote <- struct{}{}:
		default:
		}
	}
}

// How soon a renewal that a new issuer asks for is tried again.
const reissueRetry, longestReissueRetry = 500 * time.Millisecond, time.Minute

// followIssuer renews at once when the leader says that the issuing CA was
// replaced, until the certificates are of that one.
func (n *Node) followIssuer(ctx context.Context, r *pki.Renewer) error {
	for {
		var want []byte
		select {
		case want = <-n.issuer:
		case <-ctx.Done():
			return ctx.Err()
		}
		current := func() bool {
			return bytes.Equal(r.Credentials.IssuerHash(), want) && (r.Boot == nil || bytes.Equal(r.Boot.IssuerHash(), want))
		}
		for pause := reissueRetry; !current(); pause = min(2*pause, longestReissueRetry) {
			err := r.Now(ctx)
			if current() {
				break
			}
			n.log.Info("the certificate is not of the new issuer yet", "err", err, "retry_in", pause)
			if err := sleep(ctx, pause); err != nil {
				return err
			}
		}
	}
}
