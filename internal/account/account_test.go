package account

import (
	"strings"
	"testing"
)

func TestLookup(t *testing.T) {
	for s, want := range map[string]Account{"0": {0, 0}, "root": {0, 0}, "71000": {71000, 71000}, "2147483646": {2147483646, 2147483646}} {
		if got, err := Lookup(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"": "neither", "-1": "neither", "+5": "neither", "007": "neither", "0x10": "neither", "1e3": "neither", " 5": "neither", "5\n": "neither",
		"root:x": "neither", "Root": "neither", "1a": "neither", strings.Repeat("a", 32): "neither",
		"2147483647": "out of range", "4294967296": "out of range", "9999999999": "out of range",
		"no-such-user-here": "no user is called",
	} {
		if got, err := Lookup(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %q", s, got, err, want)
		}
	}
}
