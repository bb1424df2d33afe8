package keyd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/tpm"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// maxStatement bounds what a TPM is asked to vouch for, in bytes.
const maxStatement = 1 << 10

// leafAuth is what the TPM must be told to give back a node's leaf key.
var leafAuth = func() []byte {
	sum := sha256.Sum256([]byte("redoubt tpm leaf v1\x00"))
	return sum[:]
}()

// tpmVerb answers what is asked of this machine's TPM, in every state.
func (s *Server) tpmVerb(ctx context.Context, req *keydpb.Request) (*keydpb.Response, error) {
	t, err := s.device()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TPMTime)
	defer cancel()
	resp := new(keydpb.Response)
	switch v := req.GetVerb().(type) {
	case *keydpb.Request_DescribeTpm:
		var r *keydpb.DescribeTPMResponse
		r, err = describeTPM(ctx, t)
		resp.Result = &keydpb.Response_DescribeTpm{DescribeTpm: r}
	case *keydpb.Request_Attest:
		var r *keydpb.AttestResponse
		r, err = attest(ctx, t, v.Attest)
		resp.Result = &keydpb.Response_Attest{Attest: r}
	case *keydpb.Request_SealToTpm:
		var r *keydpb.SealToTPMResponse
		r, err = sealToTPM(ctx, t, v.SealToTpm)
		resp.Result = &keydpb.Response_SealToTpm{SealToTpm: r}
	}
	return resp, err
}

func describeTPM(ctx context.Context, t *tpm.TPM) (*keydpb.DescribeTPMResponse, error) {
	id, err := t.Identity(ctx)
	if err != nil {
		return nil, tpmError(err)
	}
	ek, err := tpm.EKHash(id.EK)
	if err != nil {
		return nil, tpmError(err)
	}
	ak, err := tpm.CheckAK(id.AK)
	if err != nil {
		return nil, tpmError(err)
	}
	return &keydpb.DescribeTPMResponse{Identity: &profilepb.TPMIdentity{Ek: id.EK, EkCertificate: id.Certificate, Ak: id.AK}, EkHash: ek, AkName: ak}, nil
}

// ownAttestationKey is the name of that of this machine's TPM.
func (s *Server) ownAttestationKey(ctx context.Context) ([]byte, error) {
	t, err := s.device()
	if err != nil {
		return nil, err
	}
	d, err := describeTPM(ctx, t)
	return d.GetAkName(), err
}

// attest has the TPM vouch for a request of this node, and opens a joiner's
// challenge before.
func attest(ctx context.Context, t *tpm.TPM, req *keydpb.AttestRequest) (*keydpb.AttestResponse, error) {
	st := tpm.Statement{Purpose: purposes[req.GetPurpose()], Text: req.GetStatement()}
	switch {
	case st.Purpose == "":
		return nil, invalid("the TPM vouches for joins, renewals and promotions")
	case len(st.Text) == 0 || len(st.Text) > maxStatement:
		return nil, invalid("a statement has 1 to %d bytes", maxStatement)
	case (req.GetCredential() != nil) != (st.Purpose == purposeJoin):
		return nil, invalid("a challenge belongs to a join, and a join needs one")
	}
	pcrs := registers(req.GetPcrs())
	if err := tpm.CheckPCRs(pcrs); err != nil {
		return nil, invalid("%v", err)
	}
	id, err := t.Identity(ctx)
	if err != nil {
		return nil, tpmError(err)
	}
	if c := req.GetCredential(); c != nil {
		if st.Secret, err = t.Activate(ctx, tpm.Credential{Blob: c.GetBlob(), Secret: c.GetSecret()}); err != nil {
			return nil, tpmError(err)
		}
	}
	e, err := t.Attest(ctx, st, pcrs)
	if err != nil {
		return nil, tpmError(err)
	}
	return &keydpb.AttestResponse{Evidence: &profilepb.TPMEvidence{Ak: id.AK, Quote: e.Quote, Signature: e.Signature, Values: e.Values, Secret: st.Secret}}, nil
}

// sealToTPM seals a P-256 key and nothing else, so that keyd is no oracle for
// sealing what redoubtd likes, or opens one.
func sealToTPM(ctx context.Context, t *tpm.TPM, req *keydpb.SealToTPMRequest) (*keydpb.SealToTPMResponse, error) {
	if (len(req.GetKey()) > 0) == (len(req.GetSealed()) > 0) {
		return nil, invalid("a key is sealed or opened, one of the two")
	}
	if key := req.GetKey(); len(key) > 0 {
		parsed, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), key)
		if err != nil {
			return nil, invalid("what is to be sealed is no P-256 key")
		}
		wipeECDSA(parsed)
		sealed, err := t.Seal(ctx, nil, key, leafAuth)
		if err != nil {
			return nil, tpmError(err)
		}
		return &keydpb.SealToTPMResponse{Sealed: sealed}, nil
	}
	key, err := t.Unseal(ctx, req.GetSealed(), leafAuth)
	if err != nil {
		return nil, tpmError(err)
	}
	return &keydpb.SealToTPMResponse{Key: key}, nil
}
