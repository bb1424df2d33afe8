package resolve_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
)

var things = raftstore.NewTable("things",
	raftstore.Index[*testpb.Thing]{Name: "name", Unique: true, Keys: func(t *testpb.Thing) []string { return []string{t.GetName()} }})

func TestNamed(t *testing.T) {
	s := raftstoretest.New(t, things)
	id := func(beginning string) string { return beginning + strings.Repeat("a", ident.Len-len(beginning)) }
	web, api, odd := id("abcd2"), id("abcd3"), id("zzzz2")
	if err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
		return errors.Join(things.Put(tx, &testpb.Thing{Id: web, Name: "web"}), things.Put(tx, &testpb.Thing{Id: api, Name: "api"}),
			things.Put(tx, &testpb.Thing{Id: odd, Name: web[:ident.MinPrefix+1]}))
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, ref, want, wrong string }{
		{"an id", web, web, ""},
		{"a name", "api", api, ""},
		{"the beginning of one id", "abcd3", api, ""},
		{"a name before the beginning of an id", web[:ident.MinPrefix+1], odd, ""},
		{"the beginning of two", "abcd", "", `thing "abcd" is ambiguous, 2 match: use more of the id`},
		{"a beginning too short to be meant", "zzz", "", "no thing \"zzz\": list them with `redoubt thing ls`"},
		{"nothing", "", "", "no thing \"\": list them with `redoubt thing ls`"},
		{"more than an id", web + "a", "", "no thing"},
	} {
		t.Run(c.what, func(t *testing.T) {
			if err := s.View(func(r *raftstore.ReadTx) error {
				got, err := resolve.Named("thing", things, r, c.ref)
				if c.wrong == "" {
					if err != nil || got.GetId() != c.want {
						t.Errorf("%v, %v, want %s", got, err, c.want)
					}
					return nil
				}
				var told *resolve.Error
				if got != nil || !errors.As(err, &told) || !strings.HasPrefix(err.Error(), c.wrong) {
					t.Errorf("%v, %v, want %q", got, err, c.wrong)
				} else if errors.Is(err, raftstore.ErrNotFound) != (told.Matches == 0) || len(told.Found) != told.Matches {
					t.Errorf("%d match, found %v, not found: %v", told.Matches, told.Found, errors.Is(err, raftstore.ErrNotFound))
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestMatchesAreToldInPart(t *testing.T) {
	s := raftstoretest.New(t, things)
	if err := s.Update(t.Context(), func(tx *raftstore.Tx) (err error) {
		for _, c := range "abcdefghijkl" {
			id := "same" + string(c) + strings.Repeat("a", ident.Len-5)
			err = errors.Join(err, things.Put(tx, &testpb.Thing{Id: id, Name: "n" + string(c)}))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		_, err := resolve.Named("thing", things, r, "same")
		var told *resolve.Error
		if !errors.As(err, &told) || told.Matches != 12 || len(told.Found) != resolve.MaxFound {
			t.Errorf("%v: %+v", err, told)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
