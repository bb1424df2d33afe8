package pki

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// RenewServer gives nodes new certificates for fresh keys, on the leader.
type RenewServer struct {
	pkipb.UnimplementedRenewServer
	store  Store
	signer RenewSigner
	nodes  *limiter
	log    *slog.Logger
}

// NewRenewServer returns a RenewServer.
func NewRenewServer(s Store, signer RenewSigner, log *slog.Logger) *RenewServer {
	return &RenewServer{store: s, signer: signer, nodes: newLimiter(renewBurst, renewRefill, maxSources), log: log}
}

// Renew implements pkipb.RenewServer. The caller's certificate is the one of
// its connection; the proof says that the holder of its key wants this very
// request, which keyd verifies again.
func (s *RenewServer) Renew(ctx context.Context, req *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
	caller, ok := authz.FromContext(ctx)
	if !ok || len(caller.Chain) == 0 {
		return nil, status.Error(codes.Unauthenticated, "a renewal needs the certificate to renew")
	}
	if !s.nodes.allow(caller.NodeID, time.Now()) {
		return nil, status.Error(codes.ResourceExhausted, "too many renewals: try again in a few minutes")
	}
	log := s.log.With("node", caller.NodeID, "role", profile.RoleName(caller.Role))
	if err := checkRenewal(caller, req); err != nil {
		log.Warn("refused a renewal", "reason", err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var c *pkipb.Cluster
	many := false
	if err := s.store.View(func(r *raftstore.ReadTx) (err error) {
		n, _ := store.Nodes.Get(r, caller.NodeID)
		many = manyLive(n, time.Now())
		c, err = store.GetCluster(r)
		return err
	}); err != nil {
		log.Error("reading the cluster record failed", "error", err)
		return nil, status.Error(codes.Internal, "the renewal failed on the manager: see its log")
	}
	if many {
		log.Warn("refused a renewal", "reason", errManyLive)
		return nil, errManyLive
	}
	issued, err := s.signer.SignRenew(ctx, SignRenew{
		Old: &profilepb.CertificateChain{Certificates: caller.Chain},
		CSR: req.GetCsr(), BootCSR: req.GetBootCsr(), Proof: req.GetProof(), WorkerLeafSeconds: c.GetWorkerLeafSeconds(), Evidence: req.GetEvidence(),
	})
	if no := (*UnprovedError)(nil); errors.As(err, &no) {
		log.Warn("refused a renewal", "reason", err)
		return nil, status.Error(codes.PermissionDenied, no.Error())
	}
	if no := (*ExternalError)(nil); errors.As(err, &no) {
		log.Warn("a renewal was not certified", "error", err)
		return nil, status.Error(codes.Unavailable, no.Error())
	}
	if err != nil {
		log.Error("signing a renewal failed", "error", err)
		return nil, status.Error(codes.Internal, "the renewal failed on the manager: see its log")
	}
	err = s.store.Update(ctx, func(tx *raftstore.Tx) error {
		return RecordLeaf(tx, caller.NodeID, caller.SPKI, issued)
	})
	switch {
	case errors.Is(err, raftstore.ErrNotLeader), errors.Is(err, raftstore.ErrUncertain):
		return nil, status.Error(codes.Unavailable, "the manager is not the leader now: try again")
	case errors.Is(err, errManyLive), status.Code(err) == codes.Unauthenticated, status.Code(err) == codes.PermissionDenied:
		return nil, err
	case err != nil:
		log.Error("writing a renewal failed", "error", err)
		return nil, status.Error(codes.Internal, "the renewal failed on the manager: see its log")
	}
	log.Info("renewed a certificate")
	resp := &pkipb.RenewResponse{Leaf: issued.Leaf, Boot: issued.Boot}
	if len(c.GetCross()) > 0 { // the caller may not have heard of the root yet
		resp.Roots = RootsOf(c)
	}
	return resp, nil
}

func checkRenewal(caller authz.Identity, req *pkipb.RenewRequest) error {
	csr, err := profile.ParseCSR(req.GetCsr())
	if err != nil {
		return err
	}
	if len(req.GetBootCsr()) > 0 {
		if caller.Role != profilepb.Role_ROLE_MANAGER {
			return errors.New("only managers have boot leaves")
		}
		if boot, err := profile.ParseCSR(req.GetBootCsr()); err != nil || boot.KeydKey != nil {
			return errors.New("the request for the boot leaf is malformed")
		}
	}
	old, err := profile.ParseChain(&profilepb.CertificateChain{Certificates: caller.Chain})
	if err != nil {
		return err
	}
	if bytes.Equal(csr.Request.RawSubjectPublicKeyInfo, old[0].RawSubjectPublicKeyInfo) {
		return errors.New("the new certificate would have the old key: make a fresh one")
	}
	return profile.CheckRenewProof(old[0], req.GetCsr(), req.GetBootCsr(), req.GetProof())
}
