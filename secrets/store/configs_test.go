package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
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
