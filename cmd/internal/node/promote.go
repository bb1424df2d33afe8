package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// promotion is the file of that name: what a worker becomes a manager with. It
// is written when keyd holds the keys and before the cluster is asked to count
// on this node, and removed last, so that a node that stops half way goes on.
type promotion struct {
	Member member   `json:"member"`
	Leaf   leafFile `json:"leaf"` // sealed
	Boot   leafFile `json:"boot"`
}

// errPromoted and errDemoted end a state because the node's role changed.
var (
	errPromoted = errors.New("this node is a manager now")
	errDemoted  = errors.New("this node is a worker now")
)

const (
	// roleRetry is the pause between two attempts to follow a change of role;
	// roleTries is how many there are before the leader says it again.
	roleRetry = 2 * time.Second
	roleTries = 5
	// longestRoleRetry bounds the pause while keyd does not answer.
	longestRoleRetry = time.Minute
)

// awaitPromotion follows the leader's wish that this worker be a manager.
func (n *Node) awaitPromotion(ctx context.Context, w *workerState) error {
	staged, err := n.disk.loadPromotion()
	if err != nil {
		return err
	}
	for pause := roleRetry; ; pause = min(2*pause, longestRoleRetry) {
		if staged, err = n.settleKeyd(ctx, staged); err == nil {
			break
		}
		n.log.Warn("keyd could not be asked what it holds", "err", err, "retry_in", pause)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	for {
		if staged == nil {
			select {
			case <-n.promote:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for range roleTries {
			if staged, err = n.tryPromotion(ctx, w, staged); err == nil {
				return errPromoted
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			n.log.Warn("this node did not become a manager yet", "err", err)
			n.setTrouble(fmt.Errorf("becoming a manager: %w", err))
			if status.Code(err) == codes.FailedPrecondition {
				break // nobody wants it any more
			}
			if err := sleep(ctx, roleRetry); err != nil {
				return err
			}
		}
	}
}

// tryPromotion goes as far as it gets and returns what is staged.
func (n *Node) tryPromotion(ctx context.Context, w *workerState, staged *promotion) (*promotion, error) {
	cc, err := n.dialManager(ctx, w.creds, w.managers())
	if err != nil {
		return staged, err
	}
	defer cc.Close()
	client := pkipb.NewMembershipClient(cc)
	if staged == nil {
		if staged, err = n.stagePromotion(ctx, w, client); err != nil {
			return nil, err
		}
	}
	_, err = client.Promote(ctx, &pkipb.PromoteRequest{StoreLevel: storeLevel(), Address: staged.Member.Advertise, Confirm: &pkipb.PromotionConfirm{
		Leaf: &profilepb.CertificateChain{Certificates: staged.Leaf.Chain}, Boot: &profilepb.CertificateChain{Certificates: staged.Boot.Chain}}})
	// A reply that was lost: the record says manager, and the worker leaf is
	// refused for that very reason.
	if r := authz.RefusalOf(err); r.GetReason() == authzpb.Refusal_REASON_ROLE_CHANGED && r.GetNodeId() == n.who().NodeID {
		err = nil
	}
	switch {
	case err == nil:
		return staged, n.finishPromotion(staged)
	case status.Code(err) == codes.FailedPrecondition, status.Code(err) == codes.InvalidArgument:
		// Not wanted any more, or the keys were rotated meanwhile: begin anew.
		return nil, errors.Join(err, n.dropPromotion(ctx))
	}
	return staged, err
}

// stagePromotion gets certificates and keys and keeps them durably.
func (n *Node) stagePromotion(ctx context.Context, w *workerState, client pkipb.MembershipClient) (*promotion, error) {
	advertise, err := n.cfg.advertised("")
	if err != nil {
		return nil, err
	}
	if err := n.keyd.Forget(ctx); err != nil { // what an attempt before this one left
		return nil, err
	}
	keydKey, err := n.keyd.PrepareJoin(ctx)
	if err != nil {
		return nil, err
	}
	p, err := w.creds.RequestPromotion(ctx, client, keydKey, storeLevel(), machineTPM{n.keyd})
	if err != nil {
		return nil, err
	}
	s := &promotion{Member: n.who()}
	s.Member.Manager, s.Member.Advertise, s.Member.Managers, s.Member.Peers = true, advertise, nil, nil
	for _, m := range p.Managers {
		s.Member.Managers, s.Member.Peers = append(s.Member.Managers, m.GetAddress()), append(s.Member.Peers, m.GetNodeId())
	}
	root := p.Leaf.GetCertificates()[len(p.Leaf.GetCertificates())-1]
	if err := n.takeKeyset(ctx, &s.Member, p.Incarnation, p.SealedKeyset, p.Slots, root); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	sealed, err := n.keyd.SealLeaf(ctx, &keydpb.SealLeafRequest{LeafKey: der})
	if err != nil {
		return nil, err
	}
	boot, err := n.protectLeaf(ctx, p.Boot, p.BootKey, attestedBy(p.Leaf))
	if err != nil {
		return nil, err
	}
	s.Leaf = leafFile{Chain: p.Leaf.GetCertificates(), Sealed: sealed.GetSealedLeaf()}
	s.Boot = *boot
	return s, n.disk.savePromotion(s)
}

// finishPromotion makes the staged role this node's own. It can be cut short
// anywhere and done again.
func (n *Node) finishPromotion(s *promotion) error {
	if err := n.disk.saveLeaf("leaf", &s.Leaf); err != nil {
		return err
	}
	if err := n.disk.saveLeaf("boot", &s.Boot); err != nil {
		return err
	}
	if err := n.disk.saveMember(&s.Member); err != nil {
		return err
	}
	m := s.Member
	n.become(&m)
	n.log.Info("this node is a manager now; after its next restart it is locked and needs the operator key")
	return n.disk.removePromotion()
}

// dropPromotion gives up what is staged, the keys first: the file is what says
// that there are any.
func (n *Node) dropPromotion(ctx context.Context) error {
	if err := n.keyd.Forget(ctx); err != nil {
		return err
	}
	return n.disk.removePromotion()
}

// settleKeyd brings what keyd holds and what is staged together on a worker: a
// node that stopped between two steps may have one without the other. Keys that
// nothing stands for are forgotten.
func (n *Node) settleKeyd(ctx context.Context, staged *promotion) (*promotion, error) {
	st, err := n.keyd.Status(ctx)
	switch empty := st.GetState() == keydpb.LockState_LOCK_STATE_EMPTY; {
	case err != nil:
		return staged, err
	case empty == (staged == nil):
		return staged, nil
	case empty:
		n.log.Warn("the keys of a promotion that was cut short are gone: it begins anew when it is asked for again")
		return nil, n.disk.removePromotion()
	}
	n.log.Warn("keyd held keys of a manager, which this node is not: they are forgotten")
	return nil, n.keyd.Forget(ctx)
}

// mendRole finishes a change of role that was cut short and returns the member.
func (n *Node) mendRole(ctx context.Context, m *member) (*member, error) {
	if m == nil {
		return nil, nil
	}
	leaf, err := n.disk.loadLeaf("leaf")
	if err != nil {
		return m, nil // the state itself reports it
	}
	staged, err := n.disk.loadPromotion()
	switch {
	case err != nil:
		return nil, err
	case m.Manager && len(leaf.Key)+len(leaf.TPM) > 0: // the worker leaf is there already
		if err := n.finishDemotion(ctx, m, leaf); err != nil {
			return nil, err
		}
	case !m.Manager && staged != nil && len(leaf.Sealed) > 0: // the manager leaf is
		if err := n.finishPromotion(staged); err != nil {
			return nil, err
		}
	case m.Manager && staged != nil:
		return m, n.disk.removePromotion()
	case !m.Manager && staged == nil && (n.disk.used() || n.disk.has("boot")):
		return m, n.dropManager(ctx)
	default:
		return m, nil
	}
	next := n.who()
	return &next, nil
}

// demote asks for this node's worker leaf.
func (n *Node) demote(ctx context.Context, creds *pki.Credentials, managers []string) (*leafFile, error) {
	cc, err := n.dialManager(ctx, creds, managers)
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	chain, key, err := creds.RequestDemotion(ctx, pkipb.NewMembershipClient(cc), machineTPM{n.keyd})
	if err != nil {
		return nil, err
	}
	return n.protectLeaf(ctx, chain, key, attestedBy(chain))
}

// awaitDemotion returns errDemoted once a manager said that this node's role
// changed and gave it a worker leaf, which is in got then.
func (n *Node) awaitDemotion(ctx context.Context, creds *pki.Credentials, managers func() []string, got **leafFile) error {
	for {
		select {
		case <-n.roleChanged:
		case <-ctx.Done():
			return ctx.Err()
		}
		leaf, err := n.demote(ctx, creds, managers())
		if err == nil {
			*got = leaf
			return errDemoted
		}
		n.log.Warn("this manager seems to have been demoted, and got no worker certificate yet", "err", err)
		if err := sleep(ctx, roleRetry); err != nil {
			return err
		}
	}
}

// finishDemotion makes this node a worker: the leaf first, the keys of a manager
// last. It can be cut short anywhere and done again.
func (n *Node) finishDemotion(ctx context.Context, m *member, leaf *leafFile) error {
	if err := n.disk.saveLeaf("leaf", leaf); err != nil {
		return err
	}
	next := *m
	next.Manager, next.Advertise, next.Peers, next.Founding = false, "", nil, false
	if err := n.disk.saveMember(&next); err != nil {
		return err
	}
	n.become(&next)
	n.log.Warn("this node was demoted: it is a worker now and forgets the cluster's state and keys")
	return n.dropManager(ctx)
}

// dropManager wipes what only a manager has, the keys first: the files are what
// tells a node that was cut short here that there is something left to do. The
// store is sealed under a key that keyd forgets.
func (n *Node) dropManager(ctx context.Context) error {
	if err := n.keyd.Forget(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return n.disk.wipeManager()
}

func (d disk) loadPromotion() (*promotion, error) {
	var p promotion
	if err := d.load("promotion", &p); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &p, nil
}

func (d disk) savePromotion(p *promotion) error { return d.save("promotion", p) }

func (d disk) removePromotion() error { return atomicfile.Remove(d.path("promotion")) }
