package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// JoinRequest is what a node brings to a join.
type JoinRequest struct {
	Token Token
	// Managers are host:port, tried in order.
	Managers []string
	NodeName string
	// Address is where others would reach this node if it becomes a manager.
	Address string
	// KeydKey makes this node's keyd key. It is called only once a manager said
	// that the token makes a manager.
	KeydKey func(ctx context.Context) ([]byte, error)
	// TPM is this machine's, or nil.
	TPM TPM
	// Waiting is called with the fingerprint of this node's requests when an operator
	// has to approve them; nil: nobody is told.
	Waiting func(fingerprint string)
	// StoreLevel is what this version understands of a manager's store.
	StoreLevel uint32
	// Patience is how long a join is tried again that was told to come later, or
	// whose connection was cut; 0: the managers are asked once. Stop, if not nil,
	// ends that when it is closed.
	Patience time.Duration
	Stop     <-chan struct{}

	// keys are what was made for a role, for all managers and attempts: an operator
	// approves one machine's requests.
	keys map[profilepb.Role]*joinKeys
}

type joinKeys struct {
	leaf, boot   *ecdsa.PrivateKey
	csr, bootCSR []byte
}

// Joined is what a node has to keep; it is a member once it has it. Whatever
// is not for its role is nil.
type Joined struct {
	NodeID, ClusterID string
	Role              profilepb.Role
	Leaf              *profilepb.CertificateChain
	Key               *ecdsa.PrivateKey
	Boot              *profilepb.CertificateChain
	BootKey           *ecdsa.PrivateKey
	SealedKeyset      []byte
	Slots             []byte
	Managers          []*pkipb.Manager
	// Incarnation of the cluster; managers only.
	Incarnation uint64
	// Trust begins with the pinned root alone.
	Trust Trust
}

// Join asks the managers in turn to admit this node. It trusts nobody but the
// holder of a manager certificate under the root that the token pins, shows
// the token's seed to nobody, and verifies what it gets. A refusal of the
// token ends it; a manager that is locked, lost or no manager does not.
func Join(ctx context.Context, req JoinRequest) (*Joined, error) {
	if len(req.Managers) == 0 {
		return nil, errors.New("give the address of at least one manager")
	}
	if err := ident.CheckHostname(req.NodeName); err != nil {
		return nil, err
	}
	for _, addr := range req.Managers {
		if err := CheckAddress(addr); err != nil {
			return nil, err
		}
	}
	var out *Joined
	cut := false
	req.keys = map[profilepb.Role]*joinKeys{}
	err := persist(ctx, req.Patience, req.Stop, func() (err error) {
		out, err = joinAny(ctx, req)
		if no := (*refusedError)(nil); cut && errors.As(err, &no) && no.code == codes.PermissionDenied {
			err = fmt.Errorf("%w (an attempt before this was cut off, and may have used it: `redoubt node ls` shows whether it made a node, which is to be removed)", err)
		}
		cut = cut || errors.Is(err, ErrConnectionLost)
		return err
	})
	return out, err
}

// joinAny asks the managers in turn, once.
func joinAny(ctx context.Context, req JoinRequest) (*Joined, error) {
	var errs []error
	for _, addr := range req.Managers {
		j, final, err := joinAt(ctx, addr, req)
		if err == nil {
			return j, nil
		}
		if final || ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, fmt.Errorf("no manager admitted this node: %w", joinLines(errs))
}

// joinLines joins errors on one line.
func joinLines(errs []error) error {
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}

func joinAt(ctx context.Context, addr string, req JoinRequest) (_ *Joined, final bool, _ error) {
	var trust Trust
	cfg := clientConfig(ALPNGRPC, func(cs tls.ConnectionState) error {
		var err error
		if trust, err = joinTrust(req.Token, cs.PeerCertificates); err != nil {
			return err
		}
		_, err = trust.verifyState(cs, ExpectServer(ALPNGRPC, ""))
		return err
	})
	conn, err := DialTLS(ctx, addr, cfg)
	if err != nil {
		return nil, false, err
	}
	cs := conn.ConnectionState()
	exporter, err := cs.ExportKeyingMaterial(profile.ExporterLabel, []byte(req.Token.ID()), profile.ExporterLen)
	if err != nil {
		conn.Close()
		return nil, false, err
	}
	cc, err := GRPCOver(conn, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxJoinReply)))
	if err != nil {
		return nil, false, err
	}
	defer cc.Close()
	j := &joining{JoinRequest: req, client: pkipb.NewJoinClient(cc), exporter: exporter, trust: trust}
	out, err := j.run(ctx)
	switch status.Code(err) {
	case codes.PermissionDenied, codes.InvalidArgument, codes.Aborted:
		final = true // another manager would say the same
	}
	if busy := (*LaterError)(nil); errors.As(err, &busy) && busy.approval {
		return nil, true, err // all managers ask the leader
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", addr, callError(err))
	}
	return out, final, err
}

// joinTrust finds the pinned root. Only for a better error it looks, unverified,
// at which cluster the other side claims to be of.
func joinTrust(t Token, presented []*x509.Certificate) (Trust, error) {
	trust, err := trustFromPin(t.ClusterID(), t.Pin(), presented)
	if err != nil && len(presented) > 0 {
		if id, e := profile.NodeFromCert(presented[0]); e == nil && id.ClusterID != t.ClusterID() {
			return Trust{}, ErrOtherCluster
		}
	}
	return trust, err
}

// joining is a join on one connection.
type joining struct {
	JoinRequest
	client   pkipb.JoinClient
	exporter []byte
	trust    Trust
}

// run asks as a worker would and, where the token makes a manager, once more as
// one: the token's text does not tell.
func (j *joining) run(ctx context.Context) (*Joined, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*joinCallTimeout)
	defer cancel()
	out := &Joined{Role: profilepb.Role_ROLE_WORKER, Trust: j.trust}
	if j.keys[profilepb.Role_ROLE_MANAGER] != nil { // it was told so before
		out.Role = profilepb.Role_ROLE_MANAGER
	}
	resp, err := j.ask(ctx, out)
	if err == nil && out.Role == profilepb.Role_ROLE_WORKER && resp.GetRetryAsRole() && resp.GetRole() == profilepb.Role_ROLE_MANAGER {
		if j.Address == "" || j.KeydKey == nil {
			return nil, errors.New("the token makes a manager, which needs an address: give --advertise")
		}
		out.Role = profilepb.Role_ROLE_MANAGER
		resp, err = j.ask(ctx, out)
	}
	if err != nil {
		return nil, err
	}
	if err := j.accept(resp, out); err != nil {
		return nil, fmt.Errorf("the manager's answer is refused: %w", err)
	}
	return out, nil
}

func (j *joining) ask(ctx context.Context, out *Joined) (*pkipb.JoinResponse, error) {
	keys, err := j.keysFor(ctx, out.Role)
	if err != nil {
		return nil, err
	}
	out.Key, out.BootKey = keys.leaf, keys.boot
	req := &pkipb.JoinRequest{TokenId: j.Token.ID(), NodeName: j.NodeName, Csr: keys.csr, BootCsr: keys.bootCSR}
	if out.Role == profilepb.Role_ROLE_MANAGER {
		req.Address, req.StoreLevel = j.Address, j.StoreLevel
	}
	req.Proof = j.Token.Sign(profile.JoinProofInput(j.exporter, req.Csr, req.BootCsr, req.TokenId))
	resp, err := j.client.Join(ctx, req)
	if err == nil && resp.GetAttest() != nil {
		resp, err = j.attest(ctx, req)
	}
	if wanted := resp.GetApproval(); err == nil && wanted != nil {
		fingerprint := JoinFingerprint(req.Csr, req.BootCsr)
		if j.Waiting != nil {
			j.Waiting(fingerprint)
		}
		after := min(time.Duration(wanted.GetAskAfterSeconds())*time.Second, maxJoinPause)
		return nil, &LaterError{After: after, Err: fmt.Errorf("no operator has approved this machine (%s): `redoubt node approve` on a manager", fingerprint), approval: true}
	}
	return resp, err
}

// keysFor are this node's keys and requests in a role, made once.
func (j *joining) keysFor(ctx context.Context, role profilepb.Role) (*joinKeys, error) {
	if k := j.keys[role]; k != nil {
		return k, nil
	}
	k := new(joinKeys)
	var keydKey []byte
	var err error
	if role == profilepb.Role_ROLE_MANAGER {
		if keydKey, err = j.KeydKey(ctx); err != nil {
			return nil, fmt.Errorf("making the keyd key: %w", err)
		}
		if k.boot, k.bootCSR, err = newRequest(nil); err != nil {
			return nil, err
		}
	}
	if k.leaf, k.csr, err = newRequest(keydKey); err != nil {
		return nil, err
	}
	j.keys[role] = k
	return k, nil
}

// accept verifies the answer: the certificates are this node's, by its keys,
// under the pinned root, of the role asked for.
func (j *joining) accept(resp *pkipb.JoinResponse, out *Joined) error {
	switch {
	case resp.GetRetryAsRole() || resp.GetRole() != out.Role:
		return errors.New("it is of another role")
	case resp.GetClusterId() != j.Token.ClusterID():
		return ErrOtherCluster
	case !ident.Valid(resp.GetNodeId()):
		return errors.New("malformed node id")
	}
	// Whom the token's pin vouches for may say what else the cluster trusts.
	if err := j.trust.keep(resp.GetRoots()); err != nil {
		return err
	}
	out.Trust = j.trust
	out.NodeID, out.ClusterID, out.Leaf = resp.GetNodeId(), resp.GetClusterId(), resp.GetLeaf()
	if err := j.acceptLeaf(out.Leaf, out.Key, out.NodeID, out.Role); err != nil {
		return err
	}
	if err := checkManagers(resp.GetManagers()); err != nil {
		return err
	}
	out.Managers, out.Incarnation = resp.GetManagers(), resp.GetIncarnation()
	if out.Role != profilepb.Role_ROLE_MANAGER {
		if resp.GetBoot() != nil || len(resp.GetSealedKeyset()) > 0 {
			return errors.New("it has what only managers are given")
		}
		return nil
	}
	if len(resp.GetSealedKeyset()) == 0 || len(resp.GetSlots()) == 0 {
		return errors.New("the keyset or the unlock slots are missing")
	}
	out.Boot, out.SealedKeyset, out.Slots = resp.GetBoot(), resp.GetSealedKeyset(), resp.GetSlots()
	return j.acceptLeaf(out.Boot, out.BootKey, out.NodeID, profilepb.Role_ROLE_BOOT)
}

func (j *joining) acceptLeaf(chain *profilepb.CertificateChain, key *ecdsa.PrivateKey, nodeID string, role profilepb.Role) error {
	s, err := newState(chain, key, j.trust)
	if err != nil {
		return err
	}
	if s.id.NodeID != nodeID || s.id.Role != role {
		return errors.New("a certificate is of another node or role")
	}
	return nil
}
