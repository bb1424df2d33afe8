// Package headed writes small files that say what they are: a magic, a format, the
// file's own name, then the content, then a digest of all of it.
//
// A file that was damaged is thus told from one that a newer version wrote, and
// from one that lies under another's name; no flipped byte is ever taken for a
// membership or a certificate. The digest has no key: who may write the file may
// write all of it. What must not be changed is sealed inside (autolock).
//
// docs/formats.md has the bytes. Files are written whole, mode 0600, through
// atomicfile.
package headed

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// Magic is how such a file begins; the byte after it is the format.
const Magic = "RDTN"

const format = 1

// Errors of a file; each is followed by what to do by whoever knows that.
var (
	// ErrNoHeader is a file that was not written by Write.
	ErrNoHeader = errors.New("it has no header")
	ErrDamaged  = errors.New("its digest does not match")
	ErrNewer    = errors.New("it was written by a newer version of Redoubt")
)

// Encode returns the file of that name.
func Encode(name string, body []byte) []byte {
	out := append([]byte(Magic), format)
	out = lp.Append(lp.Append(out, []byte(name)), body)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

// Decode returns the content of the file of that name, which lies in raw.
func Decode(name string, raw []byte) ([]byte, error) {
	if !bytes.HasPrefix(raw, []byte(Magic)) {
		return nil, ErrNoHeader
	}
	if len(raw) < len(Magic)+1+sha256.Size {
		return nil, ErrDamaged
	}
	covered := raw[:len(raw)-sha256.Size]
	if sum := sha256.Sum256(covered); !bytes.Equal(sum[:], raw[len(covered):]) {
		return nil, ErrDamaged
	}
	if covered[len(Magic)] != format {
		return nil, ErrNewer
	}
	is, rest, ok := lp.Take(covered[len(Magic)+1:])
	if !ok {
		return nil, ErrDamaged
	}
	if string(is) != name {
		return nil, fmt.Errorf("it is the file %.64q under another name", is)
	}
	body, rest, ok := lp.Take(rest)
	if !ok || len(rest) > 0 {
		return nil, ErrDamaged
	}
	return body, nil
}

// Write replaces the file at path with one of that name.
func Write(path, name string, body []byte) error {
	raw := Encode(name, body)
	defer clear(raw)
	return atomicfile.Write(path, raw)
}
