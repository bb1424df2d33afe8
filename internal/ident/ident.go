// Package ident makes and checks the identifiers of clusters, nodes, services,
// tasks and tokens: 128 random bits in lowercase base32 without padding, 26
// characters of a–z and 2–7. Such an id is a valid SPIFFE trust domain and
// path segment, DNS label and file name, so it needs no escaping anywhere.
//
// It owns the grammar of ids, and of names and labels that people choose; it
// knows nothing of what they identify.
package ident

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
)

// Len is the length of an id in characters.
const Len = 26

// MinPrefix is the shortest prefix of an id that people may use in its place.
const MinPrefix = 4

// MaxName bounds names that people choose (services, nodes): one label of DNS.
const MaxName = 63

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// New returns a fresh random id.
func New() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	return encoding.EncodeToString(b[:])
}

// Valid reports whether s is an id as New makes them, in canonical form.
func Valid(s string) bool {
	if len(s) != Len {
		return false
	}
	b, err := encoding.DecodeString(s)
	return err == nil && encoding.EncodeToString(b) == s
}

// Bytes are the 128 bits of an id; ok is false where it is none.
func Bytes(s string) (b [16]byte, ok bool) {
	if !Valid(s) {
		return b, false
	}
	_, err := encoding.Decode(b[:], []byte(s))
	return b, err == nil
}

// FromBytes is the id of these bits.
func FromBytes(b [16]byte) string { return encoding.EncodeToString(b[:]) }

// CheckName returns an error unless s can be the name of a service: one label of
// DNS of at most MaxName lowercase letters, digits, and inner hyphens and
// underscores. Services of a stack have an underscore in theirs, which host names
// may not have; DNS, resolvers and SPIFFE ids take it.
func CheckName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("the name is empty: use letters a-z, digits, hyphens and underscores")
	case len(s) > MaxName:
		return fmt.Errorf("the name is %d characters long: at most %d are allowed", len(s), MaxName)
	case strings.ContainsFunc(s, notLabel):
		return fmt.Errorf("name %q: only lowercase letters, digits, hyphens and underscores are allowed", s)
	case strings.ContainsRune("-_", rune(s[0])) || strings.ContainsRune("-_", rune(s[len(s)-1])):
		return fmt.Errorf("name %q: it must start and end with a letter or digit", s)
	}
	return nil
}

// CheckOwnName is CheckName for what has an id of its own, too: a name that reads
// as an id is refused, as another could then be reached in its place. what names
// it in errors.
func CheckOwnName(what, name string) error {
	if err := CheckName(name); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if Valid(name) {
		return fmt.Errorf("%s name %q has the form of an id: choose another", what, name)
	}
	return nil
}

// CheckHostname returns an error unless s can be the name of a node: at most
// 253 letters, digits, dots, hyphens and underscores, starting with a letter
// or digit.
func CheckHostname(s string) error {
	if s == "" || len(s) > 253 {
		return fmt.Errorf("node name must be 1 to 253 characters long, not %d", len(s))
	}
	for i, r := range s {
		alnum := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alnum && (i == 0 || r != '.' && r != '-' && r != '_') {
			return fmt.Errorf("node name %q: only letters, digits, dots, hyphens and underscores are allowed", s)
		}
	}
	return nil
}

func notLabel(r rune) bool {
	return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}
