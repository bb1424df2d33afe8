package profile

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// Labels open every signed byte string, so that a signature made for one
// purpose is worth nothing for another.
const (
	joinLabel    = "redoubt join v1\x00"
	renewLabel   = "redoubt renew v1\x00"
	promoteLabel = "redoubt promote v1\x00"
	tokenLabel   = "redoubt token v1\x00"
	sessionLabel = "redoubt lock session v1\x00"
)

// ExporterLabel and ExporterLen are the TLS exporter that binds a join to its
// connection; its context is the token id.
const (
	ExporterLabel = "EXPORTER-redoubt-join"
	ExporterLen   = 32
)

// JoinProofInput is what the token's key signs on a join.
func JoinProofInput(exporter, csr, bootCSR []byte, tokenID string) []byte {
	b := []byte(joinLabel)
	b = lp.Append(b, exporter)
	b = lp.Append(b, hash(csr))
	b = lp.Append(b, hash(bootCSR))
	return lp.Append(b, []byte(tokenID))
}

// RenewProofInput is what the leaf in use signs on a renewal.
func RenewProofInput(csr, bootCSR, oldLeaf []byte) []byte {
	b := []byte(renewLabel)
	b = lp.Append(b, hash(csr))
	b = lp.Append(b, hash(bootCSR))
	return lp.Append(b, hash(oldLeaf))
}

// PromotionProofInput is what a worker's leaf signs to become a manager.
func PromotionProofInput(csr, bootCSR, oldLeaf []byte) []byte {
	b := lp.Append([]byte(promoteLabel), hash(csr))
	b = lp.Append(b, hash(bootCSR))
	return lp.Append(b, hash(oldLeaf))
}

// SignPromotionProof makes a promotion proof with the key of oldLeaf (DER).
func SignPromotionProof(key crypto.Signer, csr, bootCSR, oldLeaf []byte) ([]byte, error) {
	digest := sha256.Sum256(PromotionProofInput(csr, bootCSR, oldLeaf))
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// CheckPromotionProof verifies a promotion proof with oldLeaf's public key.
func CheckPromotionProof(oldLeaf *x509.Certificate, csr, bootCSR, proof []byte) error {
	digest := sha256.Sum256(PromotionProofInput(csr, bootCSR, oldLeaf.Raw))
	key, ok := oldLeaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, digest[:], proof) {
		return errors.New("the promotion proof does not verify")
	}
	return nil
}

// SessionInput is what a locked manager's boot leaf signs about the key that its
// keyd made for the time it is locked.
func SessionInput(clusterID, nodeID string, sessionKey []byte) []byte {
	b := lp.Append([]byte(sessionLabel), []byte(clusterID))
	b = lp.Append(b, []byte(nodeID))
	return lp.Append(b, sessionKey)
}

// SignSession signs a session key with the boot leaf's key.
func SignSession(key crypto.Signer, clusterID, nodeID string, sessionKey []byte) ([]byte, error) {
	digest := sha256.Sum256(SessionInput(clusterID, nodeID, sessionKey))
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// CheckSession verifies what SignSession made.
func CheckSession(boot *x509.Certificate, id Identity, sessionKey, signature []byte) error {
	digest := sha256.Sum256(SessionInput(id.ClusterID, id.NodeID, sessionKey))
	key, ok := boot.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, digest[:], signature) {
		return errors.New("the signature of the session key does not verify")
	}
	return nil
}

// TokenSigningInput is what the keyset signs when a token is minted.
func TokenSigningInput(record []byte) []byte { return lp.Append([]byte(tokenLabel), record) }

// CheckJoinProof verifies a join proof with the token record's public key.
func CheckJoinProof(public, exporter, csr, bootCSR []byte, tokenID string, proof []byte) error {
	if len(public) != ed25519.PublicKeySize || len(exporter) != ExporterLen ||
		!ed25519.Verify(public, JoinProofInput(exporter, csr, bootCSR, tokenID), proof) {
		return errors.New("the join proof does not verify")
	}
	return nil
}

// SignRenewProof makes a renewal proof with the key of oldLeaf (DER).
func SignRenewProof(key crypto.Signer, csr, bootCSR, oldLeaf []byte) ([]byte, error) {
	digest := sha256.Sum256(RenewProofInput(csr, bootCSR, oldLeaf))
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// CheckRenewProof verifies a renewal proof with oldLeaf's public key.
func CheckRenewProof(oldLeaf *x509.Certificate, csr, bootCSR, proof []byte) error {
	digest := sha256.Sum256(RenewProofInput(csr, bootCSR, oldLeaf.Raw))
	key, ok := oldLeaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, digest[:], proof) {
		return errors.New("the renewal proof does not verify")
	}
	return nil
}

// hash of something absent is the empty string, so that it differs from the
// hash of something empty.
func hash(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	h := sha256.Sum256(b)
	return h[:]
}
