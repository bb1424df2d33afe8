package node

import (
	"context"
	"errors"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// signer binds keyd to what pki and the operator API ask for.
type signer struct {
	keyd     *keydclient.Client
	external *externals
}

var (
	_ pki.Signer     = timedSigner{}
	_ pki.RoleSigner = timedSigner{}
)

func (s signer) MintToken(ctx context.Context, record *profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error) {
	resp, err := s.keyd.MintToken(ctx, &keydpb.MintTokenRequest{Record: record})
	return resp.GetSigned(), err
}

func (s signer) MintInvitation(ctx context.Context, record *profilepb.InvitationRecord) (*profilepb.SignedInvitation, error) {
	resp, err := s.keyd.MintInvitation(ctx, &keydpb.MintInvitationRequest{Record: record})
	return resp.GetSigned(), err
}

func (s signer) SignPerson(ctx context.Context, r pki.SignPerson) (*profilepb.CertificateChain, error) {
	resp, err := s.keyd.SignPerson(ctx, &keydpb.SignPersonRequest{Invitation: r.Invitation, Exporter: r.Exporter, Old: r.Old,
		Csr: r.CSR, Proof: r.Proof, LifeSeconds: r.LifeSeconds})
	return resp.GetLeaf(), orBusy(err)
}

func (s signer) SignJoin(ctx context.Context, r pki.SignJoin) (pki.Issued, error) {
	resp, err := s.keyd.SignJoin(ctx, &keydpb.SignJoinRequest{Token: r.Token, Exporter: r.Exporter, Csr: r.CSR, BootCsr: r.BootCSR,
		Proof: r.Proof, NodeId: r.NodeID, NodeName: r.NodeName, Uses: r.Uses, WorkerLeafSeconds: r.WorkerLeafSeconds,
		Policy: r.Policy, Tpm: r.TPM, Evidence: r.Evidence, Approved: r.Approved})
	if o := resp.GetOrder(); err == nil && o != nil {
		leaf, err := s.fill(ctx, o, r.CSR)
		return pki.Issued{Leaf: leaf, TPMEK: resp.GetTpmEk()}, err
	}
	return pki.Issued{Leaf: resp.GetLeaf(), Boot: resp.GetBoot(), TPMEK: resp.GetTpmEk(), WantsApproval: resp.GetWantsApproval()}, orUnproved(orBusy(err))
}

func (s signer) Challenge(ctx context.Context, r pki.Challenge) (*profilepb.TPMCredential, error) {
	resp, err := s.keyd.Challenge(ctx, &keydpb.ChallengeRequest{Token: r.Token, Exporter: r.Exporter, Policy: r.Policy, Tpm: r.TPM})
	return resp.GetCredential(), orUnproved(err)
}

// orUnproved marks keyd's refusal of what a machine proved of itself, which that
// machine may hear.
func orUnproved(err error) error {
	if keydclient.CodeOf(err) == keydpb.Code_CODE_ATTESTATION {
		return &pki.UnprovedError{Err: err}
	}
	return err
}

// orBusy marks keyd's refusal of one request too many, which the caller may hear.
func orBusy(err error) error {
	if keydclient.CodeOf(err) == keydpb.Code_CODE_RATE_LIMITED {
		return &pki.SignerBusy{Err: err}
	}
	return err
}

func (s signer) SealKeyset(ctx context.Context, manager *profilepb.CertificateChain) ([]byte, error) {
	resp, err := s.keyd.SealKeyset(ctx, &keydpb.SealKeysetRequest{Manager: manager})
	return resp.GetSealedKeyset(), orBusy(err)
}

func (s signer) SignRenew(ctx context.Context, r pki.SignRenew) (pki.Issued, error) {
	resp, err := s.keyd.SignRenew(ctx, &keydpb.SignRenewRequest{Old: r.Old, Csr: r.CSR, BootCsr: r.BootCSR, Proof: r.Proof, WorkerLeafSeconds: r.WorkerLeafSeconds, Evidence: r.Evidence})
	if o := resp.GetOrder(); err == nil && o != nil {
		leaf, err := s.fill(ctx, o, r.CSR)
		return pki.Issued{Leaf: leaf}, err
	}
	return pki.Issued{Leaf: resp.GetLeaf(), Boot: resp.GetBoot()}, orUnproved(err)
}

func (s signer) SignPromotion(ctx context.Context, r pki.SignRenew) (pki.Issued, error) {
	resp, err := s.keyd.SignPromotion(ctx, &keydpb.SignPromotionRequest{Old: r.Old, Csr: r.CSR, BootCsr: r.BootCSR, Proof: r.Proof, Evidence: r.Evidence})
	return pki.Issued{Leaf: resp.GetLeaf(), Boot: resp.GetBoot()}, orUnproved(err)
}

func (s signer) SignDemotion(ctx context.Context, r pki.SignRenew) (pki.Issued, error) {
	resp, err := s.keyd.SignRenew(ctx, &keydpb.SignRenewRequest{Old: r.Old, Csr: r.CSR, Proof: r.Proof, Demote: true, WorkerLeafSeconds: r.WorkerLeafSeconds, Evidence: r.Evidence})
	if o := resp.GetOrder(); err == nil && o != nil {
		leaf, err := s.fill(ctx, o, r.CSR)
		return pki.Issued{Leaf: leaf}, err
	}
	return pki.Issued{Leaf: resp.GetLeaf()}, orUnproved(err)
}

func (s signer) SignCRL(ctx context.Context, ca []byte, revoked []pki.Revoked, number uint64) ([]byte, time.Time, error) {
	req := &keydpb.SignCRLRequest{Issuer: ca, Number: number}
	for _, r := range revoked {
		req.Revoked = append(req.Revoked, &keydpb.RevokedCertificate{Serial: r.Serial, At: r.At})
	}
	resp, err := s.keyd.SignCRL(ctx, req)
	return resp.GetCrl(), time.Unix(resp.GetNextUpdate(), 0), err
}

// WorkloadCA is nil where the keyset is of before workloads had identities.
func (s signer) WorkloadCA(ctx context.Context) ([]byte, error) {
	resp, err := s.keyd.SignWorkloads(ctx, &keydpb.SignWorkloadsRequest{})
	if keydclient.CodeOf(err) == keydpb.Code_CODE_DENIED {
		return nil, nil
	}
	chain := resp.GetBundle().GetIssuer().GetCertificates()
	if err == nil && len(chain) == 0 {
		err = errors.New("keyd names no CA of workloads")
	}
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

func (s signer) RotateKeyset(ctx context.Context, stay, retired [][]byte) (*keydpb.RotateKeysetResponse, error) {
	req := &keydpb.RotateKeysetRequest{Retired: retired}
	for _, leaf := range stay {
		req.Managers = append(req.Managers, &profilepb.CertificateChain{Certificates: [][]byte{leaf}})
	}
	return s.keyd.RotateKeyset(ctx, req)
}

func (s signer) RotateCA(ctx context.Context, change keydpb.CAChange, external *keydpb.External, managers [][]byte) (*keydpb.RotateCAResponse, error) {
	req := &keydpb.RotateCARequest{Change: change, External: external}
	for _, leaf := range managers {
		req.Managers = append(req.Managers, &profilepb.CertificateChain{Certificates: [][]byte{leaf}})
	}
	return s.keyd.RotateCA(ctx, req)
}
