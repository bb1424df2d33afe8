package stack

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

const versionLabel = "redoubt stack secret version v1\x00"

// FingerprintKey makes ids of versions of secrets. It never leaves the machine that
// it was made on; who has it, and sees the ids, can try what a secret might hold.
type FingerprintKey [32]byte

// NewFingerprintKey is a fresh one.
func NewFingerprintKey() (k FingerprintKey) {
	rand.Read(k[:]) // never fails: crypto/rand aborts the process instead
	return k
}

// Version is the id of the version of a secret that holds data: 128 bits of
// HMAC-SHA256 under the key. Of one secret the same data has the same id, of two
// secrets another one; without the key an id is as good as a random one.
func (k FingerprintKey) Version(secretID string, data []byte) string {
	h := hmac.New(sha256.New, k[:])
	h.Write(lp.Append(lp.Append([]byte(versionLabel), []byte(secretID)), data))
	return ident.FromBytes([16]byte(h.Sum(nil)[:16]))
}
