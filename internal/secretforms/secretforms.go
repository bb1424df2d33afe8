// Package secretforms is the one list of what a secret looks like where it is written
// for people: join tokens, invitations, operator keys, shares, identities of age, keys
// in PEM.
//
// It makes what is printed or reported fit for others' eyes, and finds such texts in
// files. It parses none of them and holds none: what a text is worth, the room that
// makes it knows.
package secretforms

import (
	"regexp"
	"strings"
)

// Form is one kind of secret.
type Form struct {
	Name   string // as "a join token"
	Prefix string // by which one begins, in capitals
	// written is what of it is met in no other file by chance. It is never longer than
	// MaxWritten bytes.
	written *regexp.Regexp
}

// MaxWritten bounds, in bytes, what Found goes by: pieces of a file that overlap by as
// much hide nothing between them.
const MaxWritten = 64

var all = []Form{
	{"a join token", "RDT1.", regexp.MustCompile(`RDT1\.[a-z2-7]{26}\.`)},
	{"an invitation", "RDTI1.", regexp.MustCompile(`RDTI1\.[a-z2-7]{26}\.`)},
	{"an operator key", "RDTKEY-", regexp.MustCompile(`RDTKEY-[A-Z2-7]{4}`)},
	{"a share", "RDTSHARE-", regexp.MustCompile(`RDTSHARE-[A-Z2-7]{4}`)},
	{"an identity of age", "AGE-SECRET-KEY-", regexp.MustCompile(`AGE-SECRET-KEY-[A-Z0-9]{4}`)},
	{"a private key in PEM", "PRIVATE KEY-----", regexp.MustCompile(`PRIVATE KEY-----`)},
}

// All are the forms that there are.
func All() []Form { return append([]Form(nil), all...) }

// Found names the forms that are met in b.
func Found(b []byte) (names []string) {
	for _, f := range all {
		if f.written.Match(b) {
			names = append(names, f.Name)
		}
	}
	return names
}

// What follows a prefix, in whatever case somebody typed it, is not shown: up to where
// a text would go on, and of PEM, which has spaces, all of it.
var (
	word = regexp.MustCompile(`(?i)(RDTI?1\.|RDTKEY-|RDTSHARE-|AGE-SECRET-KEY-)[^\s:;,"'()…]+`)
	pem  = regexp.MustCompile(`(?is)(PRIVATE KEY-----).+`)
)

// Redact is s without what follows a form's prefix.
func Redact(s string) string {
	if up := strings.ToUpper(s); !strings.Contains(up, "RDT") && !strings.Contains(up, "KEY-") {
		return s // nearly all are, and this is ten times as fast
	}
	return word.ReplaceAllString(pem.ReplaceAllString(s, "$1…"), "$1…")
}
