package pki

import (
	"context"
	"errors"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// TPM is a node's own. The strings are those that the node's proofs sign.
type TPM interface {
	// Identity is what it shows of itself.
	Identity(ctx context.Context) (*profilepb.TPMIdentity, error)
	// Join opens a challenge and vouches for a join, with registers.
	Join(ctx context.Context, statement []byte, c *profilepb.TPMCredential, pcrs []uint32) (*profilepb.TPMEvidence, error)
	// Renew and Promote vouch for what the holder of a leaf asks that names it.
	Renew(ctx context.Context, statement []byte) (*profilepb.TPMEvidence, error)
	Promote(ctx context.Context, statement []byte) (*profilepb.TPMEvidence, error)
}

var errNoTPM = errors.New("the certificate names this machine's TPM, and this node has none (keyd.tpm in config.yaml)")

// Attested reports whether the present certificate names a TPM.
func (c *Credentials) Attested() bool { return c.Identity().TPM != nil }

// Attested reports whether a chain's leaf names a TPM.
func Attested(chain *profilepb.CertificateChain) (bool, error) {
	name, err := attestedKey(chain)
	return name != nil, err
}

// vouched is the TPM's word for a request, where the present certificate names one.
func (c *Credentials) vouched(ctx context.Context, t TPM, word func(TPM, context.Context, []byte) (*profilepb.TPMEvidence, error), statement []byte) (*profilepb.TPMEvidence, error) {
	switch {
	case !c.Attested():
		return nil, nil
	case t == nil:
		return nil, errNoTPM
	}
	return word(t, ctx, statement)
}

// attest answers a manager that wants the joiner's TPM to be proved: first with what
// it is, then with its word.
func (j *joining) attest(ctx context.Context, req *pkipb.JoinRequest) (*pkipb.JoinResponse, error) {
	if j.TPM == nil {
		return nil, errors.New("only machines are admitted that prove their TPM, and this node has none: name it in config.yaml (keyd.tpm), restart redoubt-node and join again")
	}
	var err error
	if req.Tpm, err = j.TPM.Identity(ctx); err != nil {
		return nil, err
	}
	resp, err := j.client.Join(ctx, req)
	wanted := resp.GetAttest()
	if err != nil || wanted == nil {
		return resp, err
	}
	if wanted.GetCredential() == nil {
		return nil, errors.New("the manager's answer is refused: it asks for a proof without a challenge")
	}
	statement := profile.JoinProofInput(j.exporter, req.GetCsr(), req.GetBootCsr(), req.GetTokenId())
	if req.Evidence, err = j.TPM.Join(ctx, statement, wanted.GetCredential(), wanted.GetPcrs()); err != nil {
		return nil, err
	}
	return j.client.Join(ctx, req)
}
