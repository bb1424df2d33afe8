package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// adoptKeyset brings keyd to the keyset of the store, and what is sealed to it
// with it, and reports whether it is there.
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
	defer m.noteTicket(ctx)
	m.wakeSpread()
	if epoch < want.GetEpoch() {
		return false, nil
	}
	done, err := m.tendMasters(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errKeydLost) {
		m.n.log.Warn("the keys of secrets are not sealed to the cluster's new key yet", "err", err)
		return false, nil
	}
	return done, err
}

// wakeSpread has who tells nodes about themselves look again.
func (m *managerState) wakeSpread() {
	select {
	case m.spread <- struct{}{}:
	default:
	}
}

// membershipOf is what the leader tells a node about itself. A new issuer is
// told once this keyd signs with it.
func (m *managerState) membershipOf(id string) *schedulerpb.Membership {
	out := &schedulerpb.Membership{}
	_ = m.store.View(func(r *raftstore.ReadTx) error { // a store that is closed tells nobody anything
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		if n, known := pkistore.Nodes.Get(r, id); ok && known {
			m.fillMembership(out, c, n)
			if n.GetRole() == profilepb.Role_ROLE_WORKER {
				out.Roots = pki.RootsOf(c)
			}
		}
		return nil
	})
	return out
}

// newestKeyset reports whether keyd here has the keyset in force.
func (m *managerState) newestKeyset() bool {
	newest := false
	_ = m.store.View(func(r *raftstore.ReadTx) error { // then it is not
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		newest = ok && m.keysetEpoch.Load() >= pki.KeysetEpoch(c)
		return nil
	})
	return newest
}

func (m *managerState) fillMembership(out *schedulerpb.Membership, c *pkipb.Cluster, n *pkipb.Node) {
	if m.keysetEpoch.Load() >= pki.KeysetEpoch(c) && pki.NeedsReissue(c, n) {
		out.Issuer = pki.IssuerFor(c, n.GetRole())
	}
	out.Promote = pki.Wanted(n, time.Now())
}

const (
	// spreadPause is the least time between two looks at all nodes, and spreadRest how
	// many times as long as it took there is none after a look: with thousands of nodes
	// that renew one after the other, looking would cost more than renewing.
	// No rest is longer than longestSpreadRest: a look may have taken long because the
	// machine did.
	spreadPause       = 20 * time.Millisecond
	spreadRest        = 15
	longestSpreadRest = 2 * time.Second
	// spreadAtOnce bounds the nodes that are at their renewal at a time: as one has
	// done it the next is told. One that takes longer than spreadPatience is not
	// waited for.
	spreadAtOnce   = 128
	spreadPatience = 5 * time.Second
	// formerInterval is how often it is looked whether former issuers are used.
	formerInterval = 30 * time.Second
)

// told is what a node was told, and when.
type told struct {
	what string
	at   time.Time
}

// spreadMembership tells nodes over their sessions what has changed for them,
// and forgets former issuers when all have followed.
func (m *managerState) spreadMembership(ctx context.Context, d *dispatcher.Dispatcher) error {
	told := map[string]told{} // what each node was told last
	for {
		err := m.watchMembership(ctx, d, told)
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (m *managerState) watchMembership(ctx context.Context, d *dispatcher.Dispatcher, told map[string]told) error {
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
		looked := time.Now()
		more, err := m.tellNodes(d, told)
		if err != nil {
			return err
		}
		if err := sleep(ctx, min(max(spreadPause, spreadRest*time.Since(looked)), longestSpreadRest)); err != nil {
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

// tellNodes tells some of the connected nodes for whom something changed and
// reports whether it is to be called again soon.
func (m *managerState) tellNodes(d *dispatcher.Dispatcher, before map[string]told) (more bool, err error) {
	trusts := map[string][][]byte{}
	for _, s := range d.Sessions() {
		trusts[s.NodeID] = s.Trusts
	}
	now := time.Now()
	type due struct {
		id, what string
		renews   bool
	}
	var all []due
	busy := 0
	err = m.store.View(func(r *raftstore.ReadTx) error {
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		if !ok {
			return nil
		}
		roots := pki.HashesOf(c.GetRoots())
		for n := range pkistore.Nodes.All(r) {
			id := n.GetId()
			has, connected := trusts[id]
			var what schedulerpb.Membership
			m.fillMembership(&what, c, n)
			// Managers have the roots from their store.
			others := n.GetRole() == profilepb.Role_ROLE_WORKER && !slices.EqualFunc(has, roots, bytes.Equal)
			if !connected || what.Issuer == nil && !what.Promote && !others {
				delete(before, id)
				continue
			}
			key := fmt.Sprintf("%x %t %t %x", what.Issuer, what.Promote, others, roots)
			switch last := before[id]; {
			case last.what != key:
				all = append(all, due{id, key, what.Issuer != nil})
			case what.Issuer != nil && now.Sub(last.at) < spreadPatience:
				busy++
			}
		}
		return nil
	})
	var ids []string
	for _, n := range all {
		if n.renews {
			if busy >= spreadAtOnce {
				more = true
				continue
			}
			busy++
		}
		before[n.id] = told{n.what, now}
		ids = append(ids, n.id)
	}
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
	m.n.log.Info("what was needed for certificates of before is forgotten: every node has one of the CA in force")
	return nil
}

// heardMembership takes what the leader said about this node.
func (n *Node) heardMembership(what *schedulerpb.Membership) {
	if len(what.GetRoots().GetRoots()) > 0 {
		latest(n.roots, what.GetRoots())
	}
	if len(what.GetIssuer()) > 0 {
		latest(n.issuer, what.GetIssuer())
	}
	if what.GetPromote() {
		select {
		case n.promote <- struct{}{}:
		default:
		}
	}
}

// latest puts v into a channel of one place, instead of what was not looked at
// yet.
func latest[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	select {
	case ch <- v:
	default:
	}
}

// takeRoots takes what a manager says of the cluster's roots, as far as this node
// has reason to, and has its agent say what it trusts now.
func (n *Node) takeRoots(creds *pki.Credentials, said *pkipb.Roots) error {
	changed, err := creds.TakeRoots(said, n.disk.saveRoots)
	if err != nil {
		return fmt.Errorf("the cluster's roots: %w", err)
	}
	if changed {
		n.log.Info("took over trusted roots", "roots", len(creds.Trust().Roots))
		n.toldRoots()
	}
	return nil
}

// toldRoots has the agent say again what this node trusts.
func (n *Node) toldRoots() {
	select {
	case n.retrusted <- struct{}{}:
	default: // it will
	}
}

// followRoots takes what managers say of the roots, and again after a renewal: a
// root goes once nothing of this node's own ends in it.
func (n *Node) followRoots(ctx context.Context, take func(*pkipb.Roots) error) error {
	var said *pkipb.Roots
	for {
		select {
		case said = <-n.roots:
		case <-n.renewed:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := take(said); err != nil {
			n.log.Error("the trusted roots stay as they are", "err", err)
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
			err := r.Now(ctx, want)
			latest(n.renewed, struct{}{})
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
