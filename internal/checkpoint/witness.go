package checkpoint

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

var errWitnessKey = errors.New("that is no key of a witness: one is NAME+HASH+KEY, by which cosignatures of the kind cosignature/v1 (Ed25519) are verified")

// CheckWitnessKey returns the name of a written key with which a witness outside of
// the cluster cosigns, or an error where it is none. No such name can be taken for one
// of a cluster's own.
func CheckWitnessKey(s string) (name string, err error) {
	k, err := parseKey(s)
	if err != nil || k.alg != algManager || len(k.name) > MaxWitnessName || strings.HasPrefix(k.name, originPrefix) ||
		strings.ContainsFunc(k.name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errWitnessKey
	}
	return k.name, nil
}

// Cosigner is a witness outside of the cluster that cosigned, when by its clock, and
// the line of the note that says so.
type Cosigner struct {
	Signer
	Line string
}

// Witnesses reads who of the witnesses with those keys cosigned a note's checkpoint, in
// the order of the note. A line that is said to be by one of them and is not is an
// error; those of others are passed by.
func Witnesses(msg []byte, keys []string) ([]Cosigner, error) {
	if len(msg) > MaxNote || len(keys) > MaxKeys {
		return nil, errText
	}
	var verifiers []note.Verifier
	var seen []string
	for _, s := range keys {
		if _, err := CheckWitnessKey(s); err != nil {
			return nil, err
		}
		if slices.Contains(seen, s) {
			continue
		}
		seen = append(seen, s)
		k, err := parseKey(s)
		if err != nil {
			return nil, err
		}
		verifiers = append(verifiers, k)
	}
	n, err := note.Open(msg, note.VerifierList(verifiers...))
	if unsigned := new(note.UnverifiedNoteError); errors.As(err, &unsigned) {
		_, err := Parse([]byte(unsigned.Note.Text))
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	if _, err := Parse([]byte(n.Text)); err != nil {
		return nil, err
	}
	var out []Cosigner
	for _, s := range n.Sigs {
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || len(raw) < 4+timeBytes || base64.StdEncoding.EncodeToString(raw) != s.Base64 {
			return nil, errText // a note leaves open how the last bits are written
		}
		at := signedAt(raw[4:])
		if at < 0 || at == math.MaxInt64 {
			return nil, errors.New("a cosignature is of no time that there is")
		}
		out = append(out, Cosigner{Signer{s.Name, time.Unix(at, 0).UTC()}, "— " + s.Name + " " + s.Base64 + "\n"})
	}
	return out, nil
}

// ErrNotCosigned says that a line is none of a witness.
var ErrNotCosigned = errors.New("there is no cosignature by the witness's key")

// Cosigned finds, among the lines that a witness answered, the cosignature of c by that
// key. Lines of other keys are passed by.
func Cosigned(c Checkpoint, lines, key string) (Cosigner, error) {
	// Whatever stands in lines, a text that begins as that of c and is that of a
	// checkpoint is that of c.
	by, err := Witnesses(Note(c, lines), []string{key})
	switch {
	case err != nil:
		return Cosigner{}, fmt.Errorf("%w: %w", ErrNotCosigned, err)
	case len(by) != 1:
		return Cosigner{}, ErrNotCosigned
	}
	return by[0], nil
}

// TextOf is a note without its signatures; nil where it is none.
func TextOf(msg []byte) []byte {
	i := strings.LastIndex(string(msg), "\n\n")
	if i < 0 {
		return nil
	}
	return msg[:i+1]
}
