package keyd

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// mintInvitation signs an invitation's record. That somebody is invited is redoubtd's
// word; what an invitation may be is decided here.
func (s *Server) mintInvitation(req *keydpb.MintInvitationRequest) (*keydpb.MintInvitationResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if req.GetRecord() == nil {
		return nil, invalid("the request has no invitation")
	}
	rec := proto.CloneOf(req.GetRecord())
	if id := rec.GetClusterId(); id != "" && id != opened.keyset.clusterID {
		return nil, denied("the invitation is of another cluster")
	}
	rec.ClusterId, rec.MintedAt = opened.keyset.clusterID, now.Unix()
	if err := profile.CheckInvitationShape(rec); err != nil {
		return nil, invalid("%v", err)
	}
	if time.Unix(rec.GetExpiresAt(), 0).After(now.Add(maxInvitation)) {
		return nil, denied("an invitation can be taken for %s at most", maxInvitation)
	}
	if err := s.mints.check(mintRate, now); err != nil {
		return nil, err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(rec)
	if err != nil {
		return nil, err
	}
	if err := s.note(entry{Event: "mint-invitation", Token: rec.GetId(), Node: profile.PersonSubject(rec.GetPerson())}); err != nil {
		return nil, err
	}
	return &keydpb.MintInvitationResponse{Signed: &profilepb.SignedInvitation{
		Record: raw, Signature: opened.keyset.signRecord(profile.InvitationSigningInput(raw)), KeysetEpoch: opened.keyset.epoch,
	}}, nil
}

// signPerson certifies a person's key, by an invitation or by the certificate in use.
func (s *Server) signPerson(ctx context.Context, req *keydpb.SignPersonRequest) (*keydpb.SignPersonResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if (req.GetInvitation() == nil) == (req.GetOld() == nil) {
		return nil, invalid("a person shows an invitation or a certificate, one of them")
	}
	csr, err := profile.ParsePersonCSR(req.GetCsr())
	if err != nil {
		return nil, invalid("%v", err)
	}
	key := csr.Request.PublicKey.(*ecdsa.PublicKey)
	e := entry{Event: "renew-person", Keys: (&requests{leaf: key}).keys()}
	var name string
	var life time.Duration
	var seen *[sha256.Size]byte
	if req.GetInvitation() != nil {
		rec, err := opened.keyset.invited(req, now)
		if err != nil {
			return nil, err
		}
		name, life = rec.GetPerson(), time.Duration(rec.GetLifeSeconds())*time.Second
		h := sha256.Sum256(lp.Append(lp.Append(nil, []byte(rec.GetId())), req.GetExporter()))
		e.Event, e.Token, seen = "sign-person", rec.GetId(), &h
	} else if name, life, err = opened.keyset.renewsPerson(req, key, now); err != nil {
		return nil, err
	}
	if err := s.issues.check(issueRate, now); err != nil {
		return nil, err
	}
	// An exporter value belongs to one connection, on which an invitation is taken once.
	if seen != nil && !s.joins.add(*seen) {
		return nil, denied("this invitation was already answered here: connect and take it again")
	}
	e.Node = profile.PersonSubject(name)
	if err := s.note(e); err != nil {
		return nil, err
	}
	leaf, err := opened.keyset.issue(ctx, profile.Identity{ClusterID: opened.keyset.clusterID, Person: name}, key, now, life)
	return &keydpb.SignPersonResponse{Leaf: leaf}, err
}

// invited returns the record of the invitation whose seed asks.
func (k *keyset) invited(req *keydpb.SignPersonRequest, now time.Time) (*profilepb.InvitationRecord, error) {
	rec, err := profile.OpenInvitation(k.records, req.GetInvitation())
	if err == nil {
		err = profile.CheckInvitation(rec, k.clusterID, now)
	}
	if err == nil {
		err = profile.CheckEnrolProof(rec.GetPublicKey(), req.GetExporter(), req.GetCsr(), rec.GetId(), req.GetProof())
	}
	if err != nil {
		return nil, denied("%v", err)
	}
	return rec, nil
}

// renewsPerson returns whose certificate asks for the next one, and how long that
// shall live.
func (k *keyset) renewsPerson(req *keydpb.SignPersonRequest, key *ecdsa.PublicKey, now time.Time) (name string, life time.Duration, _ error) {
	chain, id, err := profile.ParsePersonChain(req.GetOld())
	if err != nil {
		return "", 0, invalid("%v", err)
	}
	old := chain[0] // the issuers are this keyset's own, whatever was sent
	life = time.Duration(req.GetLifeSeconds()) * time.Second
	switch {
	case now.After(old.NotAfter):
		return "", 0, denied("the certificate to renew has expired: ask for an invitation")
	case id.ClusterID != k.clusterID || k.verifyOld(old, now) != nil:
		return "", 0, denied("the certificate to renew was not issued by this cluster, or is not valid yet")
	case key.Equal(old.PublicKey):
		return "", 0, denied("a renewal needs a fresh key")
	}
	if err := profile.CheckPersonLife(life); err != nil {
		return "", 0, denied("%v", err)
	}
	if err := profile.CheckPersonRenew(old, req.GetCsr(), req.GetProof()); err != nil {
		return "", 0, denied("%v", err)
	}
	return id.Person, life, nil
}
