// Package provisioner writes what a step-ca needs to sign for a cluster. It knows
// neither a secret nor a network.
package provisioner

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// template is the shape of a worker's leaf in step-ca's words. step-ca would have
// whoever signs orders say any name that its clients believe: they are held to one
// node of the cluster, whose id stands for CLUSTER. The role and the TPM are extensions
// of Redoubt (docs/formats.md); the value of the first is the UTF8String "worker".
const template = `{
  {{- if ne (len .SANs) 1 }}{{ fail "an order names one node" }}{{ end }}
  {{- with index .SANs 0 }}{{ if not (and (eq .Type "uri") (regexMatch "^spiffe://CLUSTER/node/[a-z2-7]{26}$" .Value)) }}{{ fail "an order names a node of its cluster" }}{{ end }}{{ end }}
  "sans": {{ toJson .SANs }},
  "keyUsage": ["digitalSignature"],
  "extKeyUsage": ["serverAuth", "clientAuth"],
  "basicConstraints": {"isCA": false, "maxPathLen": 0},
  "extensions": [
    {"id": "2.25.1268417339.1", "critical": false, "value": "DAZ3b3JrZXI="}
    {{- with .Token.tpm }}, {"id": "2.25.1268417339.3", "critical": false, "value": {{ toJson . }}}{{ end }}
  ]
}`

// JSON is what step-ca needs in authority.provisioners of its ca.json to sign nodes
// of the cluster whose orders that key signs (SubjectPublicKeyInfo), as JSON.
func JSON(name, clusterID string, orderKey []byte) ([]byte, error) {
	if !ident.Valid(clusterID) {
		return nil, errors.New("the managers do not say which cluster it is: run the command again when all of them have the version of this redoubt")
	}
	public, err := x509.ParsePKIXPublicKey(orderKey)
	key, ok := public.(*ecdsa.PublicKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the key of orders is malformed")
	}
	point, err := key.Bytes() // 4, x, y
	if err != nil {
		return nil, err
	}
	b64 := base64.RawURLEncoding
	type m = map[string]any
	return json.MarshalIndent(m{
		"type": "JWK", "name": name,
		"key": m{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": profile.BundleKeyID(orderKey),
			"x": b64.EncodeToString(point[1:33]), "y": b64.EncodeToString(point[33:])},
		// Only by its own extension does step-ca know a leaf of this provisioner, which it
		// renews for nobody: that is ordered. 90 days are the longest life.
		"claims": m{"disableRenewal": true, "allowRenewalAfterExpiry": false, "disableSmallstepExtensions": false, "enableSSHCA": false,
			"minTLSCertDuration": "5m", "maxTLSCertDuration": "2160h", "defaultTLSCertDuration": "24h"},
		"options": m{"x509": m{"template": strings.ReplaceAll(template, "CLUSTER", clusterID)}},
	}, "", "  ")
}
