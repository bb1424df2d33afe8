package profile

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"

	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// OIDExternal marks the cluster's certificate of a CA that is not the cluster's
// own: below it stand leaves of workers and nothing else. It is critical, so that
// whoever does not know what it means, as every verifier of workloads' certificates,
// takes nothing below it.
var OIDExternal = asn1.ObjectIdentifier{2, 25, 1268417339, 4}

// ExternalMark is the extension that marks such a certificate.
func ExternalMark() pkix.Extension {
	return pkix.Extension{Id: OIDExternal, Critical: true, Value: []byte{asn1.TagNull, 0}}
}

// IsExternal reports whether a CA's certificate has the mark.
func IsExternal(ca *x509.Certificate) bool {
	return slices.ContainsFunc(ca.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(OIDExternal) })
}

// OIDProvisioner is step-ca's own extension, which says which of its provisioners a
// leaf is of. One without it step-ca renews for whoever has its key, whatever that
// provisioner allows: so no leaf below an external CA is without it, and none elsewhere
// has it.
var OIDProvisioner = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 1}

// MayStand reports whether a leaf of that role, with which the chain begins, may stand
// below the CAs above it.
func MayStand(chain []*x509.Certificate, role profilepb.Role) bool {
	external := slices.ContainsFunc(chain[1:], IsExternal)
	return external == NamesProvisioner(chain[0]) && (!external || role == profilepb.Role_ROLE_WORKER)
}

// NamesProvisioner reports whether a leaf has step-ca's own extension.
func NamesProvisioner(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(OIDProvisioner) })
}

// Understood is a CA's certificate for the standard verifier, which refuses what is
// critical and it does not know: the mark is taken off. Whoever verifies with it
// asks MayStand of the chains that are found.
func Understood(ca *x509.Certificate) *x509.Certificate {
	if !IsExternal(ca) {
		return ca
	}
	out := *ca // others read it at the same time
	out.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(ca.UnhandledCriticalExtensions), OIDExternal.Equal)
	return &out
}
