package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// ageRecipients reads them, each once: two shares with one officer are one officer
// too few.
func ageRecipients(texts []string) (out []age.Recipient, _ error) {
	seen := map[string]bool{}
	for _, text := range texts {
		text = strings.TrimSpace(text)
		var r age.Recipient
		var err error
		switch {
		case seen[text]:
			return nil, usagef("age recipient %s is given twice: each share is for another person", printable(text))
		case strings.HasPrefix(text, "age1pq1"):
			r, err = age.ParseHybridRecipient(text)
		default:
			r, err = age.ParseX25519Recipient(text)
		}
		if err != nil {
			return nil, usagef("--age %s: this is no age recipient (age1…)", printable(text))
		}
		seen[text] = true
		out = append(out, r)
	}
	return out, nil
}

// writeShares writes each share, sealed to its officer, to a file of its own.
func (a *app) writeShares(f *slotFlags, shares []autolock.Share, recipients []age.Recipient) error {
	if err := os.MkdirAll(f.out, 0o700); err != nil {
		return err
	}
	var paths []string
	for i := range shares {
		path := filepath.Join(f.out, fmt.Sprintf("%s-share-%d.age", f.name, i+1))
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there already: nothing was done; give another --out", path)
		}
		paths = append(paths, path)
	}
	for i := range shares {
		sealed, err := sealShare(&shares[i], recipients[i])
		if err == nil {
			err = atomicfile.Write(paths[i], sealed)
		}
		if err != nil {
			for _, p := range paths[:i] {
				os.Remove(p)
			}
			return fmt.Errorf("share %d could not be written, so nothing was done: %w", i+1, err)
		}
		fmt.Fprintf(a.Stdout, "Share %d of %d is in %s, for %s.\n", i+1, len(shares), paths[i], strings.TrimSpace(f.age[i]))
	}
	return nil
}

func sealShare(share *autolock.Share, to age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, to)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(w, share.String()); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), text.Close()); err != nil { // it is whole after that
		return nil, err
	}
	return out.Bytes(), nil
}
