package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
)

// minPassphrase is the least length of a passphrase, in bytes: whoever has the file can
// try them as fast as scrypt lets them.
const minPassphrase = 12

// contextKey opens a context: by the identity file that its first line names, or by its
// passphrase.
func (a *app) contextKey(h contexts.Header) (contexts.Key, error) {
	return a.openKey("context "+h.Name, h.Identity)
}

// openKey opens what is encrypted to the identity in that file, or, without one, to a
// passphrase.
func (a *app) openKey(what, identity string) (contexts.Key, error) {
	if identity != "" {
		return a.identityKey(identity)
	}
	text, err := a.passphrase("passphrase of "+what, false)
	if err != nil {
		return contexts.Key{}, err
	}
	return contexts.Passphrase(text)
}

// newContextKey is what a new context is sealed to.
func (a *app) newContextKey(identity string) (contexts.Key, error) {
	if identity != "" {
		path, err := filepath.Abs(identity)
		if err != nil {
			return contexts.Key{}, err
		}
		return a.identityKey(path)
	}
	text, err := a.passphrase("new passphrase", true)
	if err != nil {
		return contexts.Key{}, err
	}
	if len(text) < minPassphrase {
		return contexts.Key{}, usagef("the passphrase is too short: at least %d characters, better six words that have nothing to do with each other", minPassphrase)
	}
	return contexts.Passphrase(text)
}

func (a *app) identityKey(path string) (contexts.Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return contexts.Key{}, fmt.Errorf("cannot read the age identity: %w", err)
	}
	defer f.Close()
	a.warnReadable(f)
	return contexts.Identity(path, f)
}

// passphrase reads one from the file that REDOUBT_PASSPHRASE_FILE names, or asks on the
// terminal, whatever standard input is; twice for a new one.
func (a *app) passphrase(prompt string, twice bool) (string, error) {
	if file := a.Getenv("REDOUBT_PASSPHRASE_FILE"); file != "" {
		return a.readSecret(file, "passphrase")
	}
	tty, err := a.Terminal()
	if err != nil {
		return "", errors.New("there is no terminal to ask for the passphrase: name a file that has it in REDOUBT_PASSPHRASE_FILE, or make the context with --age-identity")
	}
	defer tty.Close()
	ask := func(prompt string) (string, error) {
		fmt.Fprintf(tty, "%s: ", prompt)
		b, err := term.ReadPassword(int(tty.Fd()))
		fmt.Fprintln(tty)
		defer clear(b)
		return string(b), err
	}
	first, err := ask(prompt)
	if err != nil || !twice {
		return first, err
	}
	again, err := ask("the same again")
	if err != nil {
		return "", err
	}
	if again != first {
		return "", errors.New("the two are not the same: nothing was done")
	}
	return first, nil
}
