package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// A locked manager asks the others to open it, and the one that leads does where the
// cluster has a slot for it (decision 95).

const (
	// askAgain, doubling up to longestAskAgain, is the pause before the others are
	// asked again.
	askAgain, longestAskAgain = 250 * time.Millisecond, 10 * time.Second
	// lookUpFor bounds asking where a manager's name leads.
	lookUpFor = 2 * time.Second
)

// askRelease asks until keyd is open or ctx ends, which it returns the error of.
func (n *Node) askRelease(ctx context.Context, boot *pki.Credentials) error {
	n.notReleased.Store(nil)
	for pause := askAgain; ; pause = min(2*pause, longestAskAgain) {
		if err := n.tryRelease(ctx, boot); err != nil {
			why := messageOf(err).Error()
			if was := n.notReleased.Swap(&why); was == nil || *was != why {
				n.log.Warn("the other managers did not open this one", "err", err)
			}
			n.noteNotReleased()
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// noteNotReleased has the status of a locked node say it.
func (n *Node) noteNotReleased() {
	if n.status().phase == controlpb.NodePhase_NODE_PHASE_LOCKED {
		n.setPhase(controlpb.NodePhase_NODE_PHASE_LOCKED, nil, "%s", n.lockedMessage())
	}
}

// tryRelease asks all others at once: one of them leads. It returns nil where there
// is nothing to ask for.
func (n *Node) tryRelease(ctx context.Context, boot *pki.Credentials) error {
	st, err := n.keyd.Status(ctx)
	if err != nil || st.GetState() != keydpb.LockState_LOCK_STATE_LOCKED || len(st.GetTicket()) == 0 {
		return nil // others say what is wrong with keyd
	}
	others, err := n.disk.others()
	if err != nil {
		return err
	}
	if len(others) == 0 {
		return errors.New("no other manager is known here")
	}
	type reply struct {
		sealed []byte
		from   string
		err    error
	}
	replies := make(chan reply, len(others))
	for _, o := range others {
		go func() { // waited for below
			r := reply{from: o.Name}
			r.err = unlockingOn(ctx, boot, o, func(ctx context.Context, c controlpb.UnlockingClient) error {
				resp, err := c.Release(ctx, &controlpb.ReleaseRequest{Ticket: st.GetTicket()})
				r.sealed = resp.GetSealed()
				return err
			})
			replies <- r
		}()
	}
	var refused, silent []string
	taken := false
	for range others {
		r := <-replies
		switch {
		case taken:
		case r.err == nil:
			if err := n.keyd.TakeRelease(ctx, r.sealed); err != nil {
				refused = append(refused, fmt.Sprintf("%s released it, and keyd here says: %v", r.from, err))
				continue
			}
			n.log.Info("opened by another manager", "manager", r.from)
			taken = true
		case status.Code(r.err) == codes.Unavailable || status.Code(r.err) == codes.Unknown: // not the leader, or away
			silent = append(silent, r.from+": "+unheard(r.err))
		default:
			refused = append(refused, fmt.Sprintf("%s: %v", r.from, messageOf(r.err)))
		}
	}
	switch {
	case taken:
		return nil
	case len(refused) == 0:
		refused = silent
	}
	slices.Sort(refused)
	return errors.New(strings.Join(refused, "; "))
}

// unheard is why a manager answered nothing. One that knows this one no more closes
// the connection before anything is said on it.
func unheard(err error) string {
	text := messageOf(err).Error()
	if strings.HasPrefix(text, "connection error") {
		return "it closed the connection: this manager was removed, or that one is starting"
	}
	return text
}

// Release is answered by the leader.
func (u unlocking) Release(ctx context.Context, req *controlpb.ReleaseRequest) (*controlpb.ReleaseResponse, error) {
	switch {
	case u.m == nil:
		return nil, status.Error(codes.Unavailable, "this manager is locked itself")
	case !u.m.store.IsLeader():
		return nil, status.Error(codes.Unavailable, "this manager does not lead")
	}
	id, ok := authz.FromContext(ctx)
	p, ok2 := peer.FromContext(ctx)
	if !ok || !ok2 || id.NodeID == "" {
		return nil, status.Error(codes.PermissionDenied, "who asks is not known")
	}
	from, _ := strangers.SourceOf(p.Addr)
	sealed, err := u.m.release(ctx, id, from, req.GetTicket())
	if err != nil {
		u.n.log.Warn("a manager that asked for it was not released", "node", id.NodeID, "address", from, "err", err)
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codes.FailedPrecondition, err.Error())
		}
		return nil, err
	}
	u.n.log.Info("a manager was released", "node", id.NodeID, "address", from)
	return &controlpb.ReleaseResponse{Sealed: sealed}, nil
}

// release decides, has keyd open the ticket for whoever is locked at the address that
// the node is known by, and answers once it is committed that it was. keyd is asked
// last: what it journals and how often it may is for managers that are released.
func (m *managerState) release(ctx context.Context, id authz.Identity, from netip.Addr, ticket []byte) ([]byte, error) {
	node, policy, err := m.releasable(id, from)
	if err != nil {
		return nil, err
	}
	claimed := new(keydpb.Ticket)
	if err := proto.Unmarshal(ticket, claimed); err != nil {
		return nil, errors.New("the ticket is malformed")
	}
	to, why, err := m.locked(ctx, node, from)
	if err != nil {
		return nil, err
	}
	if why == nil && m.beats(node.GetId()) {
		// Whoever answered at its address, it is not locked. It may be a session that
		// nobody has noticed the end of, so this is no refusal for good, and no event.
		return nil, fmt.Errorf("%s is heard on another connection: where its machine just stopped, ask again in some seconds", node.GetName())
	}
	if why == nil {
		why = m.recent(node.GetId(), policy, time.Now())
	}
	if why != nil {
		if err := m.refuse(ctx, node.GetId(), why, from); err != nil {
			return nil, err
		}
		return nil, why
	}
	session := sha256.Sum256(to.GetSessionKey())
	// As it says itself; the commit below holds what keyd found.
	shown := &keydpb.ReleaseResponse{NodeId: node.GetId(), SlotId: claimed.GetSlotId(), Generation: claimed.GetGeneration()}
	if err := m.judge(ctx, id, from, shown, session[:], false); err != nil {
		return nil, err
	}
	r, err := m.n.keyd.Release(ctx, &keydpb.ReleaseRequest{To: to, Ticket: ticket})
	if err != nil {
		return nil, err
	}
	if r.GetNodeId() != node.GetId() {
		return nil, errors.New("the session is of another manager")
	}
	if err := m.judge(ctx, id, from, r, session[:], true); err != nil {
		return nil, err
	}
	return r.GetSealed(), nil
}

// locked is the session of the keyd that is locked at the node's address, or why it is
// somebody else who asks.
func (m *managerState) locked(ctx context.Context, node *pkipb.Node, from netip.Addr) (to *keydpb.SessionStatement, why *refusal, _ error) {
	var answered peer.Peer
	err := unlockingOn(ctx, m.boot, otherManager{ID: node.GetId(), Address: node.GetAddress()}, func(ctx context.Context, c controlpb.UnlockingClient) error {
		r, err := c.Session(ctx, &controlpb.SessionRequest{}, grpc.Peer(&answered))
		to = r.GetStatement()
		return err
	})
	if err == nil && to != nil {
		return to, nil, nil
	}
	// Who asks from there may have been opened, or stopped, meanwhile.
	reached, _ := strangers.SourceOf(answered.Addr)
	other := elsewhere(ctx, net.DefaultResolver.LookupNetIP, node.GetAddress(), reached, from)
	switch {
	case err != nil && other:
		return nil, &refusal{"elsewhere", fmt.Sprintf("no locked manager was found at %s, the address of %s, and it is asked for from %s: %v", node.GetAddress(), node.GetName(), from, messageOf(err))}, nil
	case err != nil:
		return nil, nil, fmt.Errorf("no locked manager was found at %s, the address of %s: %w", node.GetAddress(), node.GetName(), messageOf(err))
	case other:
		return nil, &refusal{"in use", fmt.Sprintf("%s is open, at %s: somebody else asks in its name", node.GetName(), node.GetAddress())}, nil
	}
	return nil, nil, fmt.Errorf("%s is open already", node.GetName())
}

// elsewhere reports whether from is not where a node's address leads, which is a
// host:port. reached is where somebody answered there, if anybody did. A name stands
// for all that it resolves to, and for nothing where it does not within lookUpFor.
func elsewhere(ctx context.Context, lookup func(_ context.Context, network, host string) ([]netip.Addr, error), address string, reached, from netip.Addr) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true
	}
	if at, err := netip.ParseAddr(host); err == nil {
		return at.Unmap().WithZone("") != from
	}
	if reached.IsValid() && reached == from {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpFor)
	defer cancel()
	at, err := lookup(ctx, "ip", host)
	return err != nil || !slices.ContainsFunc(at, func(a netip.Addr) bool { return a.Unmap().WithZone("") == from })
}

// beats reports whether a manager is heard in its session with the leader at this
// moment, as one that is locked is not.
func (m *managerState) beats(id string) bool {
	d := m.dispatcher.Load()
	return d != nil && d.Beats(id)
}

// recent is why a manager is not released that was away for too long.
func (m *managerState) recent(id string, policy *keydpb.ReleasePolicy, now time.Time) *refusal {
	d := m.dispatcher.Load()
	if d == nil {
		return errNotHeard
	}
	heard, ok := d.LastHeard(id)
	if !ok {
		return errNotHeard
	}
	// By whichever clock it is longer: a wall clock may have been set back.
	if err := autolock.Recent(policy, max(now.Sub(heard), now.Round(0).Sub(heard.Round(0)))); err != nil {
		return &refusal{"away too long", err.Error() + " of that: open it with what people have"}
	}
	return nil
}

// judge holds a ticket against the records, and has them say that it was refused, or
// with spend that it was used.
func (m *managerState) judge(ctx context.Context, id authz.Identity, from netip.Addr, shown *keydpb.ReleaseResponse, session []byte, spend bool) error {
	var refused *refusal
	err := m.store.Update(ctx, func(tx *raftstore.Tx) error {
		node, _, err := releasable(tx, id, from, tx.Now()) // it may have been removed meanwhile
		if err != nil {
			return err
		}
		rec, _ := autolockstore.Releases.Get(tx, node.GetId())
		sched, _ := schedstore.Nodes.Get(tx, node.GetId())
		var next *autolockpb.Release
		next, refused = judgeTicket(rec, sched.GetDescription().GetTicket(), shown, session, from.String())
		switch {
		case refused != nil:
			next = noteRefusal(rec, node.GetId(), refused, from.String(), tx.Now())
		case !spend:
			return nil
		}
		if next == nil {
			return nil
		}
		return autolockstore.Releases.Put(tx, next)
	})
	if err == nil && refused != nil {
		return refused
	}
	return err
}

// refuse has the records say that a manager was refused.
func (m *managerState) refuse(ctx context.Context, id string, why *refusal, from netip.Addr) error {
	return m.store.Update(ctx, func(tx *raftstore.Tx) error {
		if node, ok := pkistore.Nodes.Get(tx, id); !ok || node.GetDenied() {
			return nil // what is noted of it goes with it
		}
		rec, _ := autolockstore.Releases.Get(tx, id)
		if next := noteRefusal(rec, id, why, from.String(), tx.Now()); next != nil {
			return autolockstore.Releases.Put(tx, next)
		}
		return nil
	})
}

func (m *managerState) releasable(id authz.Identity, from netip.Addr) (node *pkipb.Node, policy *keydpb.ReleasePolicy, err error) {
	now := time.Now()
	err = m.store.View(func(r *raftstore.ReadTx) error {
		if now.Before(r.Clock().Add(-maxSkew)) {
			return fmt.Errorf("the clock here is %s, before what was last recorded: check the managers' time service", now.UTC().Format(time.RFC3339))
		}
		node, policy, err = releasable(r, id, from, now)
		return err
	})
	return node, policy, err
}

// releasable is the record of a manager that may be released at that moment, and by
// what.
func releasable(r raftstore.Reader, id authz.Identity, from netip.Addr, now time.Time) (*pkipb.Node, *keydpb.ReleasePolicy, error) {
	rec, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
	slot := autolock.ReleaseSlot(rec.GetSet())
	if slot == nil {
		return nil, nil, errors.New("managers do not open each other (any more): there is no slot for it")
	}
	node, ok := pkistore.Nodes.Get(r, id.NodeID)
	switch {
	case !ok || node.GetDenied():
		return nil, nil, errors.New("it was removed from the cluster")
	case node.GetRole() != profilepb.Role_ROLE_MANAGER || len(id.SPKI) == 0 || !bytes.Equal(id.SPKI, node.GetBootSpki()):
		return nil, nil, errors.New("it is not known as a manager by that certificate")
	}
	return node, slot.GetRelease(), autolock.MayRelease(slot.GetRelease(), from, now)
}
