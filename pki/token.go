package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

const tokenPrefix = "RDT1"

// Why a text is no token. Each error names the remedy, and none quotes the
// text, which may hold a seed.
var (
	ErrTokenEmpty     = errors.New("the join token is empty: give the whole line that redoubt join-token printed")
	ErrTokenPrefix    = errors.New("this is not a join token: one begins with " + tokenPrefix)
	ErrTokenTruncated = errors.New("the join token is truncated: copy the whole line again")
	ErrTokenTail      = errors.New("the join token has more fields than this version knows: use the matching version of Redoubt")
	ErrTokenDamaged   = errors.New("the join token is damaged: copy it again")
)

// Token is what a joiner is given: the seed that makes it welcome and the pin
// by which it knows the cluster. It is a secret; formatting or logging one
// shows its id only, and Text alone gives it away.
type Token struct {
	id string
	// Behind a function, as fmt prints what is in an unexported field of another
	// struct without asking Format, and prints of a function only its address.
	seed      func() []byte
	pin       [sha256.Size]byte
	clusterID string // empty until Bind
	lock      []byte // empty: none
}

// NewToken makes the id and seed of a new token. The cluster is told ID and
// PublicKey; Bind completes it with what the cluster answers.
func NewToken() Token {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) // never fails: crypto/rand aborts the process instead
	return Token{id: ident.New(), seed: func() []byte { return seed }}
}

// Bind returns the token completed with the cluster's id and the SHA-256 of
// its root's SubjectPublicKeyInfo.
func (t Token) Bind(clusterID string, pin []byte) (Token, error) {
	if !ident.Valid(clusterID) || len(pin) != sha256.Size {
		return Token{}, errors.New("the cluster id or the pin is malformed")
	}
	t.clusterID = clusterID
	copy(t.pin[:], pin)
	return t, nil
}

// ParseToken reads a token's text, strictly: the canonical form and nothing
// else, save white space around it.
func ParseToken(text string) (Token, error) {
	if len(text) > maxTokenText {
		return Token{}, fmt.Errorf("the join token is longer than %d characters: give the token alone", maxTokenText)
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return Token{}, ErrTokenEmpty
	}
	f := strings.Split(text, ".")
	switch {
	case f[0] != tokenPrefix:
		return Token{}, ErrTokenPrefix
	case len(f) < 5:
		return Token{}, ErrTokenTruncated
	case len(f) > 6:
		return Token{}, ErrTokenTail
	}
	last := f[len(f)-1]
	var seed [ed25519.SeedSize]byte
	t := Token{id: f[1], seed: func() []byte { return seed[:] }, clusterID: last}
	if len(last) < ident.Len || len(f) == 5 && len(last) == tokenEncoding.EncodedLen(sha256.Size) {
		return Token{}, ErrTokenTruncated // what a cut line ends with, such as a whole link
	}
	if !ident.Valid(t.id) || !decode32(&seed, f[2]) || !decode32(&t.pin, f[3]) || !ident.Valid(t.clusterID) {
		return Token{}, ErrTokenDamaged
	}
	if len(f) == 6 {
		var head [sha256.Size]byte
		if !decode32(&head, f[4]) {
			return Token{}, ErrTokenDamaged
		}
		t.lock = head[:]
	}
	return t, nil
}

// WithLock returns the token with the digest of a link that the deployment lock's chain
// of whoever joins has to have. It is no manager's to say.
func (t Token) WithLock(digest []byte) (Token, error) {
	if len(digest) != sha256.Size {
		return Token{}, errors.New("the digest of the deployment lock's chain is malformed")
	}
	t.lock = digest
	return t, nil
}

// Lock is that digest; empty: there is no lock.
func (t Token) Lock() []byte { return t.lock }

// Text is the token as people carry it. Print it once, to whoever asked.
func (t Token) Text() string {
	if t.clusterID == "" {
		panic("pki: Text of a token that was not bound to a cluster")
	}
	f := []string{tokenPrefix, t.id, tokenEncoding.EncodeToString(t.seed()), tokenEncoding.EncodeToString(t.pin[:])}
	if len(t.lock) > 0 { // before what no token can be without: a cut line is none without a lock
		f = append(f, tokenEncoding.EncodeToString(t.lock))
	}
	return strings.Join(append(f, t.clusterID), ".")
}

// ID is the token's public name.
func (t Token) ID() string { return t.id }

// ClusterID is the cluster that the token admits to.
func (t Token) ClusterID() string { return t.clusterID }

// Pin is the SHA-256 of the root's SubjectPublicKeyInfo.
func (t Token) Pin() []byte { return t.pin[:] }

// PublicKey is what the cluster keeps of the seed.
func (t Token) PublicKey() ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(t.seed()).Public().(ed25519.PublicKey)
}

// Sign makes a join proof over input.
func (t Token) Sign(input []byte) []byte {
	return ed25519.Sign(ed25519.NewKeyFromSeed(t.seed()), input)
}

// String, GoString, Format and LogValue keep the seed out of output.
func (t Token) String() string { return "join token " + t.id }

// GoString implements fmt.GoStringer.
func (t Token) GoString() string { return t.String() }

// Format implements fmt.Formatter for every verb.
func (t Token) Format(s fmt.State, _ rune) { fmt.Fprint(s, t.String()) }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText refuses, so that no encoder writes a token by accident.
func (t Token) MarshalText() ([]byte, error) {
	return nil, errors.New("a join token is not to be encoded")
}

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// decode32 reads exactly the canonical encoding of 32 bytes.
func decode32(dst *[32]byte, s string) bool {
	b, err := tokenEncoding.DecodeString(s)
	if err != nil || len(b) != len(dst) || tokenEncoding.EncodeToString(b) != s {
		return false
	}
	copy(dst[:], b)
	return true
}
