package netns

import (
	"strings"
	"testing"
)

func TestIDMap(t *testing.T) {
	for _, m := range []IDMap{{0, 65536}, {1000, 65536}, {1 << 30, 10}, {1<<31 - 1000, 65536}, {1<<32 - 1, 65536}} {
		if m.Validate() == nil {
			t.Errorf("%v was accepted", m)
		}
	}
	if err := (IDMap{1 << 30, 65536}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestNeedsSharedMount(t *testing.T) {
	if _, err := Open(t.TempDir(), func(string) IDMap { return IDMap{1 << 30, 65536} }); err == nil || !strings.Contains(err.Error(), "not a shared mount") {
		t.Errorf("got %v", err)
	}
}

func TestParseMountinfo(t *testing.T) {
	for line, want := range map[string]struct {
		point  string
		shared bool
		ok     bool
	}{
		"36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 - ext3 /dev/root rw":       {"/mnt2", true, true},
		"36 35 98:0 / /with\\040space rw - tmpfs tmpfs rw":                     {"/with space", false, true},
		"36 35 98:0 / /slave rw master:7 propagate_from:2 - tmpfs shared:9 rw": {"/slave", false, true},
		"36 35 98:0 / /x rw shared:1 master:2 - tmpfs t rw":                    {"/x", true, true},
		"36 35 98:0 / /x rw":                {},
		"":                                  {},
		"36 35 98:0 / /x rw shared:1 tmpfs": {},
	} {
		point, shared, ok := parseMountinfo(line)
		if point != want.point || shared != want.shared || ok != want.ok {
			t.Errorf("%q: %q %v %v", line, point, shared, ok)
		}
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add("36 35 98:0 / /a\\040b\\ rw shared:1 - tmpfs t rw")
	f.Add("1 2 3 4 5 6 -")
	f.Fuzz(func(t *testing.T, line string) {
		if point, _, ok := parseMountinfo(line); ok && point == "" {
			t.Fatalf("%q: no mount point", line)
		}
	})
}

func TestPathLikeIDs(t *testing.T) {
	s := &Store{dir: t.TempDir()}
	for _, id := range []string{"", "..", "../x", "a/b", "UPPER"} {
		if s.Create(id) == nil || s.Remove(id) == nil {
			t.Errorf("%q was accepted", id)
		}
	}
}
