// Package imagepolicytest signs images for tests, as cosign does.
package imagepolicytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// Predicate types.
const (
	Sign       = "https://sigstore.dev/cosign/sign/v1"
	Provenance = "https://slsa.dev/provenance/v1"
	SPDX       = "https://spdx.dev/Document"
)

const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// Signer makes bundles with a key, under a certificate if it has one.
type Signer struct {
	Key crypto.Signer
	// Chain is the leaf and what stands between it and its root.
	Chain []*x509.Certificate
}

// NewSigner makes one with a P-256 key.
func NewSigner() *Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return &Signer{Key: key}
}

// PEM is the public key.
func (s *Signer) PEM() string {
	der, err := x509.MarshalPKIXPublicKey(s.Key.Public())
	check(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// Bundle states something of an image: "sha256:…", Sign or the type of an attestation.
func (s *Signer) Bundle(digest, predicate string) []byte {
	return s.Statement(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"name": "", "digest": map[string]any{"sha256": strings.TrimPrefix(digest, "sha256:")}}},
		"predicateType": predicate, "predicate": map[string]any{},
	})
}

// Statement signs any.
func (s *Signer) Statement(statement any) []byte {
	payload, err := json.Marshal(statement)
	check(err)
	const kind = "application/vnd.in-toto+json"
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
	var sig []byte
	switch key := s.Key.(type) {
	case ed25519.PrivateKey:
		sig = ed25519.Sign(key, signed)
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(signed)
		sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
		if key.Curve == elliptic.P384() {
			sum := sha512.Sum384(signed)
			sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA384)
		}
	case *rsa.PrivateKey:
		sum := sha256.Sum256(signed)
		sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	check(err)
	material := map[string]any{"publicKey": map[string]any{"hint": "test"}}
	switch len(s.Chain) {
	case 0:
	case 1:
		material = map[string]any{"certificate": map[string]any{"rawBytes": s.Chain[0].Raw}}
	default:
		var list []any
		for _, c := range s.Chain {
			list = append(list, map[string]any{"rawBytes": c.Raw})
		}
		material = map[string]any{"x509CertificateChain": map[string]any{"certificates": list}}
	}
	b, err := json.Marshal(map[string]any{
		"mediaType": bundleType, "verificationMaterial": material,
		"dsseEnvelope": map[string]any{
			"payload": base64.StdEncoding.EncodeToString(payload), "payloadType": kind,
			"signatures": []any{map[string]any{"sig": base64.StdEncoding.EncodeToString(sig), "keyid": ""}},
		},
	})
	check(err)
	return b
}

// CA issues certificates for signing.
type CA struct {
	Cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes a root that is valid until then.
func NewCA(until time.Time) *CA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "signing root"}, NotBefore: until.Add(-1000 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	check(err)
	c, err := x509.ParseCertificate(der)
	check(err)
	return &CA{c, key}
}

// PEM is the root.
func (ca *CA) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}))
}

// Signer is one with a certificate for that identity, a URI or mail address; change
// may alter the certificate before it is issued.
func (ca *CA) Signer(identity string, until time.Time, change ...func(*x509.Certificate)) *Signer {
	return ca.SignerOf(NewSigner().Key, identity, until, change...)
}

// SignerOf is Signer for a key that is there.
func (ca *CA) SignerOf(key crypto.Signer, identity string, until time.Time, change ...func(*x509.Certificate)) *Signer {
	s := &Signer{Key: key}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: until.Add(-100 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if u, err := url.Parse(identity); err == nil && u.Scheme != "" {
		t.URIs = []*url.URL{u}
	} else {
		t.EmailAddresses = []string{identity}
	}
	for _, f := range change {
		f(t)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.Cert, s.Key.Public(), ca.key)
	check(err)
	c, err := x509.ParseCertificate(der)
	check(err)
	s.Chain = []*x509.Certificate{c}
	return s
}

// Indent has text stand in a YAML block.
func Indent(text string, by int) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+strings.Repeat(" ", by))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
