package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Say signs a message with the node's present key, for others than the one it is
// told to: whoever passes it on need not be believed. The message begins with a
// label that says what it is, as the key signs other things, too. chain is leaf
// first and ends below the root.
func (c *Credentials) Say(message []byte) (chain [][]byte, signature []byte, err error) {
	s := c.state.Load()
	sum := sha256.Sum256(message)
	signature, err = s.cert.PrivateKey.(crypto.Signer).Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, nil, fmt.Errorf("sign with the node's key: %w", err)
	}
	chain = s.cert.Certificate
	return chain[:len(chain)-1], signature, nil
}

// SaidBy returns the id of the node that said a message: a member whose certificate
// is good now.
func (c *Credentials) SaidBy(message []byte, chain [][]byte, signature []byte) (nodeID string, err error) {
	certs, err := profile.ParseChain(&profilepb.CertificateChain{Certificates: chain})
	if err != nil {
		return "", fmt.Errorf("%w (%w)", ErrUntrusted, err)
	}
	p, err := c.Trust().Verify(certs, Expect{Roles: members})
	if err != nil {
		return "", err
	}
	key, ok := p.Leaf.PublicKey.(*ecdsa.PublicKey)
	if sum := sha256.Sum256(message); !ok || !ecdsa.VerifyASN1(key, sum[:], signature) {
		return "", fmt.Errorf("node %s: %w", p.NodeID, ErrSignature)
	}
	return p.NodeID, nil
}
