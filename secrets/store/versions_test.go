package store

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	"github.com/redoubt-cluster/redoubt/secrets/spec"
)

func sealed(n int) *secretspb.SealedData {
	return &secretspb.SealedData{Data: make([]byte, n+seal.DataOverhead), Key: make([]byte, seal.SealedKeyLen), Epoch: 1}
}

func fileSpec(name string, keep uint32) *secretspb.SecretSpec {
	return &secretspb.SecretSpec{Name: name, Kind: secretspb.SecretKind_SECRET_KIND_FILE, Keep: keep}
}

func unpinned(uint64) bool { return false }

// numbersOf reads a secret and checks that the versions there are are those it
// lists.
func numbersOf(t *testing.T, s *raftstore.Store, ref string) (text string, current uint64) {
	t.Helper()
	if err := s.View(func(r *raftstore.ReadTx) error {
		o, err := ResolveSecret(r, ref)
		if err != nil {
			return err
		}
		n := 0
		for v := range SecretVersions.By(r, "secret", o.GetId()) {
			n++
			if f := factsOf(o.GetVersions(), 0, v.GetNumber()); f.GetId() != v.GetId() {
				t.Errorf("version %d is not listed", v.GetNumber())
			}
		}
		if n != len(o.GetVersions()) {
			t.Errorf("%d versions are there, %d are listed", n, len(o.GetVersions()))
		}
		if _, ok := SecretVersionOf(r, o, 0); !ok {
			t.Error("the current version is gone")
		}
		text, current = numbers(o.GetVersions()), o.GetCurrent()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return text, current
}

func TestSecretVersions(t *testing.T) {
	s := raftstoretest.New(t, Tables()...)
	id := ident.New()
	update := func(fn func(*raftstore.Tx) error) error { return s.Update(t.Context(), fn) }
	add := func(v NewVersion, pinned Pinned) error {
		return update(func(tx *raftstore.Tx) error { _, err := AddSecretVersion(tx, id, v, pinned); return err })
	}
	fresh := func() NewVersion { return NewVersion{ident.New(), sealed(7)} }
	back := func(n uint64) error {
		return update(func(tx *raftstore.Tx) error { _, err := RollbackSecret(tx, "db", n); return err })
	}
	first := fresh()
	if err := update(func(tx *raftstore.Tx) error { return CreateSecret(tx, id, fileSpec("db", 3), first) }); err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	if err := back(0); !errors.As(err, &refused) || !strings.Contains(err.Error(), "no version before") {
		t.Errorf("back from the first one: %v", err)
	}
	if err := add(first, unpinned); !errors.As(err, &refused) {
		t.Errorf("a version twice: %v", err)
	}
	for range 3 {
		if err := add(fresh(), unpinned); err != nil {
			t.Fatal(err)
		}
	}
	if text, current := numbersOf(t, s, "db"); text != "2, 3, 4" || current != 4 {
		t.Errorf("versions %s, current %d", text, current)
	}
	if err := errors.Join(back(0), back(0)); err != nil {
		t.Fatal(err)
	}
	if _, current := numbersOf(t, s, "db"); current != 2 {
		t.Errorf("two steps back: %d", current)
	}
	if err := back(1); !errors.As(err, &refused) || !strings.Contains(err.Error(), "it has 2, 3, 4") {
		t.Errorf("back to one that is gone: %v", err)
	}
	if err := back(3); err != nil {
		t.Fatal(err)
	}
	// 2 is pinned and 3 current, so 4 goes, the newest: one can still go back to 3.
	if err := add(fresh(), func(n uint64) bool { return n == 2 }); err != nil {
		t.Fatal(err)
	}
	if text, current := numbersOf(t, s, "db"); text != "2, 3, 5" || current != 5 {
		t.Errorf("versions %s, current %d", text, current)
	}
	if err := add(fresh(), func(n uint64) bool { return n < 5 }); !errors.As(err, &refused) || !strings.Contains(err.Error(), "by number") {
		t.Errorf("all are pinned: %v", err)
	}

	var taken *NameTakenError
	if err := update(func(tx *raftstore.Tx) error { return CreateSecret(tx, ident.New(), fileSpec("db", 0), fresh()) }); !errors.As(err, &taken) {
		t.Errorf("a clashing name: %v", err)
	}
	if err := update(func(tx *raftstore.Tx) error { return CreateSecret(tx, id, fileSpec("other", 0), fresh()) }); !errors.As(err, &refused) {
		t.Errorf("a clashing id: %v", err)
	}
	if err := update(func(tx *raftstore.Tx) error { return CreateSecret(tx, "x", fileSpec("other", 0), fresh()) }); !errors.As(err, &refused) {
		t.Errorf("a malformed id: %v", err)
	}
	if err := update(func(tx *raftstore.Tx) error {
		o, err := ResolveSecret(tx, "db")
		return errors.Join(err, RemoveSecret(tx, o))
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		for v := range SecretVersions.All(r) {
			t.Errorf("version %d is left", v.GetNumber())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestSecretsAreSealedAnew(t *testing.T) {
	s := raftstoretest.New(t, Tables()...)
	v := NewVersion{ident.New(), sealed(7)}
	if err := s.Update(t.Context(), func(tx *raftstore.Tx) error { return CreateSecret(tx, ident.New(), fileSpec("db", 3), v) }); err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{9}, seal.SealedKeyLen)
	for _, try := range []struct {
		epoch uint64
		keys  map[string][]byte
	}{{2, map[string][]byte{v.ID: key, ident.New(): key}}, {2, map[string][]byte{v.ID: nil}}, {1, map[string][]byte{v.ID: nil}}} {
		if err := s.Update(t.Context(), func(tx *raftstore.Tx) error { return SealedAnew(tx, try.epoch, try.keys) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		got, _ := SecretVersions.Get(r, v.ID)
		if got.GetSealed().GetEpoch() != 2 || !bytes.Equal(got.GetSealed().GetKey(), key) || !bytes.Equal(got.GetSealed().GetData(), v.Sealed.Data) {
			t.Errorf("it is of epoch %d", got.GetSealed().GetEpoch())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// The largest config there may be goes through its versions as any does.
func TestConfigVersions(t *testing.T) {
	s := raftstoretest.New(t, Tables()...)
	data := func(b byte) []byte { return bytes.Repeat([]byte{b}, spec.MaxConfigBytes) }
	id, err := CreateConfig(t.Context(), s, &secretspb.ConfigSpec{Name: "site", Data: data(1), Keep: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := func(versions string, current uint64, b byte) {
		t.Helper()
		if err := s.View(func(r *raftstore.ReadTx) error {
			c, err := ResolveConfig(r, "site")
			if err != nil {
				return err
			}
			have, now := VersionsOf(c)
			_, got, ok := ConfigVersionOf(r, c, 0)
			if numbers(have) != versions || now != current || !ok || !bytes.Equal(got, data(b)) {
				t.Errorf("versions %s, current %d, %t", numbers(have), now, ok)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	want("1", 1, 1)
	pinned := func(raftstore.Reader, string) Pinned { return unpinned }
	also := func(*raftstore.Tx, *secretspb.Config) error { return nil }
	accept := func(*secretspb.Config) error { return nil }
	if _, err := UpdateConfig(t.Context(), s, "site", data(2), accept, pinned, also); err != nil {
		t.Fatal(err)
	}
	want("1, 2", 2, 2)
	if err := s.Update(t.Context(), func(tx *raftstore.Tx) error { _, err := RollbackConfig(tx, id, 0); return err }); err != nil {
		t.Fatal(err)
	}
	want("1, 2", 1, 1)
	if _, err := UpdateConfig(t.Context(), s, "site", data(3), accept, pinned, also); err != nil {
		t.Fatal(err)
	}
	want("1, 3", 3, 3) // what was current is what to go back to
	if err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
		c, err := ResolveConfig(tx, "site")
		return errors.Join(err, RemoveConfig(tx, c, 0))
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		for range ConfigVersions.All(r) {
			t.Error("a version is left")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestSecretsAreBoundedInAll(t *testing.T) {
	s := raftstoretest.New(t, Tables()...)
	made := 0
	for ; made < 300; made++ {
		d := sealed(seal.MaxSecret)
		err := s.View(func(r *raftstore.ReadTx) error { return RoomForSecret(r, d) })
		if err != nil {
			break
		}
		if err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
			return CreateSecret(tx, ident.New(), fileSpec(ident.New()[:8]+"-x", 0), NewVersion{ident.New(), d})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if made != 262 {
		t.Errorf("%d secrets of 500 KiB in 128 MiB", made)
	}
}

func TestOldest(t *testing.T) {
	s := raftstoretest.New(t, Tables()...)
	update := func(fn func(*raftstore.Tx) error) {
		t.Helper()
		if err := s.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	ids, made := map[string]string{"a": ident.New(), "b": ident.New()}, map[string]int64{}
	oldest := func() (at int64) {
		if err := s.View(func(r *raftstore.ReadTx) error { at = Oldest(r); return nil }); err != nil {
			t.Fatal(err)
		}
		return at
	}
	change := func(name string, fn func(*raftstore.Tx) (*secretspb.Secret, error)) {
		t.Helper()
		update(func(tx *raftstore.Tx) error {
			_, err := fn(tx)
			made[name] = tx.Now().UnixNano()
			return err
		})
	}
	if at := oldest(); at != 0 {
		t.Errorf("of no secret: %d", at)
	}
	for _, name := range []string{"a", "b"} {
		change(name, func(tx *raftstore.Tx) (*secretspb.Secret, error) {
			return nil, CreateSecret(tx, ids[name], fileSpec(name, 3), NewVersion{ident.New(), sealed(7)})
		})
	}
	first := made["a"]
	if at := oldest(); at != first {
		t.Errorf("a is of %d, the oldest of %d", first, at)
	}
	change("a", func(tx *raftstore.Tx) (*secretspb.Secret, error) {
		return AddSecretVersion(tx, ids["a"], NewVersion{ident.New(), sealed(7)}, unpinned)
	})
	if at := oldest(); at != made["b"] {
		t.Errorf("b is of %d, the oldest of %d", made["b"], at)
	}
	change("a", func(tx *raftstore.Tx) (*secretspb.Secret, error) { return RollbackSecret(tx, "a", 1) })
	if at := oldest(); at != first {
		t.Errorf("a is of %d again, the oldest of %d", first, at)
	}
}
