package autolock

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/keyscan"
)

func ringKey(fill byte) []byte { return bytes.Repeat([]byte{fill}, KeyLen) }

func TestRing(t *testing.T) {
	r, err := NewRing(ringKey(1), 1)
	if err != nil {
		t.Fatal(err)
	}
	aad := []byte("where")
	old, err := r.Seal("log", aad, []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	oldName := r.Name([]byte("a"))
	if err := r.Add(ringKey(2), 2); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"an epoch twice": r.Add(ringKey(3), 2), "a third key": r.Add(ringKey(3), 3),
		"dropping the newest": r.Drop(2), "dropping what is not there": r.Drop(7),
	} {
		if err == nil {
			t.Errorf("%s is allowed", what)
		}
	}
	fresh, err := r.Seal("log", aad, []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	for sealed, want := range map[string]string{string(old): "old", string(fresh): "new"} {
		if got, err := r.Open("log", aad, []byte(sealed)); err != nil || string(got) != want {
			t.Errorf("%q: %q %v", want, got, err)
		}
	}
	if !slices.Equal(r.Epochs(), []uint32{2, 1}) || !bytes.Equal(r.NameUnder(1, []byte("a")), oldName) || bytes.Equal(r.Name([]byte("a")), oldName) {
		t.Error("names are not by epoch")
	}
	relabelled := slices.Clone(old)
	relabelled[offEpoch+3] = 2
	if _, err := r.Open("log", aad, relabelled); !errors.Is(err, ErrSealed) {
		t.Errorf("a record that says another epoch: %v", err)
	}
	if err := r.Drop(1); err != nil {
		t.Fatal(err)
	}
	var epoch *EpochError
	if _, err := r.Open("log", aad, old); !errors.As(err, &epoch) || epoch.Got != 1 {
		t.Errorf("a record of a dropped key: %v", err)
	}
	if r.NameUnder(1, []byte("a")) != nil {
		t.Error("a dropped key makes names")
	}
	if _, err := r.Open("log", aad, old[:5]); !errors.Is(err, ErrSealed) {
		t.Errorf("a cut record: %v", err)
	}
	r.Close()
	if _, err := r.Seal("log", aad, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := r.Open("log", aad, fresh); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if r.Name(nil) != nil || r.Epochs() != nil || r.Add(ringKey(1), 9) == nil {
		t.Error("a closed ring goes on")
	}
}

// TestRingOrder: a former key that is added later does not become the newest.
func TestRingOrder(t *testing.T) {
	r, err := NewRing(ringKey(9), 9)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Add(ringKey(8), 8); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Epochs(), []uint32{9, 8}) {
		t.Fatal(r.Epochs())
	}
}

// TestKeyscanKnowsRecords: what a Sealer makes is found, with its epoch, by who has
// no key.
func TestKeyscanKnowsRecords(t *testing.T) {
	s, err := NewSealer(ringKey(1), 0x01020304)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal("log", nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), append([]byte("before"), sealed...), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := keyscan.Dir(t.Context(), dir)
	if err != nil || r.Epochs()[0x01020304] != 1 {
		t.Fatalf("%v %v", r, err)
	}
}
