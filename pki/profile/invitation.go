package profile

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

const (
	invitationLabel  = "redoubt invitation v1\x00"
	enrolLabel       = "redoubt person v1\x00"
	personRenewLabel = "redoubt person renew v1\x00"
)

// PersonExporterLabel is that of the TLS exporter that binds taking an invitation to
// its connection; its context is the invitation's id, its length ExporterLen.
const PersonExporterLabel = "EXPORTER-redoubt-person"

// ErrInvitationExpired is CheckInvitation's refusal of an invitation past its time.
var ErrInvitationExpired = errors.New("the invitation has expired: ask for a new one (redoubt person invite)")

// InvitationSigningInput is what the keyset signs when somebody is invited.
func InvitationSigningInput(record []byte) []byte { return lp.Append([]byte(invitationLabel), record) }

// EnrolProofInput is what the invitation's key signs to take it.
func EnrolProofInput(exporter, csr []byte, invitationID string) []byte {
	b := lp.Append([]byte(enrolLabel), exporter)
	b = lp.Append(b, hash(csr))
	return lp.Append(b, []byte(invitationID))
}

// CheckEnrolProof verifies one with the record's public key.
func CheckEnrolProof(public, exporter, csr []byte, invitationID string, proof []byte) error {
	if len(public) != ed25519.PublicKeySize || len(exporter) != ExporterLen ||
		!ed25519.Verify(public, EnrolProofInput(exporter, csr, invitationID), proof) {
		return errors.New("the proof of the invitation does not verify")
	}
	return nil
}

// PersonRenewInput is what the certificate in use signs for the next one.
func PersonRenewInput(csr, oldLeaf []byte) []byte {
	return lp.Append(lp.Append([]byte(personRenewLabel), hash(csr)), hash(oldLeaf))
}

// SignPersonRenew makes that proof with the key of oldLeaf (DER).
func SignPersonRenew(key crypto.Signer, csr, oldLeaf []byte) ([]byte, error) {
	digest := sha256.Sum256(PersonRenewInput(csr, oldLeaf))
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// CheckPersonRenew verifies it with oldLeaf's public key.
func CheckPersonRenew(oldLeaf *x509.Certificate, csr, proof []byte) error {
	digest := sha256.Sum256(PersonRenewInput(csr, oldLeaf.Raw))
	return checkECDSA(oldLeaf.PublicKey, digest[:], proof, "the renewal proof does not verify")
}

// ParsePersonCSR reads a person's request: a public key, and nothing beside it.
func ParsePersonCSR(der []byte) (*CSR, error) {
	csr, err := ParseCSR(der)
	if err == nil && csr.KeydKey != nil {
		err = errors.New("certificate request: a person has no keyd key")
	}
	return csr, err
}

// CheckInvitationShape returns an error unless r is well formed.
func CheckInvitationShape(r *profilepb.InvitationRecord) error {
	switch {
	case !ident.Valid(r.GetId()):
		return errors.New("invitation: malformed id")
	case !ident.Valid(r.GetClusterId()):
		return errors.New("invitation: malformed cluster id")
	case len(r.GetPublicKey()) != ed25519.PublicKeySize:
		return fmt.Errorf("invitation: the public key is %d bytes, not %d", len(r.GetPublicKey()), ed25519.PublicKeySize)
	case r.GetMintedAt() <= 0:
		return errors.New("invitation: it has no time of minting")
	case r.GetExpiresAt() <= r.GetMintedAt():
		return errors.New("invitation: it expires before it was minted")
	}
	if err := CheckPersonName(r.GetPerson()); err != nil {
		return fmt.Errorf("invitation: %w", err)
	}
	if err := CheckPersonLife(time.Duration(r.GetLifeSeconds()) * time.Second); err != nil {
		return fmt.Errorf("invitation: %w", err)
	}
	return nil
}

// CheckInvitation returns an error unless r is well formed, of that cluster, and has
// not expired. Whether it was taken only the store knows.
func CheckInvitation(r *profilepb.InvitationRecord, clusterID string, now time.Time) error {
	if err := CheckInvitationShape(r); err != nil {
		return err
	}
	switch {
	case r.GetClusterId() != clusterID:
		return errors.New("the invitation is of another cluster")
	case time.Unix(r.GetMintedAt(), 0).After(now.Add(MaxSkew)):
		return errors.New("the invitation was minted in the future: check the clocks")
	case !now.Before(time.Unix(r.GetExpiresAt(), 0)):
		return ErrInvitationExpired
	}
	return nil
}

// ParseInvitation decodes a serialized record strictly.
func ParseInvitation(record []byte) (*profilepb.InvitationRecord, error) {
	if len(record) > MaxTokenRecord {
		return nil, fmt.Errorf("invitation: the record is larger than %d bytes", MaxTokenRecord)
	}
	r := new(profilepb.InvitationRecord)
	if err := proto.Unmarshal(record, r); err != nil || len(r.ProtoReflect().GetUnknown()) > 0 {
		return nil, errors.New("invitation: the record is malformed")
	}
	return r, CheckInvitationShape(r)
}

// OpenInvitation verifies keyd's signature over a record and decodes it.
func OpenInvitation(key ed25519.PublicKey, s *profilepb.SignedInvitation) (*profilepb.InvitationRecord, error) {
	if len(s.GetRecord()) > MaxTokenRecord || !ed25519.Verify(key, InvitationSigningInput(s.GetRecord()), s.GetSignature()) {
		return nil, errors.New("invitation: the signature does not verify")
	}
	return ParseInvitation(s.GetRecord())
}
