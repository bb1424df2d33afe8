package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

// away is a command that goes by a context, whose manager refuses connections.
type away struct {
	*app
	pass  string // the file with the passphrase
	asked int    // how often a terminal was
}

func newAway(t *testing.T, seal contexts.Key) *away {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pkitest.New(t).IssuePerson("alice", key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pki.NewPerson(chain, key, nil, []string{"127.0.0.1:9"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := &away{pass: filepath.Join(dir, "pass")}
	env := map[string]string{"XDG_CONFIG_HOME": dir, "REDOUBT_PASSPHRASE_FILE": w.pass}
	w.app = &app{context: "prod", Env: Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard,
		Getenv: func(k string) string { return env[k] },
		Terminal: func() (*os.File, error) {
			w.asked++
			return nil, errors.New("none")
		}}}
	s, err := w.contexts()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Prepare(t.Context(), "prod", false), s.Create(t.Context(), "prod", p, seal), os.WriteFile(w.pass, []byte(testPassphrase), 0o600)); err != nil {
		t.Fatal(err)
	}
	return w
}

const testPassphrase = "correct horse battery"

func passphraseKey(t *testing.T) contexts.Key {
	t.Helper()
	k, err := contexts.Passphrase(testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestContextOpenedOnce: what opens a context takes long, by scrypt here and by whoever
// types elsewhere. It is asked for once in a command, and takes no time from calls.
func TestContextOpenedOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("scrypt takes a second each time")
	}
	w := newAway(t, passphraseKey(t))
	called := func(context.Context, *api) error { return nil }
	begun := time.Now()
	err := w.within(t.Context(), 250*time.Millisecond, called)
	if took := time.Since(begun); took < 250*time.Millisecond {
		t.Skipf("the key took %v in all: it is not slow here", took)
	}
	if apierr.ReasonOf(err) != apierr.ReasonUnreachable {
		t.Errorf("a key that takes longer than the call may: %v", err)
	}
	if err := os.Remove(w.pass); err != nil {
		t.Fatal(err)
	}
	if err := w.with(t.Context(), called); apierr.ReasonOf(err) != apierr.ReasonUnreachable {
		t.Errorf("the second call asks again: %v", err)
	}
	if _, err := w.waivers(t.Context()); apierr.ReasonOf(err) != apierr.ReasonUnreachable {
		t.Errorf("waivers: %v", err)
	}
}

// TestCompletionAsksNobody: a shell that completes a name does not have a passphrase
// typed for it.
func TestCompletionAsksNobody(t *testing.T) {
	w := newAway(t, passphraseKey(t))
	getenv := w.Getenv
	w.Getenv = func(k string) string {
		if k == "REDOUBT_PASSPHRASE_FILE" {
			return ""
		}
		return getenv(k)
	}
	root := w.root()
	w.context = "prod" // which its flag took away
	c, _, err := root.Find([]string{"node", "inspect"})
	if err != nil {
		t.Fatal(err)
	}
	c.SetContext(t.Context())
	if got, _ := c.ValidArgsFunction(c, nil, ""); len(got) > 0 || w.asked > 0 {
		t.Errorf("completes with %q, and the terminal was asked %d times", got, w.asked)
	}
	if err := w.with(t.Context(), func(context.Context, *api) error { return nil }); err == nil || w.asked != 1 {
		t.Errorf("a command asks the terminal %d times: %v", w.asked, err)
	}
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	k, err := contexts.Identity("key.age", bytes.NewReader([]byte(i.String())))
	if err != nil {
		t.Fatal(err)
	}
	by := []bool{w.asks(), newAway(t, k).asks(), newAway(t, passphraseKey(t)).asks()}
	if want := []bool{true, false, false}; !slices.Equal(by, want) {
		t.Errorf("by a passphrase, an identity, a file with the passphrase somebody is asked: %v, want %v", by, want)
	}
}
