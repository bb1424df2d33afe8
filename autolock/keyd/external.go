package keyd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// external is a CA that is not the cluster's own and signs the leaves of workers.
// What it may do in this cluster is said by issuer, the root's certificate of its
// key: leaves of workers, names of this cluster, until it is replaced. The root of
// its own is trusted by nobody here but to see that it is the one that was set.
type external struct {
	url, provisioner string
	signer, root     *x509.Certificate // as the external CA shows itself
	issuer           *x509.Certificate // of signer's subject and key, by the cluster's root
}

func (e *external) encode() (out []byte) {
	for _, p := range [][]byte{[]byte(e.url), []byte(e.provisioner), e.signer.Raw, e.root.Raw, e.issuer.Raw} {
		out = lp.Append(out, p)
	}
	return out
}

// readExternal reads what encode wrote in a keyset whose root that is.
func readExternal(b []byte, root *x509.Certificate) (*external, error) {
	r := lpReader{rest: b}
	e := &external{url: string(r.part()), provisioner: string(r.part())}
	var err error
	for _, to := range []**x509.Certificate{&e.signer, &e.root, &e.issuer} {
		der := r.part()
		if r.err != nil {
			return nil, r.err
		}
		if *to, err = x509.ParseCertificate(der); err != nil || len(der) > profile.MaxCert {
			return nil, errors.New("malformed certificate")
		}
	}
	switch {
	case r.end() != nil:
		return nil, r.err
	case checkExternalNames(e.url, e.provisioner) != nil, e.signer.CheckSignatureFrom(e.root) != nil:
		return nil, errEncoding
	case !profile.IsExternal(e.issuer) || e.issuer.CheckSignatureFrom(root) != nil || !bytes.Equal(e.issuer.RawSubject, e.signer.RawSubject) ||
		!bytes.Equal(e.issuer.RawSubjectPublicKeyInfo, e.signer.RawSubjectPublicKeyInfo):
		return nil, errors.New("the certificate is not signed as it should be")
	}
	return e, nil
}

// checkExternalNames takes https://host[:port] and a name of letters that print.
func checkExternalNames(at, provisioner string) error {
	u, err := url.Parse(at)
	switch {
	case err != nil || len(at) > maxExternal || u.Scheme != "https" || u.Hostname() == "" || at != "https://"+u.Host:
		return invalid("the address of an external CA is https://host[:port], and no more")
	case provisioner == "" || len(provisioner) > maxExternal || strings.ContainsFunc(provisioner, func(r rune) bool { return !unicode.IsPrint(r) }):
		return invalid("the name of a provisioner is 1 to %d letters that can be printed", maxExternal)
	}
	return nil
}

// parseExternal checks what an operator sets: a CA whose leaves nodes can verify,
// below the root that comes with it, and no CA of this cluster.
func parseExternal(k *keyset, m *keydpb.External, now time.Time) (*external, error) {
	e := &external{url: m.GetUrl(), provisioner: m.GetProvisioner()}
	if err := checkExternalNames(e.url, e.provisioner); err != nil {
		return nil, err
	}
	if len(m.GetChain()) != 2 {
		return nil, invalid("an external CA is two certificates: the one that signs leaves, and its root")
	}
	for i, to := range []**x509.Certificate{&e.signer, &e.root} {
		cert, err := x509.ParseCertificate(m.GetChain()[i])
		if err != nil || len(m.GetChain()[i]) > profile.MaxCert {
			return nil, invalid("a certificate of the external CA is malformed, or larger than %d bytes", profile.MaxCert)
		}
		*to = cert
	}
	key, ok := e.signer.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !e.signer.IsCA || !e.root.IsCA || len(e.signer.SubjectKeyId) == 0:
		return nil, invalid("a certificate of the external CA is no CA's")
	case !ok || key.Curve != elliptic.P256():
		return nil, invalid("the external CA's key is not ECDSA P-256: nodes take no other signature")
	case e.root.CheckSignatureFrom(e.root) != nil || e.signer.CheckSignatureFrom(e.root) != nil || e.signer.Equal(e.root):
		return nil, invalid("the external CA's certificate is not signed by the root that came with it")
	case now.Before(e.signer.NotBefore) || now.After(e.signer.NotAfter) || now.After(e.root.NotAfter):
		return nil, invalid("a certificate of the external CA has expired, or is not valid yet")
	}
	own := append(k.roots(), k.issuing)
	if k.workload != nil {
		own = append(own, k.workload)
	}
	for _, c := range own {
		if bytes.Equal(c.RawSubjectPublicKeyInfo, e.signer.RawSubjectPublicKeyInfo) || bytes.Equal(c.RawSubject, e.signer.RawSubject) {
			return nil, denied("that is a CA of this cluster")
		}
	}
	return e, nil
}

// certifyExternal has the root that signs certify an external CA's key for workers'
// leaves of this cluster alone.
func certifyExternal(k *keyset, signer *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber:                newSerial(),
		RawSubject:                  signer.RawSubject,
		SubjectKeyId:                signer.SubjectKeyId,
		NotBefore:                   now.Add(-caBackdate).UTC().Truncate(time.Second),
		NotAfter:                    signer.NotAfter,
		KeyUsage:                    x509.KeyUsageCertSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true, // of all name constraints
		PermittedURIDomains:         []string{k.clusterID},
		ExtraExtensions:             []pkix.Extension{profile.ExternalMark()},
	}
	if t.NotAfter.After(k.root.NotAfter) {
		t.NotAfter = k.root.NotAfter
	}
	by := scalarSigner{k.root.PublicKey.(*ecdsa.PublicKey), k.rootKey}
	der, err := x509.CreateCertificate(rand.Reader, t, k.root, signer.PublicKey, by)
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if issuer.CheckSignatureFrom(k.root) != nil || !profile.IsExternal(issuer) || !bytes.Equal(issuer.RawSubjectPublicKeyInfo, signer.RawSubjectPublicKeyInfo) {
		return nil, errors.New("the certificate of the external CA just signed is not as it should be")
	}
	return issuer, nil
}
