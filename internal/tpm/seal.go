package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

var (
	// ErrBlob says that a sealed secret is damaged, or another TPM's.
	ErrBlob = errors.New("it was not sealed by this TPM, or is damaged")
	// ErrPCRs says that the machine was started otherwise than when the secret
	// was sealed.
	ErrPCRs = errors.New("the TPM's registers (PCR) are not those of the time of sealing: firmware, boot loader or settings changed")
	// ErrAuth says that the secret was sealed for another use.
	ErrAuth = errors.New("it was sealed for another use")
)

// blobMagic opens a sealed secret: docs/formats.md.
const blobMagic = "RDTT\x01"

// Seal seals a secret to this TPM and to the present values of the registers
// (none: to the TPM alone). auth, at most MaxAuth bytes, is what Unseal must be
// given; it keeps uses apart, and is no PIN: the TPM counts no wrong ones.
func (t *TPM) Seal(ctx context.Context, pcrs []int, secret, auth []byte) ([]byte, error) {
	if err := CheckPCRs(pcrs); err != nil {
		return nil, err
	}
	if len(secret) == 0 || len(secret) > MaxSecret || len(auth) > MaxAuth {
		return nil, fmt.Errorf("a TPM seals 1 to %d bytes, for a use of at most %d", MaxSecret, MaxAuth)
	}
	secret = bytes.Clone(secret) // the caller may wipe his before a slow TPM has it
	return use(ctx, t, func() ([]byte, error) {
		defer clear(secret)
		return t.seal(pcrs, secret, auth)
	})
}

func (t *TPM) seal(pcrs []int, secret, auth []byte) ([]byte, error) {
	public := sealedTemplate
	if len(pcrs) > 0 {
		policy, err := t.policy(pcrs)
		if err != nil {
			return nil, err
		}
		public.AuthPolicy, public.ObjectAttributes.UserWithAuth = tpm2.TPM2BDigest{Buffer: policy}, false
	}
	srk, err := t.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	if err != nil {
		return nil, err
	}
	defer srk.flush()
	r, err := tpm2.Create{
		// What goes over the bus is encrypted: salted with the storage key.
		ParentHandle: srk.auth(tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(srk.handle, *srk.public), tpm2.AESEncryption(128, tpm2.EncryptIn))),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			UserAuth: tpm2.TPM2BAuth{Buffer: word(auth)},
			Data:     tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic: tpm2.New2B(public),
	}.Execute(t.dev)
	if err != nil {
		return nil, err
	}
	blob := lp.Append([]byte(blobMagic), pcrMask(pcrs))
	blob = lp.Append(blob, tpm2.Marshal(r.OutPublic))
	return lp.Append(blob, r.OutPrivate.Buffer), nil
}

// Unseal opens what Seal made on this TPM, for the same use, in the same state.
func (t *TPM) Unseal(ctx context.Context, blob, auth []byte) ([]byte, error) {
	pcrs, public, private, err := parseBlob(blob)
	if err != nil {
		return nil, err
	}
	if len(auth) > MaxAuth {
		return nil, ErrAuth
	}
	return use(ctx, t, func() ([]byte, error) { return t.unseal(pcrs, public, private, auth) })
}

func (t *TPM) unseal(pcrs []int, public *tpm2.TPM2BPublic, private, auth []byte) ([]byte, error) {
	srk, err := t.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	if err != nil {
		return nil, err
	}
	defer srk.flush()
	r, err := tpm2.Load{ParentHandle: srk.auth(noAuth), InPublic: *public, InPrivate: tpm2.TPM2BPrivate{Buffer: private}}.Execute(t.dev)
	if err != nil {
		if errors.Is(err, ErrDevice) {
			return nil, err
		}
		return nil, fmt.Errorf("%w (%w)", ErrBlob, err)
	}
	item := &loaded{t: t, handle: r.ObjectHandle, name: r.Name}
	defer item.flush()
	opts := []tpm2.AuthOption{tpm2.Auth(word(auth)), tpm2.Salted(srk.handle, *srk.public), tpm2.AESEncryption(128, tpm2.EncryptOut)}
	session := tpm2.HMAC(tpm2.TPMAlgSHA256, 16, opts...)
	if len(pcrs) > 0 {
		s, closeSession, err := tpm2.PolicySession(t.dev, tpm2.TPMAlgSHA256, 16, opts...)
		if err != nil {
			return nil, err
		}
		defer closeSession()
		if err := t.runPolicy(s.Handle(), pcrs); err != nil {
			return nil, err
		}
		session = s
	}
	out, err := tpm2.Unseal{ItemHandle: item.auth(session)}.Execute(t.dev)
	switch {
	case errors.Is(err, tpm2.TPMRCPolicyFail), errors.Is(err, tpm2.TPMRCPCRChanged):
		return nil, ErrPCRs
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth):
		return nil, ErrAuth
	case err != nil:
		return nil, err
	}
	return out.OutData.Buffer, nil
}

// word is auth as the TPM is given it. Libraries and TPMs do not agree on which zeros
// at an end of an authorization value count, so that it has none: of its SHA-256, 24
// bytes in base64.
func word(auth []byte) []byte {
	sum := sha256.Sum256(auth)
	return []byte(base64.RawStdEncoding.EncodeToString(sum[:24]))
}

// runPolicy binds a session to the registers as they are, and to the word.
func (t *TPM) runPolicy(session tpm2.TPMHandle, pcrs []int) error {
	if _, err := (tpm2.PolicyPCR{PolicySession: session, Pcrs: selection(pcrs)}).Execute(t.dev); err != nil {
		return err
	}
	_, err := tpm2.PolicyAuthValue{PolicySession: session}.Execute(t.dev)
	return err
}

// policy is the digest of runPolicy's policy now.
func (t *TPM) policy(pcrs []int) ([]byte, error) {
	s, closeSession, err := tpm2.PolicySession(t.dev, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		return nil, err
	}
	defer closeSession()
	if err := t.runPolicy(s.Handle(), pcrs); err != nil {
		return nil, err
	}
	r, err := tpm2.PolicyGetDigest{PolicySession: s.Handle()}.Execute(t.dev)
	if err != nil {
		return nil, err
	}
	return r.PolicyDigest.Buffer, nil
}

// sealedTemplate is a sealed secret without a policy.
var sealedTemplate = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
}

// parseBlob takes a sealed secret apart. Which registers it names is not
// authenticated here: with others, the TPM refuses.
func parseBlob(blob []byte) (pcrs []int, public *tpm2.TPM2BPublic, private []byte, err error) {
	rest, found := bytes.CutPrefix(blob, []byte(blobMagic))
	mask, rest, ok1 := lp.Take(rest)
	pub, rest, ok2 := lp.Take(rest)
	private, rest, ok3 := lp.Take(rest)
	if len(blob) > MaxBlob || !found || !ok1 || !ok2 || !ok3 || len(rest) != 0 || len(mask) != PCRs/8 || len(private) == 0 {
		return nil, nil, nil, ErrBlob
	}
	public, err = unmarshal[tpm2.TPM2BPublic](pub)
	if err != nil {
		return nil, nil, nil, ErrBlob
	}
	if p, err := public.Contents(); err != nil || p.Type != tpm2.TPMAlgKeyedHash {
		return nil, nil, nil, ErrBlob
	}
	return unmask(mask), public, private, nil
}

func pcrMask(pcrs []int) []byte {
	mask := make([]byte, PCRs/8)
	for _, p := range pcrs {
		mask[p/8] |= 1 << (p % 8)
	}
	return mask
}

func unmask(mask []byte) (pcrs []int) {
	for p := range PCRs {
		if mask[p/8]&(1<<(p%8)) != 0 {
			pcrs = append(pcrs, p)
		}
	}
	return pcrs
}
