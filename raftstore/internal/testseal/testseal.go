// Package testseal is a raftstore.Sealer for tests: real cryptography under a
// key that nobody keeps. It stands apart from raftstoretest so that the store's
// own tests can use it.
package testseal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
)

// Sealer is a real AES-256-GCM sealer under a random key that lives as long as
// the value.
type Sealer struct {
	key   []byte
	aeads sync.Map // label to cipher.AEAD
}

// New returns a sealer with a fresh key.
func New() *Sealer {
	s := &Sealer{key: make([]byte, 32)}
	rand.Read(s.key) // never fails: crypto/rand aborts the process instead
	return s
}

// WithKey returns a sealer that another process can have, too.
func WithKey(key string) *Sealer {
	sum := sha256.Sum256([]byte(key))
	return &Sealer{key: sum[:]}
}

func (s *Sealer) derive(info string) ([]byte, error) {
	return hkdf.Key(sha256.New, s.key, nil, info, 32)
}

func (s *Sealer) aead(label string) (cipher.AEAD, error) {
	if a, ok := s.aeads.Load(label); ok {
		return a.(cipher.AEAD), nil
	}
	key, err := s.derive("seal " + label)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err == nil {
		s.aeads.Store(label, a)
	}
	return a, err
}

// Seal implements raftstore.Sealer.
func (s *Sealer) Seal(label string, aad, plaintext []byte) ([]byte, error) {
	a, err := s.aead(label)
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, nil, plaintext, aad), nil
}

// Open implements raftstore.Sealer.
func (s *Sealer) Open(label string, aad, sealed []byte) ([]byte, error) {
	a, err := s.aead(label)
	if err != nil {
		return nil, err
	}
	out, err := a.Open(nil, nil, sealed, aad)
	if err != nil {
		return nil, fmt.Errorf("testseal: %w", err)
	}
	return out, nil
}

// Name implements raftstore.Sealer.
func (s *Sealer) Name(key []byte) []byte {
	k, err := s.derive("names")
	if err != nil {
		panic(err) // HKDF-SHA256 gives 32 bytes always
	}
	m := hmac.New(sha256.New, k)
	m.Write(key)
	return m.Sum(nil)
}
