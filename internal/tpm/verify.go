package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// NameLen is the length of a key's name: the hash's number and the SHA-256.
const NameLen = 2 + sha256.Size

// ek is an endorsement key that has one of the two forms there are.
type ek struct {
	public *tpm2.TPMTPublic
	key    crypto.PublicKey
}

// parseEK decodes an EK: but for the key itself, exactly one of the templates.
func parseEK(b []byte) (*ek, error) {
	p, _, err := parsePublic(b)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(endorsementKeys, func(k endorsementKey) bool { return made(p, k.template) }) {
		return nil, errors.New("the key is not an endorsement key (EK) of the TCG's templates")
	}
	key, err := publicKey(p)
	if err != nil {
		return nil, err
	}
	return &ek{p, key}, nil
}

// made reports whether p is template's but for the key itself.
func made(p *tpm2.TPMTPublic, template tpm2.TPMTPublic) bool {
	if p.Type != template.Type {
		return false
	}
	c := *p
	c.Unique = template.Unique
	return bytes.Equal(tpm2.Marshal(c), tpm2.Marshal(template))
}

// publicKey is p as Go's key, on its curve.
func publicKey(p *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	switch p.Type {
	case tpm2.TPMAlgECC:
		point, err := p.Unique.ECC()
		if err != nil || len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
			return nil, errForm
		}
		raw := append(make([]byte, 0, 65), 4)
		raw = append(raw, make([]byte, 32-len(point.X.Buffer))...)
		raw = append(raw, point.X.Buffer...)
		raw = append(raw, make([]byte, 32-len(point.Y.Buffer))...)
		raw = append(raw, point.Y.Buffer...)
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
		if err != nil {
			return nil, fmt.Errorf("%w: the point is not on the curve", errForm)
		}
		return key, nil
	case tpm2.TPMAlgRSA:
		parms, err := p.Parameters.RSADetail()
		if err != nil {
			return nil, errForm
		}
		modulus, err := p.Unique.RSA()
		if err != nil || len(modulus.Buffer) != 256 || modulus.Buffer[0] < 0x80 || parms.Exponent != 0 {
			return nil, fmt.Errorf("%w: not an RSA key of 2048 bits", errForm)
		}
		return tpm2.RSAPub(parms, modulus)
	}
	return nil, errForm
}

// EKHash is what an allow-list names: the SHA-256 of the EK's
// SubjectPublicKeyInfo.
func EKHash(public []byte) ([]byte, error) {
	e, err := parseEK(public)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(e.key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

// Trust is which TPMs are believed to be TPMs.
type Trust struct {
	// Allowed are hashes of EKs.
	Allowed [][]byte
	// CAs certify EKs; each is trusted, whether it is a root or not.
	CAs []*x509.Certificate
}

// oidSubjectAltName names what the EK Credential Profile has chip makers write as
// critical, and Go does not read.
var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// CheckEK returns an error unless the EK is allowed or certified by a CA.
func (t Trust) CheckEK(public, certificate []byte, now time.Time) error {
	hash, err := EKHash(public)
	if err != nil {
		return err
	}
	for _, h := range t.Allowed {
		if subtle.ConstantTimeCompare(h, hash) == 1 {
			return nil
		}
	}
	if len(t.CAs) == 0 || len(certificate) == 0 {
		return fmt.Errorf("the TPM's endorsement key %x is not on the allow-list", hash)
	}
	if len(certificate) > MaxCertificate {
		return errors.New("the EK's certificate is too large")
	}
	if err := checkCertified(public, certificate); err != nil {
		return err
	}
	c, err := x509.ParseCertificate(certificate)
	if err != nil {
		return errors.New("the EK's certificate is malformed")
	}
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool { return id.Equal(oidSubjectAltName) })
	roots := x509.NewCertPool()
	for _, ca := range t.CAs {
		roots.AddCert(ca)
	}
	if c.IsCA {
		return errors.New("the EK's certificate is a CA's")
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("the EK's certificate is of no CA that is trusted for TPMs, and the key %x is not on the allow-list", hash)
	}
	return nil
}

// CheckAK returns the name of an attestation key, or an error unless its public
// area is that of the one template: restricted to what its TPM wrote.
func CheckAK(public []byte) (name []byte, err error) {
	p, n, err := parsePublic(public)
	if err != nil {
		return nil, err
	}
	if !made(p, akTemplate) {
		return nil, errors.New("the key is not an attestation key (AK) of the one template")
	}
	if _, err := publicKey(p); err != nil {
		return nil, err
	}
	return n.Buffer, nil
}

// MakeCredential seals secret to the TPM that holds both keys.
func MakeCredential(ekPublic, akPublic, secret []byte) (Credential, error) {
	if err := allowed(); err != nil {
		return Credential{}, err
	}
	e, err := parseEK(ekPublic)
	if err != nil {
		return Credential{}, err
	}
	name, err := CheckAK(akPublic)
	if err != nil {
		return Credential{}, err
	}
	if len(secret) != SecretLen {
		return Credential{}, fmt.Errorf("a challenge has %d bytes", SecretLen)
	}
	key, err := tpm2.ImportEncapsulationKey(e.public)
	if err != nil {
		return Credential{}, err
	}
	blob, sealed, err := tpm2.CreateCredential(rand.Reader, key, name, secret)
	return Credential{blob, sealed}, err
}

// CheckEvidence returns an error unless the AK signed this very statement, with
// registers that have the values shown. Which values are good is the caller's to
// say.
func CheckEvidence(akPublic []byte, s Statement, pcrs []int, e Evidence) error {
	if err := CheckPCRs(pcrs); err != nil {
		return err
	}
	p, _, err := parsePublic(akPublic)
	if err != nil {
		return err
	}
	if !made(p, akTemplate) {
		return errors.New("the key is not an attestation key (AK) of the one template")
	}
	public, err := publicKey(p)
	if err != nil {
		return err
	}
	if err := checkSignature(public.(*ecdsa.PublicKey), e); err != nil {
		return err
	}
	q, err := unmarshal[tpm2.TPMSAttest](e.Quote)
	if err != nil {
		return err
	}
	info, err := q.Attested.Quote()
	if q.Magic != tpm2.TPMGeneratedValue || q.Type != tpm2.TPMSTAttestQuote || err != nil {
		return errors.New("the evidence is not a TPM's quote")
	}
	if subtle.ConstantTimeCompare(q.ExtraData.Buffer, s.digest()) != 1 {
		return errors.New("the quote was made for another request")
	}
	if !bytes.Equal(tpm2.Marshal(info.PCRSelect), tpm2.Marshal(quoted(pcrs))) {
		return errors.New("the quote is of other registers (PCR) than asked for")
	}
	h := sha256.New()
	if len(e.Values) != len(pcrs) {
		return errors.New("the quote lacks values of registers (PCR)")
	}
	for _, v := range e.Values {
		if len(v) != PCRLen {
			return errForm
		}
		h.Write(v)
	}
	if len(pcrs) > 0 && !bytes.Equal(info.PCRDigest.Buffer, h.Sum(nil)) {
		return errors.New("the registers (PCR) shown are not those that the TPM signed")
	}
	return nil
}

func checkSignature(key *ecdsa.PublicKey, e Evidence) error {
	if len(e.Quote) > MaxQuote || len(e.Signature) > MaxSignature {
		return errForm
	}
	sig, err := unmarshal[tpm2.TPMTSignature](e.Signature)
	if err != nil {
		return err
	}
	parts, err := sig.Signature.ECDSA()
	if sig.SigAlg != tpm2.TPMAlgECDSA || err != nil || parts.Hash != tpm2.TPMAlgSHA256 ||
		len(parts.SignatureR.Buffer) > 32 || len(parts.SignatureS.Buffer) > 32 {
		return errors.New("the quote is not signed with ECDSA and SHA-256")
	}
	digest := sha256.Sum256(e.Quote)
	if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(parts.SignatureR.Buffer), new(big.Int).SetBytes(parts.SignatureS.Buffer)) {
		return errors.New("the quote is not signed by the TPM's attestation key (AK)")
	}
	return nil
}
