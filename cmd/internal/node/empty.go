package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// empty waits for init or join.
func (n *Node) empty(ctx context.Context) (state, error) {
	n.emptyPhase()
	for {
		req, err := n.next(ctx)
		if err != nil {
			return nil, err
		}
		var m *member
		switch do := req.do.(type) {
		case *controlpb.InitRequest:
			m, err = n.found(ctx, do)
		case *joinRequest:
			m, err = n.join(ctx, do)
		case *restoreRequest:
			m, err = n.restore(ctx, do)
		default:
			err = apierr.NoCluster()
		}
		if err != nil {
			req.refuse(err)
			continue
		}
		if err := n.disk.dropRemoval(); err != nil {
			n.log.Warn("the note of the removal from the last cluster stays", "err", err)
		}
		n.become(m)
		if m.Manager {
			// Answered once it serves: an operator's next command must work.
			return n.managerAfter(&req), nil
		}
		req.answer <- answer{self: *m}
		return n.worker, nil
	}
}

// clear makes sure that nothing of a cluster is here: what a join or init that
// was cut short left is wiped, a store that was in use is not.
func (n *Node) clear(ctx context.Context) error {
	if n.disk.used() {
		return apierr.State("use another --data-dir, or empty it if what it holds is not needed any more",
			"the data directory holds a store but no membership")
	}
	return n.keyd.Forget(ctx)
}

// found makes a new cluster's keys and this node its first manager. Nothing is
// a member before the membership file is there; the store is made after it.
func (n *Node) found(ctx context.Context, req *controlpb.InitRequest) (*member, error) {
	if err := autolock.CheckSlot(req.GetSlot()); err != nil {
		return nil, apierr.Invalid("", "unlock slot: %v", err)
	}
	advertise, err := n.cfg.advertised(req.GetAdvertise())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if _, err := meshspec.Pools(req.GetPools(), ""); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if err := n.clear(ctx); err != nil {
		return nil, err
	}
	key, csr, err := newKeyAndCSR()
	if err != nil {
		return nil, err
	}
	bootKey, bootCSR, err := newKeyAndCSR()
	if err != nil {
		return nil, err
	}
	m := &member{NodeID: ident.New(), Manager: true, Name: n.cfg.Name, Advertise: advertise, Managers: []string{advertise}, Founding: true, Pools: req.GetPools()}
	resp, err := n.keyd.Init(ctx, &keydpb.InitRequest{NodeId: m.NodeID, ManagerCsr: csr, BootCsr: bootCSR, Slots: []*keydpb.Slot{req.GetSlot()}})
	if err != nil {
		return nil, fmt.Errorf("keyd: %w", err)
	}
	m.ClusterID = resp.GetClusterId()
	if err := n.keepManager(ctx, m, resp.GetManager(), key, resp.GetBoot(), bootKey); err != nil {
		return nil, errors.Join(err, n.forget(ctx))
	}
	n.log.Info("cluster founded", "cluster", m.ClusterID, "node", m.NodeID)
	return m, nil
}

// joinPatience is how long a join is tried that is told to come later, or cut off:
// less than the command line waits for the answer.
const joinPatience = 90 * time.Second

// join asks a cluster to admit this node.
func (n *Node) join(ctx context.Context, req *joinRequest) (*member, error) {
	var managers []string
	for _, a := range req.GetManagers() {
		addr, err := pki.CompleteAddress(a)
		if err != nil {
			return nil, apierr.Invalid("", "%v", err)
		}
		managers = append(managers, addr)
	}
	if err := n.clear(ctx); err != nil {
		return nil, err
	}
	// A worker needs no address; whether this becomes one, the token says.
	advertise, addrErr := n.cfg.advertised(req.GetAdvertise())
	if addrErr != nil && req.GetAdvertise() != "" {
		return nil, apierr.Invalid("", "%v", addrErr)
	}
	defer n.approval.Store(nil)
	j, err := pki.Join(ctx, pki.JoinRequest{Token: req.token, Managers: managers, NodeName: n.cfg.Name, Address: advertise, KeydKey: n.keyd.PrepareJoin,
		TPM: machineTPM{n.keyd}, Waiting: func(fingerprint string) { n.approval.Store(&fingerprint) },
		StoreLevel: storeLevel(),
		Patience:   joinPatience, Stop: req.gone})
	if err != nil {
		return nil, errors.Join(joinRefusal(err), n.forget(ctx))
	}
	m := &member{NodeID: j.NodeID, ClusterID: j.ClusterID, Name: n.cfg.Name, Manager: j.Role == profilepb.Role_ROLE_MANAGER}
	for _, o := range j.Managers {
		m.Managers, m.Peers = append(m.Managers, o.GetAddress()), append(m.Peers, o.GetNodeId())
	}
	if len(m.Managers) == 0 {
		m.Managers = managers
	}
	if err = n.disk.saveRoots(j.Trust.Kept()); err != nil {
		return nil, errors.Join(err, n.forget(ctx))
	}
	if !m.Manager {
		err = n.keepWorker(ctx, m, j)
	} else {
		m.Advertise = advertise
		err = n.importKeyset(ctx, m, j)
	}
	if err != nil {
		return nil, errors.Join(err, n.forget(ctx))
	}
	n.log.Info("joined", "cluster", m.ClusterID, "node", m.NodeID, "manager", m.Manager)
	return m, nil
}

// joinRefusal tells a refusal of the cluster from a cluster that was not met.
func joinRefusal(err error) error {
	for _, e := range []error{pki.ErrOtherCluster, pki.ErrNotManager, pki.ErrUntrusted} {
		if errors.Is(err, e) {
			return apierr.New(apierr.ReasonDenied, "", "%v", err)
		}
	}
	var op *net.OpError
	var dns *net.DNSError
	var busy *pki.LaterError
	switch {
	case errors.As(err, &busy):
		return apierr.New(apierr.ReasonLimited, "", "%v", err)
	case errors.Is(err, pki.ErrPeerLocked), errors.Is(err, pki.ErrConnectionLost):
		return apierr.New(apierr.ReasonUnreachable, "", "%v", err)
	case errors.As(err, &op), errors.As(err, &dns), errors.Is(err, context.DeadlineExceeded):
		return apierr.Unreachable("see that it is a manager, that it is up, and that 2377/tcp is open", "%v", err)
	}
	return apierr.New(apierr.ReasonState, "", "%v", err)
}

func (n *Node) importKeyset(ctx context.Context, m *member, j *pki.Joined) error {
	if err := n.takeKeyset(ctx, m, j.Incarnation, j.SealedKeyset, j.Slots, j.Leaf.GetCertificates()[len(j.Leaf.GetCertificates())-1]); err != nil {
		return err
	}
	return n.keepManager(ctx, m, j.Leaf, j.Key, j.Boot, j.BootKey)
}

// takeKeyset makes this node's keyd a manager's.
func (n *Node) takeKeyset(ctx context.Context, m *member, incarnation uint64, sealed, slotSet, rootDER []byte) error {
	slots := &keydpb.SlotSet{}
	if err := proto.Unmarshal(slotSet, slots); err != nil {
		return fmt.Errorf("the manager sent damaged unlock slots: %w", err)
	}
	root, err := x509.ParseCertificate(rootDER)
	if err != nil {
		return err
	}
	pin := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	if _, err := n.keyd.ImportKeyset(ctx, &keydpb.ImportKeysetRequest{NodeId: m.NodeID, ClusterId: m.ClusterID,
		SealedKeyset: sealed, Slots: slots, RootPin: pin[:], Incarnation: incarnation}); err != nil {
		return apierr.State("see the log of redoubt-keyd; then `redoubt node rm` the node on a manager, and join again with a new token",
			"keyd could not take over the cluster's keys: %v", err)
	}
	return nil
}

func (n *Node) keepManager(ctx context.Context, m *member, leaf *profilepb.CertificateChain, key *ecdsa.PrivateKey, boot *profilepb.CertificateChain, bootKey *ecdsa.PrivateKey) error {
	if err := n.keepManagerLeaf(ctx, leaf, key); err != nil {
		return err
	}
	if err := n.keepLeaf(ctx, "boot", boot, bootKey, attestedBy(leaf)); err != nil {
		return err
	}
	return n.disk.saveMember(m)
}

func (n *Node) keepWorker(ctx context.Context, m *member, j *pki.Joined) error {
	if err := n.keepLeaf(ctx, "leaf", j.Leaf, j.Key, attestedBy(j.Leaf)); err != nil {
		return err
	}
	return n.disk.saveMember(m)
}

// keepLeaf writes a leaf with its key as protectLeaf has it.
func (n *Node) keepLeaf(ctx context.Context, name string, chain *profilepb.CertificateChain, key *ecdsa.PrivateKey, attested bool) error {
	l, err := n.protectLeaf(ctx, chain, key, attested)
	if err != nil {
		return err
	}
	defer clear(l.Key)
	return n.disk.saveLeaf(name, l)
}

// keepManagerLeaf writes the manager leaf with its key sealed by keyd.
func (n *Node) keepManagerLeaf(ctx context.Context, chain *profilepb.CertificateChain, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(der)
	n.leafMu.Lock() // so that what is sealed under a key is kept before that key is dropped
	defer n.leafMu.Unlock()
	resp, err := n.keyd.SealLeaf(ctx, &keydpb.SealLeafRequest{LeafKey: der})
	if err != nil {
		return fmt.Errorf("keyd: %w", err)
	}
	return n.disk.saveLeaf("leaf", &leafFile{Chain: chain.GetCertificates(), Sealed: resp.GetSealedLeaf()})
}

// forget undoes whatever a failed init or join made.
func (n *Node) forget(ctx context.Context) error {
	return errors.Join(n.disk.wipe(), n.keyd.Forget(context.WithoutCancel(ctx)))
}

func newKeyAndCSR() (*ecdsa.PrivateKey, []byte, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	csr, err := profile.NewCSR(key, nil)
	return key, csr, err
}

// leave makes this node a member of nothing and answers the request.
func (n *Node) leave(ctx context.Context, req *request) (state, error) {
	if err := n.forget(ctx); err != nil {
		req.refuse(err)
		return nil, err
	}
	n.become(nil)
	req.answer <- answer{}
	return n.empty, nil
}
