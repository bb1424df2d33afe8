package lock

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
)

const keyPrefix = "RDTD1."

// Labels before what is signed, so that neither stands for the other.
const (
	linkLabel      = "redoubt lock link v1\x00"
	statementLabel = "redoubt lock statement v1\x00"
)

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewSigner makes a deployer's key.
func NewSigner() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return key
}

// PublicKey is the public half of a deployer's key.
func PublicKey(p ed25519.PublicKey) *lockpb.Key {
	return &lockpb.Key{Algorithm: lockpb.Algorithm_ALGORITHM_ED25519, Public: p}
}

// FormatKey is a public key as people pass it on.
func FormatKey(k *lockpb.Key) string { return keyPrefix + encoding.EncodeToString(k.GetPublic()) }

// ParseKey reads what FormatKey wrote, and nothing else.
func ParseKey(text string) (*lockpb.Key, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), keyPrefix)
	if !ok {
		return nil, fmt.Errorf("this is no deployer's public key: one begins with %s", keyPrefix)
	}
	b, err := encoding.DecodeString(rest)
	if err != nil || len(b) != ed25519.PublicKeySize || encoding.EncodeToString(b) != rest {
		return nil, errors.New("the deployer's public key is damaged: copy it again")
	}
	return PublicKey(b), nil
}

func checkKey(k *lockpb.Key) error {
	switch {
	case k.GetAlgorithm() != lockpb.Algorithm_ALGORITHM_ED25519:
		return refuse(RuleChain, "a key is of algorithm %d, which this version does not know", int32(k.GetAlgorithm()))
	case len(k.GetPublic()) != ed25519.PublicKeySize:
		return refuse(RuleChain, "a key has %d bytes: Ed25519's have %d", len(k.GetPublic()), ed25519.PublicKeySize)
	}
	return nil
}

// name tells keys apart: only valid ones are ever compared.
func name(k *lockpb.Key) string { return string(k.GetPublic()) }

func toSign(label string, payload []byte) []byte { return lp.Append([]byte(label), payload) }

func sign(label string, payload []byte, key ed25519.PrivateKey) *lockpb.Signature {
	return &lockpb.Signature{Key: PublicKey(key.Public().(ed25519.PublicKey)), Signature: ed25519.Sign(key, toSign(label, payload))}
}

func verifies(label string, payload []byte, s *lockpb.Signature) bool {
	return checkKey(s.GetKey()) == nil && ed25519.Verify(s.GetKey().GetPublic(), toSign(label, payload), s.GetSignature())
}
