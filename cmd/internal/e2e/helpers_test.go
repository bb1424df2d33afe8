package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/headed"
)

// newKey is a well-formed operator key that opens nothing.
func newKey(t *testing.T) string {
	t.Helper()
	k := autolock.NewOperatorKey()
	return k.String()
}

func ownerOf(path string) (uint32, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Uid, nil
}

// readFile reads one of redoubtd's small files, of the first release, too.
func readFile(t *testing.T, path string, v any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	body, err := headed.Decode(filepath.Base(path), raw)
	if errors.Is(err, headed.ErrNoHeader) {
		body, err = raw, nil
	}
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// rewrite changes one of redoubtd's small files of the copy, as somebody would
// who knows the format.
func (th *thief) rewrite(name string, change func(map[string]any)) {
	th.t.Helper()
	var v map[string]any
	readFile(th.t, th.path("data", name), &v)
	change(v)
	body, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(th.path("data", name), headed.Encode(filepath.Base(name), body), 0o600)
	}
	if err != nil {
		th.t.Fatal(err)
	}
}
