package keyd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"

	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// newCA makes a CA certificate and returns it with its key's scalar, which the
// caller wipes. Without a parent it signs itself.
func newCA(clusterID, kind string, now time.Time, life time.Duration, parent *x509.Certificate, parentKey []byte) (*x509.Certificate, []byte, error) {
	scalar, err := newScalar()
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		return nil, nil, err
	}
	defer wipeECDSA(key)
	serial := newSerial()
	t := &x509.Certificate{
		SerialNumber: serial,
		// Every CA has a subject of its own, so that chains of two roots of one
		// cluster are never mixed up.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Redoubt %s %s %s", kind, clusterID, hex.EncodeToString(serial.Bytes()[:4]))},
		NotBefore:             now.Add(-caBackdate).UTC().Truncate(time.Second),
		NotAfter:              now.Add(life).UTC().Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		// The CA of one cluster can not speak for another, even to a verifier
		// that checks no more than the chain.
		PermittedDNSDomainsCritical: true, // of all name constraints
		PermittedURIDomains:         []string{clusterID},
	}
	var der []byte
	if parent == nil {
		t.MaxPathLen = 2 // leaves room for cross-signing at rotation
		der, err = x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	} else {
		t.MaxPathLenZero = true
		if t.NotAfter.After(parent.NotAfter) {
			t.NotAfter = parent.NotAfter
		}
		signer := scalarSigner{parent.PublicKey.(*ecdsa.PublicKey), parentKey}
		der, err = x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	}
	if err != nil {
		clear(scalar)
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, scalar, err
}

// newScalar makes a P-256 key, which the caller wipes.
func newScalar() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	defer wipeECDSA(key)
	return key.Bytes()
}

// checkCA parses a CA certificate and returns an error unless scalar is its key
// and parent, or for a root itself, signed it.
func checkCA(der, scalar []byte, parent *x509.Certificate) (*x509.Certificate, error) {
	if len(der) > profile.MaxCert {
		return nil, fmt.Errorf("larger than %d bytes", profile.MaxCert)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("malformed certificate")
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		return nil, errors.New("malformed key")
	}
	defer wipeECDSA(key)
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the key is not the certificate's")
	}
	if parent == nil {
		parent = cert
	}
	if !cert.IsCA || cert.CheckSignatureFrom(parent) != nil {
		return nil, errors.New("the certificate is not signed as it should be")
	}
	return cert, nil
}

// issue signs one certificate of a node or a person and returns it with its issuers.
// What it returns was compared with what was asked for.
func (k *keyset) issue(ctx context.Context, id profile.Identity, public *ecdsa.PublicKey, now time.Time, life time.Duration) (*profilepb.CertificateChain, error) {
	t := templateOf(id, now, life)
	if t.NotAfter.After(k.issuing.NotAfter) {
		t.NotAfter = k.issuing.NotAfter
	}
	if !now.Before(t.NotAfter) {
		return nil, errors.New("the issuing CA has expired: rotate it")
	}
	t.SerialNumber, t.PublicKey = newSerial(), public
	want := *t
	cas, err := softcas.New(ctx, apiv1.Options{
		CertificateChain: []*x509.Certificate{k.issuing},
		Signer:           scalarSigner{k.issuing.PublicKey.(*ecdsa.PublicKey), k.issuingKey},
	})
	if err != nil {
		return nil, err
	}
	resp, err := cas.CreateCertificate(&apiv1.CreateCertificateRequest{Template: t, Lifetime: life})
	if err != nil {
		return nil, fmt.Errorf("signing the certificate: %w", err)
	}
	// Read back what will be sent, and trust nothing of what the library says.
	cert, err := x509.ParseCertificate(resp.Certificate.Raw)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate: %w", err)
	}
	if err := k.checkIssued(cert, &want, id, public, now); err != nil {
		return nil, fmt.Errorf("the certificate just signed is not as it should be: %w", err)
	}
	return &profilepb.CertificateChain{Certificates: [][]byte{cert.Raw, k.issuing.Raw, k.root.Raw}}, nil
}

func templateOf(id profile.Identity, now time.Time, life time.Duration) *x509.Certificate {
	if id.Person != "" {
		return profile.PersonTemplate(id.ClusterID, id.Person, now, life)
	}
	return profile.LeafTemplate(id, now, life)
}

func (k *keyset) checkIssued(cert, want *x509.Certificate, id profile.Identity, public *ecdsa.PublicKey, now time.Time) error {
	got, err := profile.FromCert(cert)
	if err != nil {
		return err
	}
	switch {
	case got.ClusterID != id.ClusterID || got.NodeID != id.NodeID || got.Person != id.Person:
		return errors.New("another identity")
	case got.Role != id.Role:
		return errors.New("another role")
	case string(got.KeydKey) != string(id.KeydKey):
		return errors.New("another keyd key")
	case !public.Equal(cert.PublicKey):
		return errors.New("another public key")
	case !cert.NotBefore.Equal(want.NotBefore) || !cert.NotAfter.Equal(want.NotAfter):
		return errors.New("another lifetime")
	case cert.SerialNumber.Cmp(want.SerialNumber) != 0:
		return errors.New("another serial number")
	}
	return k.verify(cert, now)
}

// verify returns an error unless this keyset's own CA issued cert, judged at
// the given time.
func (k *keyset) verify(cert *x509.Certificate, at time.Time) error {
	return k.verifyBy(cert, at, k.issuing)
}

// verifyOld is verify for a leaf that may be of before a rotation.
func (k *keyset) verifyOld(cert *x509.Certificate, at time.Time) error {
	return k.verifyBy(cert, at, append([]*x509.Certificate{k.issuing}, k.former...)...)
}

// verifyBy returns an error unless one of these CAs, which are below a root of
// this keyset, issued cert. A root itself signs no leaf: whoever has the key of a
// former one could.
func (k *keyset) verifyBy(cert *x509.Certificate, at time.Time, by ...*x509.Certificate) error {
	roots, issuers := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range append(k.roots(), k.formerRoots...) {
		roots.AddCert(c)
	}
	if k.external != nil {
		by = append(slices.Clip(by), k.external.issuer)
	}
	for _, c := range by {
		issuers.AddCert(profile.Understood(c))
	}
	id, err := profile.FromCert(cert)
	if err != nil {
		return err
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: issuers, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	for _, chain := range chains {
		if len(chain) == 3 && profile.MayStand(chain, id.Role) {
			return nil
		}
	}
	if err == nil {
		err = errors.New("not issued by an issuing CA")
	}
	return err
}

// newSerial returns 127 random bits with the highest set, so that serials have
// one length.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}
