package profile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// The object identifiers of this project, under the arc 2.25.1268417339.
var (
	OIDRole    = asn1.ObjectIdentifier{2, 25, 1268417339, 1}
	OIDKeydKey = asn1.ObjectIdentifier{2, 25, 1268417339, 2}
	OIDTPM     = asn1.ObjectIdentifier{2, 25, 1268417339, 3}
)

// Identity is what a node's or a person's certificate says.
type Identity struct {
	ClusterID string
	NodeID    string
	Role      profilepb.Role
	// Person is the name of a person, who has no node and no role.
	Person string
	// KeydKey is the HPKE public key of the node's keyd, or nil.
	KeydKey []byte
	// TPM is the name of the attestation key of the TPM that the node proved when it
	// joined, and proves again for each renewal; nil: it proved none.
	TPM []byte
	// SPKI is the SHA-256 of the SubjectPublicKeyInfo; LeafTemplate ignores it.
	SPKI []byte
}

// Subject names whom the identity is of, node or person, in one space of names.
func (id Identity) Subject() string {
	if id.Person != "" {
		return PersonSubject(id.Person)
	}
	return id.NodeID
}

// NodeURI returns spiffe://<cluster id>/node/<node id>.
func NodeURI(clusterID, nodeID string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: clusterID, Path: "/node/" + nodeID}
}

// SPKIHash returns the SHA-256 of the certificate's SubjectPublicKeyInfo.
func SPKIHash(c *x509.Certificate) []byte {
	h := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return h[:]
}

// NodeFromCert returns the identity in a node certificate, which must have the
// exact shape that CheckLeaf demands. The caller has verified the chain.
func NodeFromCert(c *x509.Certificate) (Identity, error) {
	if err := CheckLeaf(c); err != nil {
		return Identity{}, err
	}
	return identityOf(c)
}

func identityOf(c *x509.Certificate) (Identity, error) {
	if len(c.URIs) != 1 {
		return Identity{}, fmt.Errorf("node certificate names %d URIs: exactly one is allowed", len(c.URIs))
	}
	clusterID, nodeID, err := parseNodeURI(c.URIs[0])
	if err != nil {
		return Identity{}, err
	}
	id := Identity{ClusterID: clusterID, NodeID: nodeID, SPKI: SPKIHash(c)}
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(OIDRole):
			if id.Role, err = parseRole(e.Value); err != nil {
				return Identity{}, err
			}
		case e.Id.Equal(OIDKeydKey):
			if id.KeydKey, err = parseKeydKey(e.Value); err != nil {
				return Identity{}, err
			}
		case e.Id.Equal(OIDTPM):
			if id.TPM, err = parseTPM(e.Value); err != nil {
				return Identity{}, err
			}
		}
	}
	if id.Role == profilepb.Role_ROLE_UNSPECIFIED {
		return Identity{}, errors.New("node certificate has no role")
	}
	return id, nil
}

func parseNodeURI(u *url.URL) (clusterID, nodeID string, err error) {
	nodeID, ok := strings.CutPrefix(u.Path, "/node/")
	clusterID = u.Host
	// Comparing with the canonical form refuses every other spelling: user,
	// port, query, fragment, escapes, upper case.
	if !ok || !ident.Valid(clusterID) || !ident.Valid(nodeID) || u.String() != NodeURI(clusterID, nodeID).String() {
		return "", "", errors.New("node certificate: its URI is not spiffe://<cluster id>/node/<node id>")
	}
	return clusterID, nodeID, nil
}

var roleNames = map[profilepb.Role]string{
	profilepb.Role_ROLE_WORKER:  "worker",
	profilepb.Role_ROLE_MANAGER: "manager",
	profilepb.Role_ROLE_BOOT:    "boot",
}

// RoleName is the role as certificates and people spell it.
func RoleName(r profilepb.Role) string {
	if s, ok := roleNames[r]; ok {
		return s
	}
	return "unknown"
}

func parseRole(der []byte) (profilepb.Role, error) {
	for r, name := range roleNames {
		if want, err := asn1.MarshalWithParams(name, "utf8"); err == nil && bytes.Equal(want, der) {
			return r, nil
		}
	}
	return 0, errors.New("node certificate: unknown role")
}

func parseKeydKey(der []byte) ([]byte, error) {
	var key []byte
	rest, err := asn1.Unmarshal(der, &key)
	if err != nil || len(rest) != 0 {
		return nil, errors.New("keyd key extension is not one OCTET STRING")
	}
	return key, CheckKeydKey(key)
}

// TPMNameLen is the length of the name of a TPM's key: the number of SHA-256, two
// bytes, and the hash.
const TPMNameLen = 2 + sha256.Size

func parseTPM(der []byte) ([]byte, error) {
	var name []byte
	rest, err := asn1.Unmarshal(der, &name)
	if err != nil || len(rest) != 0 || len(name) != TPMNameLen || !bytes.HasPrefix(name, []byte{0x00, 0x0B}) {
		return nil, errors.New("node certificate: the TPM extension is not the name of a key by SHA-256")
	}
	return name, nil
}

// CheckKeydKey returns an error unless key is an HPKE public key of the one
// KEM in use, MLKEM768-X25519.
func CheckKeydKey(key []byte) error {
	if _, err := hpke.MLKEM768X25519().NewPublicKey(key); err != nil {
		return errors.New("keyd key is not an MLKEM768-X25519 public key")
	}
	return nil
}

func checkP256(pub any) error {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return errors.New("public key is not ECDSA P-256")
	}
	return nil
}
