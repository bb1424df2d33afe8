package autolock

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// KeyPrefix opens the text of every operator key.
const KeyPrefix = "RDTKEY-"

const (
	checksumLabel = "redoubt operator key v1\x00"
	checksumLen   = 4
	keyGroup      = 8 // characters between hyphens
)

var (
	keyEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)
	keyChars    = keyEncoding.EncodedLen(KeyLen + checksumLen)
)

// Errors of ParseOperatorKey. None of them repeats any of what was typed.
var (
	ErrKeyPrefix   = errors.New("this is no operator key: it must start with " + KeyPrefix)
	ErrKeyChars    = errors.New("the operator key has a character other than the letters A-Z and digits 2-7: check the typing")
	ErrKeyChecksum = errors.New("the operator key is mistyped: its checksum does not match")
)

// KeyLengthError says that an operator key was cut short or has too much.
type KeyLengthError struct{ Got, Want int }

func (e *KeyLengthError) Error() string {
	return fmt.Sprintf("the operator key has %d characters after %s where %d are needed: check that it is complete", e.Got, KeyPrefix, e.Want)
}

// OperatorKey opens every manager of a cluster. The zero value is no key.
type OperatorKey struct {
	seed [KeyLen]byte
}

// NewOperatorKey makes a fresh key.
func NewOperatorKey() OperatorKey {
	var k OperatorKey
	rand.Read(k.seed[:]) // never fails: crypto/rand aborts the process instead
	return k
}

// String returns the text to show to the operator, once. It reveals the key, and
// with it %v and %s do; structured logs and %#v do not.
func (k OperatorKey) String() string {
	raw := append(k.seed[:], checksum(&k.seed)...)
	defer clear(raw)
	text := keyEncoding.EncodeToString(raw)
	groups := []string{strings.TrimSuffix(KeyPrefix, "-")}
	for len(text) > keyGroup {
		groups, text = append(groups, text[:keyGroup]), text[keyGroup:]
	}
	return strings.Join(append(groups, text), "-")
}

// LogValue keeps the key out of structured logs.
func (k OperatorKey) LogValue() slog.Value { return slog.StringValue("[operator key]") }

// GoString keeps the key out of %#v.
func (k OperatorKey) GoString() string { return "autolock.OperatorKey{}" }

// MarshalText refuses: an operator key is not to be stored.
func (k OperatorKey) MarshalText() ([]byte, error) {
	return nil, errors.New("an operator key cannot be marshalled")
}

// Seed returns a copy of the seed, for the unlock request. The caller wipes it.
func (k *OperatorKey) Seed() []byte { return append([]byte(nil), k.seed[:]...) }

// Wipe overwrites the key.
func (k *OperatorKey) Wipe() { clear(k.seed[:]) }

// Slot makes a new slot that this key opens.
func (k *OperatorKey) Slot() *keydpb.Slot {
	priv, err := slotKey(keydpb.SlotKind_SLOT_KIND_OPERATOR, k.seed[:])
	if err != nil {
		// Every 32-byte seed derives a key pair.
		panic("autolock: deriving a slot from an operator key: " + err.Error())
	}
	return &keydpb.Slot{
		Id:        ident.New(),
		Kind:      keydpb.SlotKind_SLOT_KIND_OPERATOR,
		Recipient: priv.PublicKey().Bytes(),
		CreatedAt: time.Now().Unix(),
	}
}

// ParseOperatorKey reads the text of a key. Case, spaces and hyphens do not
// matter.
func ParseOperatorKey(text string) (OperatorKey, error) {
	var k OperatorKey
	body, err := keyBody(text, KeyPrefix, keyChars)
	defer clear(body)
	if err != nil {
		return k, err
	}
	raw := make([]byte, KeyLen+checksumLen)
	defer clear(raw)
	// The last character carries spare bits, which must be zero: otherwise
	// several texts would be the same key.
	if _, err := keyEncoding.Decode(raw, body); err != nil {
		return k, ErrKeyChars
	}
	again := make([]byte, keyChars)
	defer clear(again)
	keyEncoding.Encode(again, raw)
	copy(k.seed[:], raw)
	if subtle.ConstantTimeCompare(checksum(&k.seed), raw[KeyLen:])&subtle.ConstantTimeCompare(again, body) != 1 {
		k.Wipe()
		return k, ErrKeyChecksum
	}
	return k, nil
}

// keyBody is the base32 of a key or share, in upper case and without layout: of
// exactly want characters, or an error of ParseOperatorKey's. The caller wipes it.
func keyBody(text, prefix string, want int) ([]byte, error) {
	if len(text) > maxKeyText {
		return nil, &KeyLengthError{Got: len(text) - len(prefix), Want: want}
	}
	text = strings.TrimSpace(text)
	if len(text) < len(prefix) || !strings.EqualFold(text[:len(prefix)], prefix) {
		return nil, ErrKeyPrefix
	}
	body := make([]byte, 0, maxKeyText)
	for _, c := range []byte(text[len(prefix):]) {
		switch {
		case c == ' ' || c == '-' || c == '\t':
		case 'a' <= c && c <= 'z':
			body = append(body, c-'a'+'A')
		case 'A' <= c && c <= 'Z' || '2' <= c && c <= '7':
			body = append(body, c)
		default:
			return body, ErrKeyChars
		}
	}
	if len(body) != want {
		return body, &KeyLengthError{Got: len(body), Want: want}
	}
	return body, nil
}

func checksum(seed *[KeyLen]byte) []byte {
	h := sha256.New()
	h.Write([]byte(checksumLabel))
	h.Write(seed[:])
	return h.Sum(nil)[:checksumLen]
}
