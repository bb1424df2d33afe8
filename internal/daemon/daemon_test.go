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
		"unexpected argument":      {"--control-uid", "1", "x"},
		"--control-uid is":         {},
		"flag provided but not":    {"--nope"},
		`unknown key "nonsense"`:   {"--control-uid", "1", "--config", bad},
		`no socket named "keyd"`:   {"--control-uid", "1"},
		"invalid value \"-1\" for": {"--control-uid", "-1"},
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
