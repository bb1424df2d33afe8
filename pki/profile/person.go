package profile

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Lives of a person's certificate.
const (
	PersonLife    = 12 * time.Hour
	MinPersonLife = 2 * time.Minute
	MaxPersonLife = 7 * 24 * time.Hour
)

// personRole is what a person's certificate has in the place of a node's role.
const personRole = "person"

const personPath = "/person/"

// PersonSubject is what Identity.Subject says of the person of that name. No node's
// id looks like it.
func PersonSubject(name string) string { return "person/" + name }

// CheckPersonName returns an error unless name can be a person's.
func CheckPersonName(name string) error { return ident.CheckOwnName("person", name) }

// PersonURI returns spiffe://<cluster id>/person/<name>.
func PersonURI(clusterID, name string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: clusterID, Path: personPath + name}
}

// CheckPersonLife returns an error unless a person's certificate may live so long.
func CheckPersonLife(life time.Duration) error {
	if life < MinPersonLife || life > MaxPersonLife {
		return fmt.Errorf("a person's certificate lives between %s and %s, not %s", MinPersonLife, MaxPersonLife, life)
	}
	return nil
}

// PersonTemplate returns the template of the only shape of a person's certificate.
// The serial number is left to the signer.
func PersonTemplate(clusterID, name string, now time.Time, life time.Duration) *x509.Certificate {
	now = now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{PersonURI(clusterID, name)},
		ExtraExtensions:       []pkix.Extension{{Id: OIDRole, Value: mustMarshal(personRole, "utf8")}},
	}
}

var personExtensions = []extRule{
	{oidKeyUsage, true, true},
	{oidExtKeyUsage, false, true},
	{oidBasicConstraints, true, true},
	{oidSubjectAltName, true, true},
	{oidSubjectKeyID, false, false},
	{oidAuthorityKeyID, false, false},
	{OIDRole, false, true},
}

// PersonFromCert returns the identity in a person's certificate, which must have
// exactly the shape that PersonTemplate makes. The caller has verified the chain.
func PersonFromCert(c *x509.Certificate) (Identity, error) {
	no := func(format string, a ...any) (Identity, error) {
		return Identity{}, fmt.Errorf("person's certificate: "+format, a...)
	}
	if len(c.Raw) > MaxCert {
		return no("it is larger than %d bytes", MaxCert)
	}
	if err := checkP256(c.PublicKey); err != nil {
		return no("%w", err)
	}
	if err := checkExtensions(c, personExtensions); err != nil {
		return no("%w", err)
	}
	switch {
	case c.Version != 3, c.SignatureAlgorithm != x509.ECDSAWithSHA256, string(c.RawSubject) != emptyName:
		return no("version, algorithm or subject are not as they should be")
	case len(c.URIs) != 1 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) != 0:
		return no("it must have one URI for a name, and no other name")
	case c.KeyUsage != x509.KeyUsageDigitalSignature, len(c.UnknownExtKeyUsage) != 0,
		len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth:
		return no("its key usages are not digitalSignature and clientAuth")
	case !c.BasicConstraintsValid || c.IsCA:
		return no("basic constraints must say CA:false")
	}
	if life := c.NotAfter.Sub(c.NotBefore); life <= Backdate || life > MaxPersonLife+Backdate {
		return no("a life of %s is out of bounds", life)
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(OIDRole) && string(e.Value) != string(mustMarshal(personRole, "utf8")) {
			return no("its role is not person")
		}
	}
	id := Identity{ClusterID: c.URIs[0].Host, SPKI: SPKIHash(c)}
	name, ok := strings.CutPrefix(c.URIs[0].Path, personPath)
	// As with nodes, comparing with the canonical form refuses every other spelling.
	if !ok || !ident.Valid(id.ClusterID) || CheckPersonName(name) != nil || c.URIs[0].String() != PersonURI(id.ClusterID, name).String() {
		return no("its URI is not spiffe://<cluster id>/person/<name>")
	}
	id.Person = name
	return id, nil
}

// FromCert returns the identity in a node's or a person's certificate, each in its
// own exact shape: what a person's has, no node's can have, and the other way round.
func FromCert(c *x509.Certificate) (Identity, error) {
	if len(c.URIs) == 1 && strings.HasPrefix(c.URIs[0].Path, personPath) {
		return PersonFromCert(c)
	}
	return NodeFromCert(c)
}

// ParsePersonChain is ParseChain for a person's chain.
func ParsePersonChain(chain *profilepb.CertificateChain) ([]*x509.Certificate, Identity, error) {
	certs, err := parseCerts(chain)
	if err != nil {
		return nil, Identity{}, err
	}
	id, err := PersonFromCert(certs[0])
	return certs, id, err
}
