package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	"github.com/redoubt-cluster/redoubt/secrets/spec"
)

// TestConfigs: a name belongs to one, who is found by id, name and the beginning
// of the id, and is removed only as the one that was read.
func TestConfigs(t *testing.T) {
	s := raftstoretest.New(t, Tables()...)
	id, err := CreateConfig(t.Context(), s, &secretspb.ConfigSpec{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateConfig(t.Context(), s, &secretspb.ConfigSpec{Name: "web"}); err == nil || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("a second one of that name: %v", err)
	}
	var version uint64
	if err := s.View(func(r *raftstore.ReadTx) error {
		for _, ref := range []string{id, "web", id[:8]} {
			c, err := ResolveConfig(r, ref)
			if err != nil || c.GetId() != id {
				t.Errorf("%q: %v, %v", ref, c, err)
				continue
			}
			version = c.GetMeta().GetVersion()
		}
		_, err := ResolveConfig(r, "none")
		var e *resolve.Error
		if !errors.As(err, &e) || !errors.Is(err, raftstore.ErrNotFound) || !strings.Contains(err.Error(), "redoubt config ls") {
			t.Errorf("none: %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	remove := func(version uint64) error {
		return s.Update(t.Context(), func(tx *raftstore.Tx) error {
			c, err := ResolveConfig(tx, "web")
			if err != nil {
				return err
			}
			return RemoveConfig(tx, c, version)
		})
	}
	if err := remove(version + 1); !errors.Is(err, ErrChanged) {
		t.Errorf("another version: %v", err)
	}
	if err := remove(version); err != nil {
		t.Errorf("removed: %v", err)
	}
}

// The largest config is granted without being written, before and after it has
// versions, and who removes it meanwhile fails.
func TestTouchConfig(t *testing.T) {
	s := raftstoretest.New(t, Tables()...)
	id, err := CreateConfig(t.Context(), s, &secretspb.ConfigSpec{Name: "site", Data: make([]byte, spec.MaxConfigBytes)})
	if err != nil {
		t.Fatal(err)
	}
	touch := func() error {
		return s.Update(t.Context(), func(tx *raftstore.Tx) error {
			c, err := ResolveConfig(tx, "site")
			return errors.Join(err, TouchConfig(tx, c))
		})
	}
	// remove is interrupted by a grant, the first time that it runs.
	remove := func(granted bool) (ran int, err error) {
		err = s.Update(t.Context(), func(tx *raftstore.Tx) error {
			ran++
			c, err := ResolveConfig(tx, "site")
			if err != nil {
				return err
			}
			if granted && ran == 1 {
				if err := touch(); err != nil {
					return err
				}
			}
			if ran == 2 {
				return errors.New("somebody uses it now")
			}
			return RemoveConfig(tx, c, 0)
		})
		return ran, err
	}
	for range 2 {
		if ran, err := remove(true); ran != 2 || err == nil {
			t.Errorf("a removal while it is granted: ran %d times, %v", ran, err)
		}
		if _, err := UpdateConfig(t.Context(), s, "site", make([]byte, spec.MaxConfigBytes), func(*secretspb.Config) error { return nil },
			func(raftstore.Reader, string) Pinned { return unpinned }, func(*raftstore.Tx, *secretspb.Config) error { return touch() }); err != nil {
			t.Fatal(err)
		}
	}
	if ran, err := remove(false); ran != 1 || err != nil {
		t.Errorf("a removal: ran %d times, %v", ran, err)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		if _, ok := ConfigGrants.Get(r, id); ok {
			t.Error("that it was granted is left")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A version that was stored and not listed, as its maker ended between, goes with the
// next one; one that another update took the place of is refused.
func TestUnlistedVersions(t *testing.T) {
	s := raftstoretest.New(t, Tables()...)
	if _, err := CreateConfig(t.Context(), s, &secretspb.ConfigSpec{Name: "site", Data: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	update := func(data string, also func(*raftstore.Tx, *secretspb.Config) error) error {
		_, err := UpdateConfig(t.Context(), s, "site", []byte(data), func(*secretspb.Config) error { return nil },
			func(raftstore.Reader, string) Pinned { return unpinned }, also)
		return err
	}
	none := func(*raftstore.Tx, *secretspb.Config) error { return nil }
	ended := errors.New("ended")
	if err := update("2", func(*raftstore.Tx, *secretspb.Config) error { return ended }); !errors.Is(err, ended) {
		t.Fatal(err)
	}
	if err := update("3", func(*raftstore.Tx, *secretspb.Config) error { return update("4", none) }); !errors.Is(err, ErrChanged) {
		t.Errorf("two at once: %v", err)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		c, err := ResolveConfig(r, "site")
		if err != nil {
			return err
		}
		n := 0
		for range ConfigVersions.All(r) {
			n++
		}
		f, data, _ := ConfigVersionOf(r, c, 0)
		if n != 2 || f.GetNumber() != 2 || string(data) != "4" {
			t.Errorf("%d versions, the current is %d, %q", n, f.GetNumber(), data)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
