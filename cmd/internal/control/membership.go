package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/authority"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Rotator has keyd make the keyset of the managers that stay, from their leaves
// in DER.
type Rotator interface {
	RotateKeyset(ctx context.Context, stay, retired [][]byte) (*keydpb.RotateKeysetResponse, error)
}

// RemoveNode denies a node for ever. Its connections are cut and its tasks move
// as soon as this is committed; where it is a manager, all that it knows the
// keys of is replaced in the same transaction.
func (s *Server) RemoveNode(ctx context.Context, req *controlpb.RemoveNodeRequest) (*controlpb.RemoveNodeResponse, error) {
	l := &leaving{Server: s, ref: req.GetNode(), slot: req.GetSlot(), only: req.GetCheck(),
		force: req.GetForce() || req.GetCompromised(), how: pki.Leaving{Compromised: req.GetCompromised()}}
	if gone, err := s.left(ctx, req.GetNode(), true); err != nil || gone != nil {
		return s.removeAgain(ctx, gone, req, err)
	}
	if err := l.run(ctx); err != nil {
		return nil, err
	}
	resp := &controlpb.RemoveNodeResponse{Id: l.node.GetId(), Rotation: l.rotation, Manager: l.manager(), NoSlot: l.noSlot(), Known: l.known, Unlisted: l.unlisted}
	if l.only {
		return resp, nil
	}
	if req.GetCompromised() {
		resp.Services = l.services
	}
	s.c.Logger.InfoContext(ctx, "node removed", "node", resp.GetId(), "compromised", req.GetCompromised(), "keyset_epoch", l.rotation.GetKeysetEpoch())
	return resp, nil
}

// DemoteNode makes a manager a worker. Its containers go on.
func (s *Server) DemoteNode(ctx context.Context, req *controlpb.DemoteNodeRequest) (*controlpb.DemoteNodeResponse, error) {
	l := &leaving{Server: s, ref: req.GetNode(), slot: req.GetSlot(), only: req.GetCheck(), force: true, how: pki.Leaving{Demote: true}}
	if err := l.run(ctx); err != nil || l.only {
		return &controlpb.DemoteNodeResponse{Id: l.node.GetId(), NoSlot: l.noSlot()}, err
	}
	s.c.Logger.InfoContext(ctx, "manager demoted", "node", l.node.GetId(), "keyset_epoch", l.rotation.GetKeysetEpoch())
	return &controlpb.DemoteNodeResponse{Id: l.node.GetId(), Rotation: l.rotation, NoSlot: l.noSlot(), Known: l.known}, nil
}

// leaving is one removal or demotion.
type leaving struct {
	*Server
	ref   string
	slot  *keydpb.Slot
	force bool
	only  bool // check and no more
	how   pki.Leaving

	// What the first look found.
	node     *pkipb.Node
	cluster  *pkipb.Cluster
	stay     []*pkipb.Node // managers, in the order of their ids
	retire   [][]byte      // keyd keys
	operator *keydpb.Slot  // that is replaced by slot; nil: there is none
	voter    bool

	next     *keydpb.RotateKeysetResponse
	rotation *controlpb.Rotation
	services []string
	known    *controlpb.KnownSecrets
	unlisted bool // what its tasks held is not on the revocation list
}

// noSlot reports whether no operator key is replaced.
func (l *leaving) noSlot() bool { return l.operator == nil || !l.only && l.slot == nil }

func (l *leaving) manager() bool { return l.node.GetRole() == profilepb.Role_ROLE_MANAGER }

// run checks, has the next keyset made, takes the vote and commits. A failure
// before the commit changes nothing but the vote, which the node gets back.
func (l *leaving) run(ctx context.Context) error {
	if err := l.view(ctx, func(r *raftstore.ReadTx) error { return l.look(r) }); err != nil {
		return err
	}
	if err := l.check(ctx); err != nil || l.only {
		return err
	}
	if pki.KnowsKeyset(l.cluster, l.node) {
		if err := l.rotate(ctx); err != nil {
			return err
		}
	}
	// Without its vote first, the commit itself and all that follows would need
	// the node that leaves.
	if l.voter {
		if err := l.c.Store.DemoteVoter(ctx, l.node.GetId()); err != nil {
			return err
		}
	}
	if err := l.update(ctx, l.commit); err != nil {
		if errors.Is(err, pki.ErrRotated) {
			return apierr.Conflict("cluster's set of managers")
		}
		return err
	}
	if !l.how.Demote {
		l.unlisted = !l.listHeld(ctx, l.node.GetId())
	}
	if l.manager() {
		// The leader's duty repeats it where this fails.
		if err := l.c.Store.RemoveServer(ctx, l.node.GetId()); err != nil {
			l.c.Logger.WarnContext(ctx, "the quorum still has a manager that left", "node", l.node.GetId(), "err", err)
		}
	}
	return nil
}

// look reads what the decision rests on.
func (l *leaving) look(r raftstore.Reader) (err error) {
	if l.node, err = resolveNode(r, l.ref); err != nil {
		return err
	}
	if l.cluster, err = pkistore.GetCluster(r); err != nil {
		return err
	}
	l.stay = nil
	for m := range pkistore.Nodes.By(r, "role", "manager") {
		if !m.GetDenied() && m.GetId() != l.node.GetId() {
			l.stay = append(l.stay, m)
		}
	}
	l.retire = pki.KeysToRetire(r, l.node)
	slots, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
	l.operator = autolock.LeavingSlot(slots.GetSet())
	slices.SortFunc(l.stay, func(a, b *pkipb.Node) int { return strings.Compare(a.GetId(), b.GetId()) })
	sched, _ := schedstore.Nodes.Get(r, l.node.GetId())
	switch {
	case schedstore.Up(sched) && !l.force:
		return apierr.State("stop it first, or add --force", "node %s is up", l.node.GetName())
	case l.how.Demote && !l.manager():
		return apierr.State("", "node %s is a worker already", l.node.GetName())
	case l.manager() && !l.how.Compromised && len(l.stay) > 0:
		return roles.MayLeave(r, l.node.GetId())
	}
	return nil
}

// check refuses what would cost the cluster its quorum, and has another manager
// do what this one cannot do to itself.
func (l *leaving) check(ctx context.Context) error {
	if !l.manager() {
		return nil
	}
	name, id := l.node.GetName(), l.node.GetId()
	if self(ctx) == id {
		return apierr.State("run the command on another manager", "manager %s does not take itself out", name)
	}
	if len(l.stay) == 0 {
		return apierr.State("add another manager first: `redoubt node promote`", "%s is the last manager", name)
	}
	if !l.only {
		if err := l.checkSlot(); err != nil {
			return err
		}
	}
	connected := l.connected()
	voters, up := 0, 0
	for _, srv := range l.c.Store.Servers() {
		switch {
		case srv.ID == id:
			l.voter = srv.Voter
		case srv.Voter:
			voters++
			// Who asks is there, with a session or on the way to one.
			if connected[srv.ID] || srv.ID == l.c.Store.NodeID() || srv.ID == self(ctx) {
				up++
			}
		}
	}
	if up < voters/2+1 {
		return apierr.State("bring them back (a locked one: `redoubt unlock` on it), or remove those first",
			"without %s only %d of %d managers with a vote would be up, which is no majority", name, up, voters)
	}
	if id == l.c.Store.NodeID() {
		if err := l.c.Store.TransferLeadership(ctx); err != nil {
			return err
		}
		return apierr.New(apierr.ReasonNoLeader, "run the command again", "manager %s led the cluster and handed over", name)
	}
	return nil
}

// checkSlot refuses a leaving whose new operator key would open nothing. Without a key
// the old one stays: who may take a manager out may not be one who has its key.
func (l *leaving) checkSlot() error {
	switch {
	case l.slot == nil:
		return nil
	case l.operator == nil:
		return apierr.State("run the command again", "there is no operator key to be replaced")
	}
	if err := autolock.CheckSlot(l.slot); err != nil {
		return apierr.Invalid("", "%v", err)
	}
	if l.slot.GetKind() != keydpb.SlotKind_SLOT_KIND_OPERATOR || !ident.Valid(l.slot.GetId()) {
		return apierr.Invalid("", "only an operator key's slot can be rotated")
	}
	return nil
}

// rotate has keyd make the next keyset, sealed to those who stay and can come back.
func (l *leaving) rotate(ctx context.Context) error {
	var stay [][]byte
	forgotten := pki.Forgotten(l.cluster)
	for _, m := range l.stay {
		if forgotten(m) {
			continue
		}
		if len(m.GetLeaf()) == 0 {
			return apierr.State("wait until it has renewed its certificate, or remove it first", "the certificate of manager %s is not on record yet", m.GetName())
		}
		stay = append(stay, m.GetLeaf())
	}
	err := l.keydReady(ctx, func() (err error) {
		l.next, err = l.c.Rotator.RotateKeyset(ctx, stay, l.retire)
		return err
	})
	if keydclient.CodeOf(err) == keydpb.Code_CODE_RATE_LIMITED {
		return apierr.State("try again in half a minute", "the cluster's keys were rotated or given too often just now")
	}
	if err != nil {
		return err
	}
	if l.next.GetEpoch() != pki.KeysetEpoch(l.cluster)+1 {
		return apierr.State("try again in a few seconds", "the leader has not taken over the last keyset yet")
	}
	l.how.Next = &pki.NextKeyset{Epoch: l.next.GetEpoch(), Issuer: l.next.GetIssuer(),
		FormerWorkloadIssuer: l.next.GetFormerWorkloadIssuer(), Retired: l.retire}
	return nil
}

// keydReady does what keyd allows so often and no more, and waits for that: a new key
// was shown already, and would be worth nothing. What changed meanwhile the commit
// finds.
func (l *leaving) keydReady(ctx context.Context, do func() error) error {
	end := time.Now().Add(cmp.Or(l.c.KeydPatience, defaultKeydPatience))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := do()
		if keydclient.CodeOf(err) != keydpb.Code_CODE_RATE_LIMITED || time.Now().After(end) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// commit is the one transaction. It fails where the managers are not those the
// keyset was sealed to.
func (l *leaving) commit(tx *raftstore.Tx) error {
	now := &leaving{Server: l.Server, ref: l.node.GetId(), force: l.force, how: l.how}
	if err := now.look(tx); err != nil {
		return err
	}
	same := func(a, b *pkipb.Node) bool { return a.GetId() == b.GetId() }
	if now.node.GetRole() != l.node.GetRole() || l.next != nil && !slices.EqualFunc(now.stay, l.stay, same) {
		return pki.ErrRotated
	}
	if l.manager() && (now.operator == nil) != (l.operator == nil) {
		return apierr.Conflict("set of slots")
	}
	id := l.node.GetId()
	l.services = servicesOn(tx, id)
	switch {
	case l.next != nil:
		l.known = knownToManager(tx, tx.Now())
	case l.how.Compromised:
		l.known = knownToWorker(tx, id)
	}
	if _, err := pki.Leave(tx, id, l.how); err != nil {
		return err
	}
	if l.how.Demote {
		if err := schedstore.SetNodeRole(tx, id, false); err != nil {
			return err
		}
	} else if err := schedstore.RemoveNode(tx, id); err != nil {
		return err
	}
	if err := errors.Join(autolockstore.StoreKeys.Drop(tx, id), autolockstore.Releases.Drop(tx, id), pkistore.KeydJournals.Drop(tx, id)); err != nil {
		return err
	}
	if l.next == nil {
		return nil
	}
	l.rotation = &controlpb.Rotation{KeysetEpoch: l.next.GetEpoch(), RootExposed: l.how.Compromised, External: now.cluster.GetExternal().GetUrl()}
	return errors.Join(l.putKeysets(tx), l.putSlots(tx), l.countTokens(tx))
}

func (l *leaving) putKeysets(tx *raftstore.Tx) error {
	if _, ok := autolockstore.Keysets.Get(tx, l.node.GetId()); ok {
		if err := autolockstore.Keysets.Delete(tx, l.node.GetId()); err != nil {
			return err
		}
	}
	return authority.PutKeysets(tx, l.next.GetEpoch(), l.next.GetSealed())
}

// putSlots replaces an operator's slot where there is one, and every manager's KEK:
// who is away opens with the old key, or by what it was sealed to before, once more.
func (l *leaving) putSlots(tx *raftstore.Tx) (err error) {
	if !l.manager() {
		return nil // a worker that was given the keyset, and no operator's key
	}
	connected := l.connected()
	for _, m := range l.stay {
		if !connected[m.GetId()] {
			l.rotation.Away = append(l.rotation.Away, m.GetName())
		}
	}
	l.rotation.SlotEpoch, l.rotation.SlotsKept, err = rotateForLeaving(tx, l.slot)
	return err
}

// countTokens counts what the rotation voids.
func (l *leaving) countTokens(tx *raftstore.Tx) error {
	c, err := pkistore.GetCluster(tx)
	if err != nil {
		return err
	}
	for t := range pkistore.Tokens.All(tx) {
		// Void since now, and not since a rotation before.
		if pki.TokenVoid(c, t) && pki.Usable(t, l.cluster, tx.Now()) {
			l.rotation.TokensVoid++
		}
	}
	return nil
}
