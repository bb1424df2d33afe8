package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
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
)

// askRelease asks until keyd is open or ctx ends, which it returns the error of.
func (n *Node) askRelease(ctx context.Context, boot *pki.Credentials) error {
	n.notReleased.Store(nil)
	for pause := askAgain; ; pause = min(2*pause, longestAskAgain) {
		if err := n.tryRelease(ctx, boot); err != nil {
			why := oneLine(err).Error()
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
			refused = append(refused, fmt.Sprintf("%s: %v", r.from, oneLine(r.err)))
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
	text := oneLine(err).Error()
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
	from := netip.Addr{}
	if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
		from = at.Addr().Unmap()
	}
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
// the node is known by, and answers once it is committed that it was.
func (m *managerState) release(ctx context.Context, id authz.Identity, from netip.Addr, ticket []byte) ([]byte, error) {
	node, err := m.releasable(id, from)
	if err != nil {
		return nil, err
	}
	var to *keydpb.SessionStatement
	err = unlockingOn(ctx, m.boot, otherManager{ID: node.GetId(), Address: node.GetAddress()}, func(ctx context.Context, c controlpb.UnlockingClient) error {
		r, err := c.Session(ctx, &controlpb.SessionRequest{})
		to = r.GetStatement()
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("no locked manager was found at %s, the address of %s: %w", node.GetAddress(), node.GetName(), oneLine(err))
	case to == nil:
		return nil, fmt.Errorf("%s is open, at %s: somebody else asks in its name", node.GetName(), node.GetAddress())
	}
	r, err := m.n.keyd.Release(ctx, &keydpb.ReleaseRequest{To: to, Ticket: ticket})
	if err != nil {
		return nil, err
	}
	if r.GetNodeId() != node.GetId() {
		return nil, errors.New("the session is of another manager")
	}
	session := sha256.Sum256(to.GetSessionKey())
	var refused error
	err = m.store.Update(ctx, func(tx *raftstore.Tx) error {
		refused = nil
		if _, err := releasable(tx, id, from); err != nil { // it may have been removed meanwhile
			return err
		}
		rec, _ := autolockstore.Releases.Get(tx, node.GetId())
		sched, _ := schedstore.Nodes.Get(tx, node.GetId())
		var next *autolockpb.Release
		next, refused = judgeTicket(rec, sched.GetDescription().GetTicket(), r, session[:], from.String())
		if next == nil {
			return nil
		}
		return autolockstore.Releases.Put(tx, next)
	})
	if err := errors.Join(err, refused); err != nil {
		return nil, err
	}
	return r.GetSealed(), nil
}

func (m *managerState) releasable(id authz.Identity, from netip.Addr) (node *pkipb.Node, err error) {
	err = m.store.View(func(r *raftstore.ReadTx) error {
		node, err = releasable(r, id, from)
		return err
	})
	return node, err
}

// releasable is the record of a manager that may be released now.
func releasable(r raftstore.Reader, id authz.Identity, from netip.Addr) (*pkipb.Node, error) {
	rec, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
	slot := autolock.ReleaseSlot(rec.GetSet())
	if slot == nil {
		return nil, errors.New("managers do not open each other (any more): there is no slot for it")
	}
	node, ok := pkistore.Nodes.Get(r, id.NodeID)
	switch {
	case !ok || node.GetDenied():
		return nil, errors.New("it was removed from the cluster")
	case node.GetRole() != profilepb.Role_ROLE_MANAGER || len(id.SPKI) == 0 || !bytes.Equal(id.SPKI, node.GetBootSpki()):
		return nil, errors.New("it is not known as a manager by that certificate")
	}
	return node, autolock.MayRelease(slot.GetRelease(), from, time.Now())
}
