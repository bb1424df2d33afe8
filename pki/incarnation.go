package pki

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// perStep bounds what one transaction of BeginIncarnation changes.
const perStep = 256

// Incarnation is the cluster's, as its record says.
func Incarnation(r raftstore.Reader) (uint64, error) {
	c, err := store.GetCluster(r)
	if err != nil {
		return 0, err
	}
	return max(1, c.GetIncarnation()), nil
}

// BeginIncarnation makes the state of a cluster that lost its managers the
// state of its next incarnation, of which self is the only manager: every join
// token is void, every other manager is denied for ever, and what was denied
// stays so. Where the state is a backup's, and does not know self, every node is
// denied: who was removed since must not come back by it, and which those were
// nobody knows any more. So it is with people: invitations and approvals that were not
// used are void, as they may have been since, and a backup's people are without a
// certificate until they are invited again. The incarnation is written last, so that it
// can be cut short anywhere and done again. onDeny and onSelf write what others keep of
// the nodes, onBegin what they change in the transaction with the incarnation.
func BeginIncarnation(ctx context.Context, s Store, incarnation uint64, self FirstManager,
	onDeny func(tx *raftstore.Tx, id string) error, onSelf func(tx *raftstore.Tx, n *pkipb.Node) error, onBegin func(tx *raftstore.Tx) error) error {
	leaf, err := profile.ParseChain(self.Leaf)
	if err != nil {
		return err
	}
	id, err := profile.NodeFromCert(leaf[0])
	if err != nil {
		return err
	}
	restored := false
	err = s.View(func(r *raftstore.ReadTx) error {
		_, known := store.Nodes.Get(r, id.NodeID)
		restored = !known
		return nil
	})
	if err != nil {
		return err
	}
	deny := func(n *pkipb.Node) bool {
		return n.GetId() != id.NodeID && !n.GetDenied() && (restored || n.GetRole() == profilepb.Role_ROLE_MANAGER)
	}
	if err := inSteps(ctx, s, func(tx *raftstore.Tx) (n int, err error) {
		some := first(store.Nodes.All(tx), deny)
		for _, node := range some {
			if err := errors.Join(Deny(tx, node.GetId()), onDeny(tx, node.GetId())); err != nil {
				return 0, err
			}
		}
		return len(some), nil
	}); err != nil {
		return fmt.Errorf("deny the nodes of before: %w", err)
	}
	if err := inSteps(ctx, s, func(tx *raftstore.Tx) (n int, err error) {
		some := first(store.Tokens.All(tx), func(t *pkipb.Token) bool { return !t.GetRevoked() })
		for _, t := range some {
			t = proto.CloneOf(t)
			t.Revoked = true
			if err := store.Tokens.Put(tx, t); err != nil {
				return 0, err
			}
		}
		return len(some), nil
	}); err != nil {
		return fmt.Errorf("void the join tokens: %w", err)
	}
	if err := inSteps(ctx, s, func(tx *raftstore.Tx) (int, error) { return putOut(tx, restored) }); err != nil {
		return fmt.Errorf("void invitations: %w", err)
	}
	if err := inSteps(ctx, s, voidApprovals); err != nil {
		return fmt.Errorf("void approvals: %w", err)
	}
	return s.Update(ctx, func(tx *raftstore.Tx) error {
		c, err := store.GetCluster(tx)
		if err != nil {
			return err
		}
		c = proto.CloneOf(c)
		c.Incarnation = incarnation
		if err := errors.Join(store.Cluster.Put(tx, c), onBegin(tx)); err != nil {
			return err
		}
		if !restored {
			return nil
		}
		n := &pkipb.Node{Id: id.NodeID, Name: self.Name, Role: id.Role, Address: self.Address}
		if err := setLeaves(n, Issued{Leaf: self.Leaf, Boot: self.Boot}, nil); err != nil {
			return err
		}
		if err := putIssued(tx, n); err != nil {
			return err
		}
		return onSelf(tx, n)
	})
}

// putOut takes invitations away, and where the state is a backup's the certificates, too:
// who was revoked since is not known any more.
func putOut(tx *raftstore.Tx, restored bool) (int, error) {
	some := first(store.People.All(tx), func(p *pkipb.Person) bool {
		return p.GetInvitation() != nil || p.GetInvitationId() != "" || restored && (len(p.GetLeafSpki()) > 0 || len(p.GetPreviousSpki()) > 0 || p.GetLeafNotAfter() != 0)
	})
	for _, p := range some {
		p = proto.CloneOf(p)
		p.Invitation, p.InvitationId = nil, ""
		if restored {
			p.LeafSpki, p.PreviousSpki, p.LeafNotAfter, p.LeafIssuer = nil, nil, 0, nil
		}
		if err := store.People.Put(tx, p); err != nil {
			return 0, err
		}
	}
	return len(some), nil
}

// first are the first perStep of seq that want holds for.
func first[T any](seq iter.Seq[T], want func(T) bool) (out []T) {
	for v := range seq {
		if want(v) {
			out = append(out, v)
		}
		if len(out) == perStep {
			break
		}
	}
	return out
}

// inSteps runs step in transactions of their own until it changes less than a
// full one.
func inSteps(ctx context.Context, s Store, step func(*raftstore.Tx) (int, error)) error {
	for {
		var n int
		if err := s.Update(ctx, func(tx *raftstore.Tx) (err error) {
			n, err = step(tx)
			return err
		}); err != nil || n < perStep {
			return err
		}
	}
}
