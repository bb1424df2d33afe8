package tpm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// ErrCredential says that a credential is not for this TPM's keys.
var ErrCredential = errors.New("the credential is not for this TPM")

// Credential is a challenge that only the TPM opens that has both keys it was
// made for.
type Credential struct{ Blob, Secret []byte }

// Statement is what an AK signs that it was asked to. Purpose keeps uses apart;
// Secret is that of a credential, or nil.
type Statement struct {
	Purpose string
	Text    []byte
	Secret  []byte
}

// digest is what the TPM puts into the quote: docs/formats.md.
func (s Statement) digest() []byte {
	b := lp.Append([]byte("redoubt tpm statement v1\x00"), []byte(s.Purpose))
	b = lp.Append(b, s.Text)
	sum := sha256.Sum256(lp.Append(b, s.Secret))
	return sum[:]
}

// Evidence is a statement as a TPM signed it, with registers.
type Evidence struct {
	// Quote is a TPMS_ATTEST, Signature a TPMT_SIGNATURE of the AK over it.
	Quote, Signature []byte
	// Values of the registers asked for, in their order.
	Values [][]byte
}

// Activate opens a credential that was made for this TPM's EK and AK.
func (t *TPM) Activate(ctx context.Context, c Credential) ([]byte, error) {
	if len(c.Blob) > MaxCredential || len(c.Secret) > MaxCredential {
		return nil, ErrCredential
	}
	return use(ctx, t, func() ([]byte, error) { return t.activate(c) })
}

func (t *TPM) activate(c Credential) ([]byte, error) {
	template, _, err := t.endorsement()
	if err != nil {
		return nil, err
	}
	ak, err := t.primary(tpm2.TPMRHOwner, akTemplate)
	if err != nil {
		return nil, err
	}
	defer ak.flush()
	ek, err := t.primary(tpm2.TPMRHEndorsement, template)
	if err != nil {
		return nil, err
	}
	defer ek.flush()
	policy := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(dev transport.TPM, handle tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: noAuth}, PolicySession: handle, NonceTPM: nonce}.Execute(dev)
		return err
	})
	r, err := tpm2.ActivateCredential{ActivateHandle: ak.auth(noAuth), KeyHandle: ek.auth(policy),
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: c.Secret}}.Execute(t.dev)
	if err != nil {
		if errors.Is(err, ErrDevice) {
			return nil, err
		}
		return nil, fmt.Errorf("%w (%w)", ErrCredential, err)
	}
	return r.CertInfo.Buffer, nil
}

// Attest has the AK sign a statement, with the present values of registers.
func (t *TPM) Attest(ctx context.Context, s Statement, pcrs []int) (Evidence, error) {
	if err := CheckPCRs(pcrs); err != nil {
		return Evidence{}, err
	}
	return use(ctx, t, func() (Evidence, error) { return t.attest(s, pcrs) })
}

func (t *TPM) attest(s Statement, pcrs []int) (e Evidence, err error) {
	if e.Values, err = t.readPCRs(pcrs); err != nil {
		return Evidence{}, err
	}
	ak, err := t.primary(tpm2.TPMRHOwner, akTemplate)
	if err != nil {
		return Evidence{}, err
	}
	defer ak.flush()
	r, err := tpm2.Quote{SignHandle: ak.auth(noAuth), QualifyingData: tpm2.TPM2BData{Buffer: s.digest()},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: quoted(pcrs)}.Execute(t.dev)
	if err != nil {
		return Evidence{}, err
	}
	e.Quote, e.Signature = r.Quoted.Bytes(), tpm2.Marshal(r.Signature)
	return e, nil
}

// quoted is the selection of a quote; of no register, it is empty.
func quoted(pcrs []int) tpm2.TPMLPCRSelection {
	if len(pcrs) == 0 {
		return tpm2.TPMLPCRSelection{}
	}
	return selection(pcrs)
}
