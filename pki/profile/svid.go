package profile

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Lives of what identifies a workload.
const (
	// SVIDLife is the life of a workload's certificate unless its service asks for
	// another, up to MaxSVIDLife. A node may ask for less, down to MinSVIDLife.
	SVIDLife    = time.Hour
	MaxSVIDLife = 24 * time.Hour
	MinSVIDLife = 5 * time.Second

	// MaxTokenLife is the longest life of a workload's token: what it is shown to can
	// show it to others.
	MaxTokenLife = time.Hour

	// svidBackdate is short, as a life may be: nodes more than 30 s off are warned of.
	svidBackdate = time.Minute
)

// SVIDTemplate returns the template of a workload's certificate, an X.509-SVID.
// The serial number is left to the signer.
func SVIDTemplate(id *url.URL, now time.Time, life time.Duration) *x509.Certificate {
	now = now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		NotBefore:             now.Add(-svidBackdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id},
	}
}

var svidExtensions = []extRule{
	{oidKeyUsage, true, true},
	{oidExtKeyUsage, false, true},
	{oidBasicConstraints, true, true},
	{oidSubjectAltName, true, true},
	{oidSubjectKeyID, false, false},
	{oidAuthorityKeyID, false, true},
}

// CheckSVID returns the identity in a workload's certificate, which must have
// exactly the shape that SVIDTemplate makes. It checks neither the signature nor
// whether it is valid now.
func CheckSVID(c *x509.Certificate) (id string, err error) {
	if len(c.Raw) > MaxCert {
		return "", fmt.Errorf("workload certificate is larger than %d bytes", MaxCert)
	}
	if err := checkP256(c.PublicKey); err != nil {
		return "", fmt.Errorf("workload certificate: %w", err)
	}
	if err := checkExtensions(c, svidExtensions); err != nil {
		return "", fmt.Errorf("workload certificate: %w", err)
	}
	switch {
	case c.Version != 3, c.SignatureAlgorithm != x509.ECDSAWithSHA256, string(c.RawSubject) != emptyName:
		return "", errors.New("workload certificate: version, algorithm or subject are not as they should be")
	case len(c.URIs) != 1 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) != 0:
		return "", errors.New("workload certificate: it must have one URI for a name, and no other name")
	case c.KeyUsage != x509.KeyUsageDigitalSignature, len(c.UnknownExtKeyUsage) != 0 || len(c.ExtKeyUsage) != 2 ||
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return "", errors.New("workload certificate: its key usages are not digitalSignature, serverAuth and clientAuth")
	case !c.BasicConstraintsValid || c.IsCA:
		return "", errors.New("workload certificate: basic constraints must say CA:false")
	}
	if life := c.NotAfter.Sub(c.NotBefore); life <= svidBackdate || life > MaxSVIDLife+svidBackdate {
		return "", fmt.Errorf("workload certificate: a life of %s is out of bounds", life)
	}
	id = c.URIs[0].String()
	_, _, _, err = ParseServiceURI(id)
	return id, err
}
