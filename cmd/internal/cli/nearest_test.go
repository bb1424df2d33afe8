package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"files-own", "files-sealed", "sockets-own", "autolock-on", "slots-no-file", "managers-quorum"}
	for typed, want := range map[string][]string{
		"file-own": {"files-own"}, "files-owm": {"files-own"}, "FILES-OWN": {"files-own"}, "own": {"files-own", "sockets-own"}, "file": {"files-own", "files-sealed", "slots-no-file"},
		"autolokc-on": {"autolock-on"}, "nothing": nil, "": nil, "x": nil, strings.Repeat("files-own", 1000): nil,
	} {
		if got := nearest(typed, names); !slices.Equal(got, want) {
			t.Errorf("%.20q: %q, want %q", typed, got, want)
		}
	}
	if err := noSuchControl("nothing"); len(err.Error()) > 200 {
		t.Errorf("who types a wrong name reads %d letters: %v", len(err.Error()), err)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"", "abc", 3}, {"abc", "abc", 0}, {"kitten", "sitting", 3}, {"ab", "ba", 2}, {"flaw", "lawn", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%s to %s: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
