package daemon

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/sandbox"
)

func TestRunRefusesBeforeTouchingAnything(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(bad, []byte("keyd:\n  nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := Daemon{Name: "d", Section: "keyd", Config: &struct{}{}, Sockets: []string{"keyd"},
		Sandbox: func(Env) sandbox.Profile { t.Error("sandboxed"); return sandbox.Profile{} },
		Run:     func(context.Context, Env) error { t.Error("ran"); return nil }}
	for want, args := range map[string][]string{
		"unexpected argument":    {"--control-user", "1", "x"},
		"--control-user is":      {},
		"flag provided but not":  {"--nope"},
		`unknown key "nonsense"`: {"--control-user", "1", "--config", bad},
		`no socket named "keyd"`: {"--control-user", "1"},
		`"-1" is neither`:        {"--control-user", "-1"},
		"no user is called":      {"--control-user", "no-such-user-here"},
	} {
		var out, errs bytes.Buffer
		if code := run(d, args, &out, &errs); code != 2 || !strings.Contains(errs.String(), want) {
			t.Errorf("%v: exit %d, %q, want %q", args, code, errs.String(), want)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if code := run(Daemon{Name: "d"}, []string{"--version"}, &out, &out); code != 0 || out.Len() == 0 {
		t.Fatalf("exit %d, %q", code, out.String())
	}
}
