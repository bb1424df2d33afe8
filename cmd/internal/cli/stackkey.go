package cli

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// stackKeyPrefix begins the file with the key of fingerprints.
const stackKeyPrefix = "RDTF1."

// stackKey is this user's key of fingerprints, made where there is none.
func (a *app) stackKey() (k stack.FingerprintKey, err error) {
	s, err := a.contexts()
	if err != nil {
		return k, err
	}
	path := filepath.Join(filepath.Dir(s.Dir), "stack.key")
	raw, err := atomicfile.ReadBounded(path, maxStackKey)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeStackKey(path); err == nil {
			raw, err = atomicfile.ReadBounded(path, maxStackKey)
		}
	}
	if err != nil {
		return k, fmt.Errorf("the key by which secrets of stacks are known again: %w", err)
	}
	text, ok := strings.CutPrefix(strings.TrimSuffix(string(raw), "\n"), stackKeyPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != len(k) {
		return k, fmt.Errorf("%s, by which secrets of stacks are known again, is damaged: remove it; with the next deployment each gets a new version", path)
	}
	copy(k[:], b)
	clear(b)
	clear(raw)
	return k, nil
}

// makeStackKey writes a fresh key, unless another command is faster.
func makeStackKey(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	k := stack.NewFingerprintKey()
	whole := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := atomicfile.Write(whole, []byte(stackKeyPrefix+base64.RawURLEncoding.EncodeToString(k[:])+"\n")); err != nil {
		return err
	}
	err := os.Link(whole, path)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return errors.Join(err, atomicfile.Remove(whole))
}
