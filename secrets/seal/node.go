package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/sha256"
	"errors"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

const (
	statementMagic = "RDTN\x01"
	statementLabel = "redoubt rund key v1\x00"
)

// Grant is for whom a key is sealed to a rund: one task of one service.
type Grant struct{ ServiceID, TaskID string }

func (g Grant) check() error {
	if !ident.Valid(g.ServiceID) || !ident.Valid(g.TaskID) {
		return errors.New("the ids of the service or the task are malformed")
	}
	return nil
}

// Statement says which key the rund of a node has now. The node's leaf signs it.
type Statement struct {
	ClusterID, NodeID string
	// Key is an HPKE public key, KEM MLKEM768-X25519.
	Key []byte
}

// ParseStatement reads a statement, of which there is one spelling.
func ParseStatement(b []byte) (Statement, error) {
	malformed := errors.New("the statement of the node's rund is malformed")
	rest, ok := bytes.CutPrefix(b, []byte(statementMagic))
	if !ok || len(b) > MaxStatement {
		return Statement{}, malformed
	}
	var parts [3][]byte
	for i := range parts {
		if parts[i], rest, ok = lp.Take(rest); !ok {
			return Statement{}, malformed
		}
	}
	s := Statement{string(parts[0]), string(parts[1]), parts[2]}
	if len(rest) != 0 || !ident.Valid(s.ClusterID) || !ident.Valid(s.NodeID) {
		return Statement{}, malformed
	}
	if _, err := hpke.MLKEM768X25519().NewPublicKey(s.Key); err != nil {
		return Statement{}, malformed
	}
	return s, nil
}

// Bytes is the statement as it is signed.
func (s Statement) Bytes() []byte {
	b := lp.Append([]byte(statementMagic), []byte(s.ClusterID))
	return lp.Append(lp.Append(b, []byte(s.NodeID)), s.Key)
}

// StatementMessage is what the node's leaf signs to vouch for a statement.
func StatementMessage(statement []byte) []byte {
	return lp.Append([]byte(statementLabel), statement)
}

// StatementDigest is its hash, over which the signature is ECDSA's.
func StatementDigest(statement []byte) [sha256.Size]byte {
	return sha256.Sum256(StatementMessage(statement))
}

// CheckStatement verifies the signature over a statement with the leaf's public
// key.
func CheckStatement(leaf crypto.PublicKey, statement, signature []byte) error {
	digest := StatementDigest(statement)
	if key, ok := leaf.(*ecdsa.PublicKey); !ok || !ecdsa.VerifyASN1(key, digest[:], signature) {
		return errors.New("the node's leaf did not sign the statement of its rund")
	}
	return nil
}

// ToNode seals the key of a version to the rund that made the statement, for one
// task.
func ToNode(to Statement, g Grant, s Subject, key []byte) ([]byte, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	if to.ClusterID != s.ClusterID {
		return nil, errors.New("the node is of another cluster than the secret")
	}
	return wrap(to.Key, nodeInfo(to.NodeID, g, s), key)
}

func nodeInfo(nodeID string, g Grant, s Subject) []byte {
	b := s.append(nodeLabel)
	for _, p := range []string{nodeID, g.ServiceID, g.TaskID} {
		b = lp.Append(b, []byte(p))
	}
	return b
}

// NodeKey is a rund's key pair, which no other process ever has. It is safe for
// concurrent use.
type NodeKey struct{ private hpke.PrivateKey }

// NewNodeKey makes a key pair that lives for as long as the process.
func NewNodeKey() (*NodeKey, error) {
	private, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, err
	}
	return &NodeKey{private}, nil
}

// Statement says that the rund of that node has this key.
func (k *NodeKey) Statement(clusterID, nodeID string) ([]byte, error) {
	if !ident.Valid(clusterID) || !ident.Valid(nodeID) {
		return nil, errors.New("the ids of the cluster or the node are malformed")
	}
	return Statement{clusterID, nodeID, k.private.PublicKey().Bytes()}.Bytes(), nil
}

// Open opens a version that was sealed to this key, as that node, for that task.
// The caller wipes what it returns.
func (k *NodeKey) Open(nodeID string, g Grant, s Subject, sealedKey, data []byte) ([]byte, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	key, err := unwrap(k.private, nodeInfo(nodeID, g, s), sealedKey)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return OpenData(key, s, data)
}
