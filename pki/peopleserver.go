package pki

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// PeopleServer gives people their certificates, on the leader. Enrol is reached
// without a certificate, and has an entrance before it as Join has.
type PeopleServer struct {
	pkipb.UnimplementedEnrolmentServer
	pkipb.UnimplementedPersonRenewalServer
	store     Store
	signer    PersonSigner
	clusterID string
	log       *slog.Logger
	entrance  *entrance
	people    *limiter // of renewals
}

// NewPeopleServer returns a PeopleServer.
func NewPeopleServer(s Store, signer PersonSigner, clusterID string, log *slog.Logger) *PeopleServer {
	return &PeopleServer{store: s, signer: signer, clusterID: clusterID, log: log, entrance: newEntrance(enrolAnswers, log),
		people: newLimiter(renewBurst, renewRefill, maxSources)}
}

// errEnrolRefused is the one answer to whoever did not prove to hold the seed of an
// invitation that can be taken: it never says what was wrong.
var (
	errEnrolRefused  = status.Error(codes.PermissionDenied, "the invitation is not accepted: it was used or taken back, or is none of this cluster; ask for a new one (redoubt person invite)")
	errEnrolExpired  = status.Error(codes.PermissionDenied, profile.ErrInvitationExpired.Error())
	errEnrolInternal = status.Error(codes.Internal, "no certificate could be made: see the log of the manager that leads")
)

// enrolAnswers are those before that.
var enrolAnswers = &entranceAnswers{
	identity:   status.Error(codes.PermissionDenied, "this call is for people who take an invitation, and show no certificate"),
	tooMany:    later(codes.ResourceExhausted, busyPause, "%d invitations are being taken", maxJoinsAtATime),
	unproved:   errEnrolRefused,
	guesses:    status.Errorf(codes.ResourceExhausted, "too many attempts from this address had no invitation of this cluster: see that it is whole, and try again in %v", joinRefill),
	noExporter: status.Error(codes.Unauthenticated, "an invitation must be taken over TLS of its own"),
}

// Enrol implements pkipb.EnrolmentServer.
func (s *PeopleServer) Enrol(ctx context.Context, req *pkipb.EnrolRequest) (*pkipb.EnrolResponse, error) {
	ctx, source, leave, err := s.entrance.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	resp, rec, err := s.enrol(ctx, req)
	if err != nil {
		return nil, s.entrance.refuse(source, err, "refused an invitation", "invitation", printableID(req.GetInvitationId()))
	}
	s.log.Info("a person took an invitation", "source", source.String(), "invitation", rec.GetId(), "person", rec.GetPerson())
	return resp, nil
}

// printableID is an id, or nothing where a stranger sent something else.
func printableID(s string) string {
	if ident.Valid(s) {
		return s
	}
	return ""
}

func (s *PeopleServer) enrol(ctx context.Context, req *pkipb.EnrolRequest) (*pkipb.EnrolResponse, *profilepb.InvitationRecord, error) {
	if !ident.Valid(req.GetInvitationId()) || len(req.GetProof()) > profile.ExporterLen*2 {
		return nil, nil, errEnrolRefused
	}
	csr, err := profile.ParsePersonCSR(req.GetCsr())
	if err != nil {
		return nil, nil, status.Error(codes.InvalidArgument, err.Error())
	}
	exporter, err := s.entrance.exporter(ctx, profile.PersonExporterLabel, req.GetInvitationId())
	if err != nil {
		return nil, nil, err
	}
	p, rec, err := s.prove(req, exporter)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := s.signer.SignPerson(ctx, SignPerson{Invitation: p.GetInvitation(), Exporter: exporter, CSR: req.GetCsr(), Proof: req.GetProof()})
	if err == nil {
		err = issuedTo(leaf, rec.GetPerson(), csr)
	}
	if errors.As(err, new(*SignerBusy)) {
		return nil, nil, later(codes.ResourceExhausted, signerPause, "keyd of the leader was asked for too many certificates or keys")
	}
	if err != nil {
		s.log.Error("signing a person's certificate failed", "invitation", rec.GetId(), "error", err)
		return nil, nil, errEnrolInternal
	}
	if err := s.store.Update(ctx, func(tx *raftstore.Tx) error { return takenBy(tx, rec, leaf) }); err != nil {
		return nil, nil, s.written(err)
	}
	resp := &pkipb.EnrolResponse{Leaf: leaf}
	resp.Roots, resp.Managers, err = s.cluster()
	return resp, rec, err
}

// prove finds the invitation and verifies that the caller holds its seed. An unknown
// id costs as much time as a wrong seed.
func (s *PeopleServer) prove(req *pkipb.EnrolRequest, exporter []byte) (p *pkipb.Person, rec *profilepb.InvitationRecord, _ error) {
	var c *pkipb.Cluster
	var now time.Time
	err := s.store.View(func(r *raftstore.ReadTx) (err error) {
		now = clusterNow(r)
		for p = range store.People.By(r, "invitation", req.GetInvitationId()) {
			break
		}
		c, err = store.GetCluster(r)
		return err
	})
	if err != nil {
		return nil, nil, errEnrolInternal
	}
	rec, err = profile.ParseInvitation(p.GetInvitation().GetRecord())
	public := []byte(unknownKey)
	known := p != nil && err == nil && rec.GetId() == req.GetInvitationId() && rec.GetPerson() == p.GetId()
	if known {
		public = rec.GetPublicKey()
	}
	if profile.CheckEnrolProof(public, exporter, req.GetCsr(), req.GetInvitationId(), req.GetProof()) != nil || !known {
		return nil, nil, errEnrolRefused
	}
	return p, rec, checkInvited(c, p, rec, now)
}

// checkInvited says whether the invitation can be taken, to whoever holds its seed.
func checkInvited(c *pkipb.Cluster, p *pkipb.Person, rec *profilepb.InvitationRecord, now time.Time) error {
	switch err := profile.CheckInvitation(rec, c.GetClusterId(), now); {
	case errors.Is(err, profile.ErrInvitationExpired):
		return errEnrolExpired
	case err != nil, p.GetDenied(), invitationVoid(c, p.GetInvitation()):
		return errEnrolRefused
	}
	return nil
}

// issuedTo returns an error unless the chain is that person's, of the request's key.
func issuedTo(chain *profilepb.CertificateChain, name string, csr *profile.CSR) error {
	certs, id, err := profile.ParsePersonChain(chain)
	if err != nil {
		return err
	}
	if id.Person != name || !bytes.Equal(certs[0].RawSubjectPublicKeyInfo, csr.Request.RawSubjectPublicKeyInfo) {
		return errors.New("the certificate is of another person or key")
	}
	return nil
}

// RenewPerson implements pkipb.PersonRenewalServer.
func (s *PeopleServer) RenewPerson(ctx context.Context, req *pkipb.RenewPersonRequest) (*pkipb.RenewPersonResponse, error) {
	caller, ok := authz.FromContext(ctx)
	if !ok || caller.Person == "" || len(caller.Chain) == 0 {
		return nil, status.Error(codes.Unauthenticated, "a renewal needs the certificate to renew")
	}
	if !s.people.allow(caller.Person, time.Now()) {
		return nil, status.Error(codes.ResourceExhausted, "too many renewals: try again in a few minutes")
	}
	old := &profilepb.CertificateChain{Certificates: caller.Chain[:min(len(caller.Chain), profile.MaxChain)]}
	certs, _, err := profile.ParsePersonChain(old)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	csr, err := profile.ParsePersonCSR(req.GetCsr())
	if err == nil && bytes.Equal(csr.Request.RawSubjectPublicKeyInfo, certs[0].RawSubjectPublicKeyInfo) {
		err = errors.New("the new certificate would have the old key: make a fresh one")
	}
	if err == nil {
		err = profile.CheckPersonRenew(certs[0], req.GetCsr(), req.GetProof())
	}
	if err != nil {
		s.log.Warn("refused a renewal", "person", caller.Person, "reason", err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var life uint32
	if err := s.store.View(func(r *raftstore.ReadTx) error {
		p, _ := store.People.Get(r, caller.Person)
		life = p.GetLifeSeconds()
		return nil
	}); err != nil {
		return nil, errEnrolInternal
	}
	leaf, err := s.signer.SignPerson(ctx, SignPerson{Old: old, CSR: req.GetCsr(), Proof: req.GetProof(), LifeSeconds: life})
	if err == nil {
		err = issuedTo(leaf, caller.Person, csr)
	}
	if err != nil {
		s.log.Error("signing a person's renewal failed", "person", caller.Person, "error", err)
		return nil, errEnrolInternal
	}
	if err := s.store.Update(ctx, func(tx *raftstore.Tx) error { return renewedBy(tx, caller.Person, caller.SPKI, leaf) }); err != nil {
		return nil, s.written(err)
	}
	s.log.Info("renewed a person's certificate", "person", caller.Person)
	resp := &pkipb.RenewPersonResponse{Leaf: leaf}
	resp.Roots, resp.Managers, err = s.cluster()
	return resp, err
}

// cluster is what people are told of it.
func (s *PeopleServer) cluster() (roots *pkipb.Roots, managers []string, _ error) {
	err := s.store.View(func(r *raftstore.ReadTx) error {
		c, err := store.GetCluster(r)
		if err != nil {
			return err
		}
		roots, managers = RootsOf(c), ManagerAddresses(r)
		return nil
	})
	if err != nil {
		return nil, nil, errEnrolInternal
	}
	return roots, managers, nil
}

// ManagerAddresses are where the managers can be reached, host:port.
func ManagerAddresses(r raftstore.Reader) (out []string) {
	for n := range store.Nodes.By(r, "role", profile.RoleName(profilepb.Role_ROLE_MANAGER)) {
		if !n.GetDenied() && n.GetAddress() != "" {
			out = append(out, n.GetAddress())
		}
	}
	return out
}

// written keeps the refusals that a transaction made and hides the rest.
func (s *PeopleServer) written(err error) error {
	switch {
	case errors.Is(err, raftstore.ErrNotLeader):
		return later(codes.Unavailable, minJoinPause, "the manager is not the leader now")
	case errors.Is(err, raftstore.ErrUncertain):
		return status.Error(codes.Aborted, "the outcome is unknown: try again, and ask for another invitation where this one was used (redoubt person invite)")
	}
	if st, ok := status.FromError(err); ok && st.Code() == codes.PermissionDenied {
		return err
	}
	s.log.Error("writing a person's certificate failed", "error", err)
	return errEnrolInternal
}
