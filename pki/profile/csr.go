package profile

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
)

// CSR is a certificate request that passed every check.
type CSR struct {
	Request *x509.CertificateRequest
	// KeydKey is the node's keyd key, or nil when the request carries none.
	KeydKey []byte
}

// NewCSR makes a request for key's public half. keydKey may be nil.
func NewCSR(key crypto.Signer, keydKey []byte) ([]byte, error) {
	if err := checkP256(key.Public()); err != nil {
		return nil, err
	}
	t := &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA256}
	if keydKey != nil {
		if err := CheckKeydKey(keydKey); err != nil {
			return nil, err
		}
		t.ExtraExtensions = []pkix.Extension{{Id: OIDKeydKey, Value: mustMarshal(keydKey, "")}}
	}
	return x509.CreateCertificateRequest(rand.Reader, t, key)
}

// ParseCSR decodes and checks a request: bounded, P-256, signed by its own
// key, with no name and nothing but a keyd key beside the public key.
func ParseCSR(der []byte) (*CSR, error) {
	if len(der) > MaxCSR {
		return nil, fmt.Errorf("certificate request is larger than %d bytes", MaxCSR)
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errors.New("certificate request is malformed")
	}
	if err := checkP256(req.PublicKey); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	switch {
	case req.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return nil, errors.New("certificate request: not signed with ECDSA and SHA-256")
	case req.CheckSignature() != nil:
		return nil, errors.New("certificate request: the signature is not by its own key")
	case string(req.RawSubject) != emptyName:
		return nil, errors.New("certificate request: the subject must be empty")
	case len(req.Extensions) > 1:
		return nil, errors.New("certificate request: only a keyd key may be requested beside the public key")
	}
	if err := checkAttributes(req.RawTBSCertificateRequest); err != nil {
		return nil, err
	}
	csr := &CSR{Request: req}
	for _, e := range req.Extensions {
		if !e.Id.Equal(OIDKeydKey) || e.Critical {
			return nil, errors.New("certificate request: only a keyd key may be requested beside the public key")
		}
		if csr.KeydKey, err = parseKeydKey(e.Value); err != nil {
			return nil, fmt.Errorf("certificate request: %w", err)
		}
	}
	return csr, nil
}

var oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}

// checkAttributes refuses the attributes that the standard parser skips.
func checkAttributes(tbs []byte) error {
	var info struct {
		Raw        asn1.RawContent
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}
	rest, err := asn1.Unmarshal(tbs, &info)
	if err != nil || len(rest) != 0 || info.Version != 0 {
		return errors.New("certificate request is malformed")
	}
	if len(info.Attributes) > 1 {
		return errors.New("certificate request has more than one attribute")
	}
	for _, a := range info.Attributes {
		var attr struct {
			ID     asn1.ObjectIdentifier
			Values []asn1.RawValue `asn1:"set"`
		}
		rest, err := asn1.Unmarshal(a.FullBytes, &attr)
		if err != nil || len(rest) != 0 || !attr.ID.Equal(oidExtensionRequest) || len(attr.Values) != 1 {
			return errors.New("certificate request has an attribute other than one extension request")
		}
	}
	return nil
}
