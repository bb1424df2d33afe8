package contexts

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/lock"
)

func TestDeployers(t *testing.T) {
	d, k, key := Deployers{Dir: filepath.Join(t.TempDir(), "lock")}, newKey(t), lock.NewSigner()
	if all, err := d.List(); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	h, err := d.Create("ann", key, k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create("ann", lock.NewSigner(), k); err == nil {
		t.Error("a key took the place of another")
	}
	with := func(k Key) func(DeployerHeader) (Key, error) {
		return func(DeployerHeader) (Key, error) { return k, nil }
	}
	if got, err := d.Open("ann", with(k)); err != nil || !got.Equal(key) {
		t.Error(err)
	}
	if _, err := d.Open("ann", with(newKey(t))); !errors.Is(err, ErrWrongKey) {
		t.Error(err)
	}
	if _, err := d.Open("bob", with(k)); !errors.Is(err, ErrNoDeployer) {
		t.Error(err)
	}
	if all, err := d.List(); err != nil || len(all) != 1 || all[0] != h {
		t.Error(all, err)
	}
	raw, err := os.ReadFile(d.path("ann"))
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(d.path("ann")); err != nil || fi.Mode().Perm() != 0o600 || bytes.Contains(raw, key.Seed()) {
		t.Error("the key can be read by others, or is there in clear")
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if err := os.WriteFile(d.path("ann"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Open("ann", with(k)); err == nil {
			t.Fatalf("byte %d flipped: opened %v", i, got.Public())
		}
	}
}
