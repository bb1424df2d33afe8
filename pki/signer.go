package pki

import (
	"context"

	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// TokenMinter signs token records. It fills in the cluster id and the time.
type TokenMinter interface {
	MintToken(ctx context.Context, record *profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error)
}

// JoinSigner certifies joiners. It verifies the record's signature and the
// proof by itself.
type JoinSigner interface {
	SignJoin(ctx context.Context, req SignJoin) (Issued, error)
	// Challenge makes what only the joiner's TPM opens, if the policy trusts that one.
	Challenge(ctx context.Context, req Challenge) (*profilepb.TPMCredential, error)
	// SealKeyset seals the cluster keyset to the keyd key in a manager's leaf.
	SealKeyset(ctx context.Context, manager *profilepb.CertificateChain) ([]byte, error)
}

// RenewSigner certifies a new key for a node on the word of its old one.
type RenewSigner interface {
	SignRenew(ctx context.Context, req SignRenew) (Issued, error)
}

// RoleSigner certifies a node for another role.
type RoleSigner interface {
	// SignPromotion makes a worker a manager; SealKeyset then gives it the keys.
	SignPromotion(ctx context.Context, req SignRenew) (Issued, error)
	SealKeyset(ctx context.Context, manager *profilepb.CertificateChain) ([]byte, error)
	// SignDemotion gives the holder of a manager leaf a worker's.
	SignDemotion(ctx context.Context, req SignRenew) (Issued, error)
}

// InvitationMinter signs invitations' records. It fills in the cluster id and the time.
type InvitationMinter interface {
	MintInvitation(ctx context.Context, record *profilepb.InvitationRecord) (*profilepb.SignedInvitation, error)
}

// PersonSigner certifies people. It verifies the invitation or the certificate in use,
// and the proof, by itself.
type PersonSigner interface {
	SignPerson(ctx context.Context, req SignPerson) (*profilepb.CertificateChain, error)
}

// SignPerson is what a person proved: an invitation's seed, over a connection, or the
// certificate in use.
type SignPerson struct {
	Invitation  *profilepb.SignedInvitation
	Exporter    []byte
	Old         *profilepb.CertificateChain
	CSR, Proof  []byte
	LifeSeconds uint32 // where Old is there
}

// Signer is all of it: what the composition root binds keyd to.
type Signer interface {
	TokenMinter
	JoinSigner
	RenewSigner
	InvitationMinter
	PersonSigner
}

// SignJoin is what a joiner proved.
type SignJoin struct {
	Token    *profilepb.SignedTokenRecord
	Exporter []byte
	CSR      []byte
	BootCSR  []byte // managers only
	Proof    []byte
	NodeID   string
	NodeName string
	// Uses is how often the token was used before.
	Uses uint32
	// WorkerLeafSeconds is the life of a worker's leaf; 0: the signer's own.
	WorkerLeafSeconds uint32
	// Policy is what the cluster demands, nil: nothing; TPM and Evidence are what
	// the joiner brought, and Approved what an operator said.
	Policy   *profilepb.AdmissionPolicy
	TPM      *profilepb.TPMIdentity
	Evidence *profilepb.TPMEvidence
	Approved bool
}

// Challenge is what a challenge is made for.
type Challenge struct {
	Token    *profilepb.SignedTokenRecord
	Exporter []byte
	Policy   *profilepb.AdmissionPolicy
	TPM      *profilepb.TPMIdentity
}

// UnprovedError says that a machine did not prove what the cluster demands. Who
// holds a token's seed may hear why.
type UnprovedError struct{ Err error }

func (e *UnprovedError) Error() string { return e.Err.Error() }
func (e *UnprovedError) Unwrap() error { return e.Err }

// SignRenew is what a renewing node proved.
type SignRenew struct {
	Old     *profilepb.CertificateChain
	CSR     []byte
	BootCSR []byte // may be nil
	Proof   []byte
	// WorkerLeafSeconds is the life of a worker's leaf; 0: the signer's own.
	WorkerLeafSeconds uint32
	// Evidence is the word of the TPM that the leaf in use names; nil: it names none.
	Evidence *profilepb.TPMEvidence
}

// Issued are new certificates; Boot is nil where none was asked for.
type Issued struct {
	Leaf *profilepb.CertificateChain
	Boot *profilepb.CertificateChain
	// TPMEK is the hash of the endorsement key that a joiner proved, or nil.
	TPMEK []byte
	// WantsApproval: nothing was issued, as an operator has to approve it first.
	WantsApproval bool
}
