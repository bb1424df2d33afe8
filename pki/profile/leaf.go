package profile

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// LeafTemplate returns the template of the only shape of leaf there is. The
// serial number is left to the signer. It panics on a role or keyd key that
// cannot be encoded, which is a caller's bug: both were checked when parsed.
func LeafTemplate(id Identity, now time.Time, lifetime time.Duration) *x509.Certificate {
	name, ok := roleNames[id.Role]
	if !ok {
		panic("profile: LeafTemplate without a role")
	}
	now = now.UTC().Truncate(time.Second)
	exts := []pkix.Extension{{Id: OIDRole, Value: mustMarshal(name, "utf8")}}
	if id.KeydKey != nil {
		exts = append(exts, pkix.Extension{Id: OIDKeydKey, Value: mustMarshal(id.KeydKey, "")})
	}
	if id.TPM != nil {
		exts = append(exts, pkix.Extension{Id: OIDTPM, Value: mustMarshal(id.TPM, "")})
	}
	return &x509.Certificate{
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{NodeURI(id.ClusterID, id.NodeID)},
		ExtraExtensions:       exts,
	}
}

// What a leaf may contain. Key identifiers help chain building and say
// nothing; everything else listed is required, and a keyd key and a TPM optional.
var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

type extRule struct {
	oid                asn1.ObjectIdentifier
	critical, required bool
}

var leafExtensions = []extRule{
	{oidKeyUsage, true, true},
	{oidExtKeyUsage, false, true},
	{oidBasicConstraints, true, true},
	{oidSubjectAltName, true, true}, // critical, as the subject is empty
	{oidSubjectKeyID, false, false},
	{oidAuthorityKeyID, false, false},
	{OIDRole, false, true},
	{OIDKeydKey, false, false},
	{OIDTPM, false, false},
	{OIDProvisioner, false, false}, // below an external CA alone: MayStand
}

// CheckLeaf returns an error unless c has exactly the shape that LeafTemplate
// makes. It checks neither the signature nor whether c is valid now.
func CheckLeaf(c *x509.Certificate) error {
	if len(c.Raw) > MaxCert {
		return fmt.Errorf("node certificate is larger than %d bytes", MaxCert)
	}
	if err := checkP256(c.PublicKey); err != nil {
		return fmt.Errorf("node certificate: %w", err)
	}
	if err := checkLeafExtensions(c); err != nil {
		return err
	}
	switch {
	case c.Version != 3:
		return errors.New("node certificate: not version 3")
	case c.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return errors.New("node certificate: not signed with ECDSA and SHA-256")
	case string(c.RawSubject) != emptyName:
		return errors.New("node certificate: the subject must be empty")
	case len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) != 0:
		return errors.New("node certificate: it has a name other than its URI")
	case c.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("node certificate: key usage must be digitalSignature alone")
	case len(c.UnknownExtKeyUsage) != 0 || len(c.ExtKeyUsage) != 2 ||
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) ||
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return errors.New("node certificate: extended key usage must be serverAuth and clientAuth")
	case !c.BasicConstraintsValid || c.IsCA:
		return errors.New("node certificate: basic constraints must say CA:false")
	}
	id, err := identityOf(c)
	if err != nil {
		return err
	}
	if id.Role == profilepb.Role_ROLE_BOOT && (id.KeydKey != nil || id.TPM != nil) {
		return errors.New("node certificate: a boot leaf carries no keyd key and names no TPM")
	}
	if life := c.NotAfter.Sub(c.NotBefore); life <= Backdate || life > MaxLife(id.Role)+Backdate {
		return fmt.Errorf("node certificate: a life of %s is out of bounds", life)
	}
	return nil
}

// MaxLife is the longest life a leaf of that role may have.
func MaxLife(r profilepb.Role) time.Duration {
	if r == profilepb.Role_ROLE_BOOT {
		return BootLeafLife
	}
	return MaxLeafLife
}

func checkLeafExtensions(c *x509.Certificate) error {
	if err := checkExtensions(c, leafExtensions); err != nil {
		return fmt.Errorf("node certificate: %w", err)
	}
	return nil
}

// checkExtensions returns an error unless c has the extensions of the rules, no
// other ones, and one URI for its only name.
func checkExtensions(c *x509.Certificate, rules []extRule) error {
	seen := make([]bool, len(rules))
	for _, e := range c.Extensions {
		i := slices.IndexFunc(rules, func(r extRule) bool { return r.oid.Equal(e.Id) })
		switch {
		case i < 0:
			return fmt.Errorf("extension %s is not allowed", e.Id)
		case seen[i]:
			return fmt.Errorf("extension %s appears twice", e.Id)
		case e.Critical != rules[i].critical:
			return fmt.Errorf("extension %s must have critical = %t", e.Id, rules[i].critical)
		}
		seen[i] = true
	}
	for i, r := range rules {
		if r.required && !seen[i] {
			return fmt.Errorf("extension %s is missing", r.oid)
		}
	}
	// The standard parser keeps only the kinds of names it knows; such a
	// certificate has exactly one name, so the encoding is compared whole.
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSubjectAltName) && (len(c.URIs) != 1 || string(e.Value) != string(encodeSAN(c.URIs[0]))) {
			return errors.New("the only name must be one URI")
		}
	}
	return nil
}

func encodeSAN(u *url.URL) []byte {
	return mustMarshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u.String())}}, "")
}

func mustMarshal(v any, params string) []byte {
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		panic("profile: " + err.Error())
	}
	return b
}

// emptyName is the DER of a distinguished name without attributes.
const emptyName = "\x30\x00"

// ParseChain decodes a chain and checks its bounds and its leaf's shape, which is a
// node's. It verifies no signature.
func ParseChain(chain *profilepb.CertificateChain) ([]*x509.Certificate, error) {
	certs, err := parseCerts(chain)
	if err != nil {
		return nil, err
	}
	return certs, CheckLeaf(certs[0])
}

func parseCerts(chain *profilepb.CertificateChain) ([]*x509.Certificate, error) {
	n := len(chain.GetCertificates())
	if n == 0 || n > MaxChain {
		return nil, fmt.Errorf("certificate chain has %d certificates: 1 to %d are allowed", n, MaxChain)
	}
	certs := make([]*x509.Certificate, n)
	for i, der := range chain.GetCertificates() {
		if len(der) > MaxCert {
			return nil, fmt.Errorf("certificate chain: certificate %d is larger than %d bytes", i, MaxCert)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate chain: certificate %d is malformed", i)
		}
		certs[i] = c
	}
	return certs, nil
}
