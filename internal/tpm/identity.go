package tpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"

	"github.com/google/go-tpm/tpm2"
)

// Identity is what a TPM shows of itself. Nothing of it is secret.
type Identity struct {
	// EK and AK are public areas, as a TPM encodes them (TPMT_PUBLIC).
	EK, AK []byte
	// Certificate is the EK's, DER, or nil where the TPM holds none.
	Certificate []byte
}

type endorsementKey struct {
	index    tpm2.TPMHandle // of the certificate
	template tpm2.TPMTPublic
}

// The endorsement keys that a TPM may have a certificate of, by the TCG's EK
// Credential Profile; the first of them that has one is used. Where none has,
// the first is used alone: its hash can be allowed.
var endorsementKeys = []endorsementKey{
	{0x01C0000A, tpm2.ECCEKTemplate},
	{0x01C00002, tpm2.RSAEKTemplate},
}

// akTemplate makes the attestation key.
var akTemplate = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
		Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}}),
}

// Identity returns the TPM's keys. It is asked once.
func (t *TPM) Identity(ctx context.Context) (Identity, error) {
	if id := t.id.Load(); id != nil {
		return *id, nil
	}
	return use(ctx, t, func() (Identity, error) {
		id, err := t.identity()
		if err != nil {
			return Identity{}, err
		}
		t.id.Store(id)
		return *id, nil
	})
}

func (t *TPM) identity() (*Identity, error) {
	id := new(Identity)
	template, cert, err := t.endorsement()
	if err != nil {
		return nil, err
	}
	ek, err := t.primary(tpm2.TPMRHEndorsement, template)
	if err != nil {
		return nil, err
	}
	ek.flush()
	ak, err := t.primary(tpm2.TPMRHOwner, akTemplate)
	if err != nil {
		return nil, err
	}
	ak.flush()
	id.EK, id.AK, id.Certificate = tpm2.Marshal(*ek.public), tpm2.Marshal(*ak.public), cert
	if cert != nil && checkCertified(id.EK, cert) != nil {
		id.Certificate = nil // of an EK that was made in another way
	}
	return id, nil
}

// endorsement is the template of the EK that is used, and its certificate.
func (t *TPM) endorsement() (tpm2.TPMTPublic, []byte, error) {
	for _, ek := range endorsementKeys {
		cert, err := t.readNV(ek.index)
		if err != nil {
			return tpm2.TPMTPublic{}, nil, err
		}
		if cert != nil {
			return ek.template, cert, nil
		}
	}
	return endorsementKeys[0].template, nil, nil
}

// readNV returns the certificate at an index, or nil.
func (t *TPM) readNV(index tpm2.TPMHandle) ([]byte, error) {
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.dev)
	if errors.Is(err, ErrDevice) {
		return nil, err
	}
	if err != nil {
		return nil, nil // there is no such index
	}
	public, err := pub.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	var cert []byte
	for size := int(public.DataSize); len(cert) < size && size <= MaxCertificate; {
		r, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: noAuth},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Size:       uint16(min(maxNVRead, size-len(cert))), Offset: uint16(len(cert)),
		}.Execute(t.dev)
		if errors.Is(err, ErrDevice) {
			return nil, err
		}
		if err != nil || len(r.Data.Buffer) == 0 {
			return nil, nil // written by nobody, or not to be read
		}
		cert = append(cert, r.Data.Buffer...)
	}
	// An index may be longer than what is in it.
	var whole asn1.RawValue
	if _, err := asn1.Unmarshal(cert, &whole); err != nil {
		return nil, nil
	}
	return bytes.Clone(whole.FullBytes), nil
}

// checkCertified returns an error unless the certificate is of that EK.
func checkCertified(ek, cert []byte) error {
	e, err := parseEK(ek)
	if err != nil {
		return err
	}
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return errors.New("the EK's certificate is malformed")
	}
	same := false
	switch key := e.key.(type) {
	case *ecdsa.PublicKey:
		same = key.Equal(c.PublicKey)
	case *rsa.PublicKey:
		same = key.Equal(c.PublicKey)
	}
	if !same {
		return errors.New("the certificate is another key's than the EK")
	}
	return nil
}
