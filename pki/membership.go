package pki

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// MembershipConfig is what a MembershipServer needs; every field is required.
type MembershipConfig struct {
	Store  Store
	Signer RoleSigner
	// Slots returns the serialized unlock slots that a new manager seals to.
	Slots func(ctx context.Context) ([]byte, error)
	// OnRole writes what others keep of a node's role, in the transaction that
	// changes it.
	OnRole func(tx *raftstore.Tx, n *pkipb.Node) error
	Logger *slog.Logger
}

// MembershipServer is how nodes follow a change of their role, on the leader.
//
// A worker that is to be a manager comes twice. The first call gives it
// certificates and the keyset, and notes before that it has them. The second,
// made once it kept them durably, changes its role. So there is no moment in
// which the cluster counts on a manager that does not have its keys, and a reply
// that is lost costs a repetition.
type MembershipServer struct {
	pkipb.UnimplementedMembershipServer
	c     MembershipConfig
	nodes *limiter
}

// NewMembershipServer returns a MembershipServer.
func NewMembershipServer(c MembershipConfig) (*MembershipServer, error) {
	if c.Store == nil || c.Signer == nil || c.Slots == nil || c.OnRole == nil || c.Logger == nil {
		return nil, errors.New("pki: the membership server's configuration is incomplete")
	}
	return &MembershipServer{c: c, nodes: newLimiter(renewBurst, renewRefill, maxSources)}, nil
}

var (
	errNotWanted    = status.Error(codes.FailedPrecondition, "no operator wants this node to be a manager, or the time for it is over: redoubt node promote")
	errRoleTooOften = status.Error(codes.ResourceExhausted, "too many calls: try again in a few minutes")
	errGivenOften   = status.Error(codes.ResourceExhausted, "this worker was given a manager's keys too often without becoming one: remove it and let it join anew")
	errRoleInternal = status.Error(codes.Internal, "the change of role failed on the manager: see its log")
	errRoleChain    = status.Error(codes.Unauthenticated, "a change of role needs the certificate in use")
)

// WantPromotion notes that a worker shall become a manager.
func WantPromotion(tx *raftstore.Tx, nodeID string) error {
	n, ok := store.Nodes.Get(tx, nodeID)
	if !ok || n.GetDenied() || n.GetRole() != profilepb.Role_ROLE_WORKER {
		return errNotWanted
	}
	n = proto.CloneOf(n)
	n.PromoteUntil = tx.Now().Add(promoteWait).Unix()
	return store.Nodes.Put(tx, n)
}

// Wanted reports whether the node shall become a manager now.
func Wanted(n *pkipb.Node, now time.Time) bool {
	return !n.GetDenied() && n.GetRole() == profilepb.Role_ROLE_WORKER && now.Unix() < n.GetPromoteUntil()
}

// Promote implements pkipb.MembershipServer.
func (s *MembershipServer) Promote(ctx context.Context, req *pkipb.PromoteRequest) (*pkipb.PromoteResponse, error) {
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetConfirm() != nil {
		return s.confirm(ctx, caller, req)
	}
	log := s.c.Logger.With("node", caller.NodeID)
	keydKey, err := checkPromotion(caller, req)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	// Noted before it is given: whoever may know the keyset is taken out with a
	// rotation, manager or not, and the keyd key that may hold it is retired.
	var epoch uint64
	err = s.c.Store.Update(ctx, func(tx *raftstore.Tx) error {
		n, c, err := promoted(tx, caller.NodeID, req.GetStoreLevel())
		if err != nil {
			return err
		}
		n = proto.CloneOf(n)
		epoch = KeysetEpoch(c)
		n.KeysetEpoch = epoch
		if err := giveTo(n, keydKey); err != nil {
			return err
		}
		return store.Nodes.Put(tx, n)
	})
	if err != nil {
		return nil, s.storeError(log, err)
	}
	resp, err := s.sign(ctx, caller, req, epoch)
	if errors.Is(err, ErrRotated) {
		return nil, s.storeError(log, err)
	}
	if no := (*UnprovedError)(nil); errors.As(err, &no) {
		log.Warn("refused a promotion", "reason", err)
		return nil, status.Error(codes.PermissionDenied, no.Error())
	}
	if err != nil {
		log.Error("signing a promotion failed", "error", err)
		return nil, errRoleInternal
	}
	log.Info("gave a worker a manager's certificates and the keyset")
	return resp, nil
}

// sign has keyd make what a new manager needs. What it sealed goes out only if
// epoch, which the record names, is still in force after that: this keyd takes a
// later keyset over once this store has it.
func (s *MembershipServer) sign(ctx context.Context, caller authz.Identity, req *pkipb.PromoteRequest, epoch uint64) (*pkipb.PromoteResponse, error) {
	issued, err := s.c.Signer.SignPromotion(ctx, SignRenew{
		Old: &profilepb.CertificateChain{Certificates: caller.Chain}, CSR: req.GetCsr(), BootCSR: req.GetBootCsr(), Proof: req.GetProof(), Evidence: req.GetEvidence(),
	})
	if err != nil {
		return nil, err
	}
	resp := &pkipb.PromoteResponse{Leaf: issued.Leaf, Boot: issued.Boot}
	if resp.SealedKeyset, err = s.c.Signer.SealKeyset(ctx, issued.Leaf); err != nil {
		return nil, err
	}
	if resp.Slots, err = s.c.Slots(ctx); err != nil {
		return nil, err
	}
	err = s.c.Store.View(func(r *raftstore.ReadTx) (err error) {
		c, err := store.GetCluster(r)
		if err != nil {
			return err
		}
		if KeysetEpoch(c) != epoch {
			return ErrRotated
		}
		if resp.Incarnation, err = Incarnation(r); err != nil {
			return err
		}
		for m := range store.Nodes.By(r, "role", profile.RoleName(profilepb.Role_ROLE_MANAGER)) {
			if !m.GetDenied() && m.GetAddress() != "" {
				resp.Managers = append(resp.Managers, &pkipb.Manager{NodeId: m.GetId(), Address: m.GetAddress()})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// confirm makes the caller a manager with the certificates of the first call.
func (s *MembershipServer) confirm(ctx context.Context, caller authz.Identity, req *pkipb.PromoteRequest) (*pkipb.PromoteResponse, error) {
	log := s.c.Logger.With("node", caller.NodeID)
	if err := CheckAddress(req.GetAddress()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	issued := Issued{Leaf: req.GetConfirm().GetLeaf(), Boot: req.GetConfirm().GetBoot()}
	err := s.c.Store.Update(ctx, func(tx *raftstore.Tx) error {
		n, c, err := promoted(tx, caller.NodeID, req.GetStoreLevel())
		if err != nil {
			return err
		}
		if err := checkOurs(c, issued); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		n = proto.CloneOf(n)
		n.Role, n.Address, n.PromoteUntil = profilepb.Role_ROLE_MANAGER, req.GetAddress(), 0
		if err := setLeaves(n, issued, nil); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if err := given(tx, c, n); err != nil {
			return err
		}
		if err := putIssued(tx, n); err != nil {
			return err
		}
		return s.c.OnRole(tx, n)
	})
	if err != nil {
		return nil, s.storeError(log, err)
	}
	log.Info("a worker became a manager")
	return &pkipb.PromoteResponse{}, nil
}

// checkOurs returns an error unless both certificates are of the issuer in
// force: they come back by way of the node, which could have made them up.
func checkOurs(c *pkipb.Cluster, issued Issued) error {
	trust, err := TrustFromCluster(c)
	if err != nil {
		return err
	}
	for _, chain := range []*profilepb.CertificateChain{issued.Leaf, issued.Boot} {
		certs, err := profile.ParseChain(chain)
		if err != nil {
			return err
		}
		if v, err := trust.verifyChain(certs, time.Now()); err != nil || v.rank != issuerActive {
			return ErrRotated
		}
	}
	return nil
}

// Demoted implements pkipb.MembershipServer.
func (s *MembershipServer) Demoted(ctx context.Context, req *pkipb.DemotedRequest) (*pkipb.DemotedResponse, error) {
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	log := s.c.Logger.With("node", caller.NodeID)
	issued, err := s.c.Signer.SignDemotion(ctx, SignRenew{
		Old: &profilepb.CertificateChain{Certificates: caller.Chain}, CSR: req.GetCsr(), Proof: req.GetProof(), Evidence: req.GetEvidence(),
	})
	if no := (*UnprovedError)(nil); errors.As(err, &no) {
		log.Warn("refused a demotion", "reason", err)
		return nil, status.Error(codes.PermissionDenied, no.Error())
	}
	if err != nil {
		log.Error("signing a demotion failed", "error", err)
		return nil, errRoleInternal
	}
	err = s.c.Store.Update(ctx, func(tx *raftstore.Tx) error {
		n, ok := store.Nodes.Get(tx, caller.NodeID)
		if !ok || n.GetDenied() || n.GetRole() != profilepb.Role_ROLE_WORKER {
			return errNotWanted
		}
		n = proto.CloneOf(n)
		// The manager leaf stays as the one before, so that a lost reply can be
		// asked for again.
		if err := setLeaves(n, issued, caller.SPKI); err != nil {
			return err
		}
		return putIssued(tx, n)
	})
	if err != nil {
		return nil, s.storeError(log, err)
	}
	log.Info("gave a demoted manager its worker certificate")
	return &pkipb.DemotedResponse{Leaf: issued.Leaf}, nil
}

func (s *MembershipServer) caller(ctx context.Context) (authz.Identity, error) {
	caller, ok := authz.FromContext(ctx)
	if !ok || len(caller.Chain) == 0 {
		return caller, errRoleChain
	}
	if !s.nodes.allow(caller.NodeID, time.Now()) {
		return caller, errRoleTooOften
	}
	return caller, nil
}

// checkPromotion returns the keyd key that is to be given the keyset.
func checkPromotion(caller authz.Identity, req *pkipb.PromoteRequest) ([]byte, error) {
	csr, err := profile.ParseCSR(req.GetCsr())
	if err != nil {
		return nil, err
	}
	boot, err := profile.ParseCSR(req.GetBootCsr())
	if err != nil {
		return nil, err
	}
	if csr.KeydKey == nil || boot.KeydKey != nil {
		return nil, errors.New("the requests are not a manager's")
	}
	old, err := profile.ParseChain(&profilepb.CertificateChain{Certificates: caller.Chain})
	if err != nil {
		return nil, err
	}
	if bytes.Equal(csr.Request.RawSubjectPublicKeyInfo, old[0].RawSubjectPublicKeyInfo) {
		return nil, errors.New("the new certificate would have the old key: make a fresh one")
	}
	return csr.KeydKey, profile.CheckPromotionProof(old[0], req.GetCsr(), req.GetBootCsr(), req.GetProof())
}

func (s *MembershipServer) storeError(log *slog.Logger, err error) error {
	switch {
	case errors.Is(err, ErrRotated):
		return status.Error(codes.Unavailable, "the cluster's keys are being rotated: try again")
	case errors.Is(err, raftstore.ErrNotLeader), errors.Is(err, raftstore.ErrUncertain):
		return status.Error(codes.Unavailable, "the manager is not the leader now: try again")
	case status.Code(err) != codes.Unknown:
		return err
	}
	log.Error("writing a change of role failed", "error", err)
	return errRoleInternal
}

// promoted returns the record, shared, of a worker that is to be a manager and may be
// now, with the cluster's.
func promoted(tx *raftstore.Tx, nodeID string, level uint32) (*pkipb.Node, *pkipb.Cluster, error) {
	n, ok := store.Nodes.Get(tx, nodeID)
	if !ok || !Wanted(n, tx.Now()) {
		return nil, nil, errNotWanted
	}
	if err := CheckManagerRoom(tx); err != nil {
		return nil, nil, err
	}
	if err := checkLevel(tx, level); err != nil {
		return nil, nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	c, err := store.GetCluster(tx)
	return n, c, err
}
