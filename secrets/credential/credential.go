// Package credential is what a secret of the kind registry holds: for which registry
// of images it is, and the user and password to show it.
//
// It is written so that reading it copies nothing of the password: see docs/formats.md,
// "Secrets". Who holds one wipes it when the image is there; what a client of a registry
// makes of the password in the meantime is out of its reach.
package credential

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// MaxBytes bounds a credential as it is written.
const MaxBytes = 16 << 10

const magic = "RDTA\x01"

// former is how development builds began one, in JSON. It is not read: that would leave
// copies of the password that nobody overwrites.
const former = `{"registry":`

// Credential is what one registry is shown. It is safe for concurrent use.
type Credential struct {
	// HOST or HOST:PORT, as image names have it; docker.io for names without.
	Registry string
	Username string

	mu       sync.Mutex
	whole    []byte // guarded by mu; nil once it is wiped
	password []byte // of whole
}

// Encode writes one.
func Encode(registry, username string, password []byte) ([]byte, error) {
	n := len(magic) + 3*4 + len(registry) + len(username) + len(password)
	switch {
	case registry == "" || username == "" || len(password) == 0:
		return nil, errors.New("a credential has a registry, a user and a password: give all of them")
	case n > MaxBytes:
		return nil, fmt.Errorf("the credential has %d bytes: at most %d are allowed", n, MaxBytes)
	}
	b := append(make([]byte, 0, n), magic...)
	return lp.Append(lp.Append(lp.Append(b, []byte(registry)), []byte(username)), password), nil
}

// Parse reads one, which has b from then on, and wipes it in the end. No error quotes
// what it read.
func Parse(b []byte) (*Credential, error) {
	malformed := errors.New("the secret is no credential of a registry: make one with `redoubt secret create --registry HOST --username USER`")
	rest, ok := bytes.CutPrefix(b, []byte(magic))
	if bytes.HasPrefix(b, []byte(former)) {
		return nil, errors.New("the secret holds its credential as development builds wrote it, which is not read: give it anew with `redoubt secret update --registry HOST --username USER SECRET -`")
	}
	if !ok || len(b) > MaxBytes {
		return nil, malformed
	}
	var parts [3][]byte
	for i := range parts {
		if parts[i], rest, ok = lp.Take(rest); !ok || len(parts[i]) == 0 {
			return nil, malformed
		}
	}
	if len(rest) > 0 {
		return nil, malformed
	}
	return &Credential{Registry: string(parts[0]), Username: string(parts[1]), whole: b, password: parts[2]}, nil
}

// Login is what its registry is shown; false: it was wiped.
func (c *Credential) Login() (username, password string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Username, string(c.password), c.whole != nil
}

// Wipe overwrites the password. Nil has none.
func (c *Credential) Wipe() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.whole)
	c.whole, c.password = nil, nil
}
