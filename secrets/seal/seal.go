// Package seal has the envelopes of secrets: from who makes a secret to the
// cluster, and from there to the node that runs a task of it.
//
// The data of each version is sealed under a fresh key of its own, and that key
// to the recipient of the cluster's secrets master, whose private half only keyds
// derive. At delivery a keyd seals the key again, to the key pair of one rund, for
// one task of one service. The data itself stays as it was made.
//
// It composes HPKE and AES-GCM of the standard library and nothing else: no
// mathematics of its own, no clock, no file, no network. Who may have what is
// decided elsewhere; what is bound into an envelope is written in docs/formats.md.
// Keys that it returns are the caller's to wipe.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// Kinds of secrets, as they are bound into envelopes.
const (
	KindFile     = "file"
	KindRegistry = "registry"
)

// Labels that no two envelopes share.
const (
	dataLabel = "redoubt secret data v1\x00"
	keyLabel  = "redoubt secret key v1\x00"
	nodeLabel = "redoubt secret to node v1\x00"
)

// Subject is the version of a secret that an envelope is of.
type Subject struct {
	ClusterID, SecretID, VersionID string
	Kind                           string
}

// Check returns an error unless the subject names one version.
func (s Subject) Check() error {
	switch {
	case !ident.Valid(s.ClusterID) || !ident.Valid(s.SecretID) || !ident.Valid(s.VersionID):
		return errors.New("the secret's ids are malformed")
	case s.Kind != KindFile && s.Kind != KindRegistry:
		return errors.New("the secret is of no kind that this version knows")
	}
	return nil
}

func (s Subject) append(label string) []byte {
	b := []byte(label)
	for _, p := range []string{s.ClusterID, s.SecretID, s.VersionID, s.Kind} {
		b = lp.Append(b, []byte(p))
	}
	return b
}

func (s Subject) keyInfo(epoch uint64) []byte {
	return binary.BigEndian.AppendUint64(s.append(keyLabel), epoch)
}

// Seal seals the data of a version under a fresh key, and that to the recipient
// of the secrets master of that epoch.
func Seal(recipient []byte, epoch uint64, s Subject, plain []byte) (data, sealedKey []byte, err error) {
	switch n := len(plain); {
	case n == 0:
		return nil, nil, errors.New("the secret is empty: give it data")
	case n > MaxSecret:
		return nil, nil, fmt.Errorf("the secret is %d bytes long: at most %d are allowed", n, MaxSecret)
	}
	key := make([]byte, keyLen)
	defer clear(key)
	rand.Read(key)
	if sealedKey, err = WrapKey(recipient, epoch, s, key); err != nil {
		return nil, nil, err
	}
	aead, err := dataAEAD(key)
	if err != nil {
		return nil, nil, err
	}
	return aead.Seal(nil, nil, plain, s.append(dataLabel)), sealedKey, nil
}

// WrapKey seals a version's key to the recipient of the secrets master of that
// epoch.
func WrapKey(recipient []byte, epoch uint64, s Subject, key []byte) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if epoch == 0 {
		return nil, errors.New("the epoch of the secrets master is 0")
	}
	return wrap(recipient, s.keyInfo(epoch), key)
}

// OpenData opens the data of a version with its key. The caller wipes it.
func OpenData(key []byte, s Subject, data []byte) ([]byte, error) {
	if err := CheckData(data); err != nil {
		return nil, err
	}
	aead, err := dataAEAD(key)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, data, s.append(dataLabel))
	if err != nil {
		return nil, errors.New("the secret's data does not open: it is damaged, or another version's")
	}
	return plain, nil
}

// CheckData returns an error unless data may be the sealed data of a version.
func CheckData(data []byte) error {
	if n := len(data) - DataOverhead; n < 1 || n > MaxSecret {
		return fmt.Errorf("the sealed data has %d bytes: %d to %d are allowed", len(data), DataOverhead+1, DataOverhead+MaxSecret)
	}
	return nil
}

// CheckKey returns an error unless sealed may be a sealed key.
func CheckKey(sealed []byte) error {
	if len(sealed) != SealedKeyLen {
		return fmt.Errorf("the sealed key has %d bytes, not %d", len(sealed), SealedKeyLen)
	}
	return nil
}

// dataAEAD is AES-256-GCM with random nonces, of which each key sees one.
func dataAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != keyLen {
		return nil, errors.New("the key of a secret has a wrong length")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func wrap(recipient, info, key []byte) ([]byte, error) {
	if len(key) != keyLen {
		return nil, errors.New("the key of a secret has a wrong length")
	}
	public, err := hpke.MLKEM768X25519().NewPublicKey(recipient)
	if err != nil {
		return nil, errors.New("the recipient is not an MLKEM768-X25519 public key")
	}
	return hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info, key)
}

func unwrap(private hpke.PrivateKey, info, sealed []byte) ([]byte, error) {
	if err := CheckKey(sealed); err != nil {
		return nil, err
	}
	key, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed)
	if err != nil || len(key) != keyLen {
		clear(key)
		return nil, errWrongKey
	}
	return key, nil
}

var errWrongKey = errors.New("the secret's key does not open: it is damaged, or sealed to another key or for another use")
