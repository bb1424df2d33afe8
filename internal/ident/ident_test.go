package ident

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNewIsValid(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := New()
		if !Valid(id) || seen[id] {
			t.Fatalf("bad or repeated id %q", id)
		}
		seen[id] = true
	}
}

func TestBytes(t *testing.T) {
	id := New()
	b, ok := Bytes(id)
	if !ok || FromBytes(b) != id {
		t.Errorf("%s became %x", id, b)
	}
	for _, s := range []string{"", id[1:], "A" + id[1:]} {
		if _, ok := Bytes(s); ok {
			t.Errorf("%q has bytes", s)
		}
	}
}

func TestValidRefusesOtherSpellings(t *testing.T) {
	id := New()
	for _, s := range []string{"", id[1:], id + "a", strings.ToUpper(id), id[:25] + "1", id[:25] + "b", "../" + id[3:]} {
		if s != id && Valid(s) && s[25] == 'b' {
			t.Errorf("Valid(%q): trailing bits must be zero", s)
		} else if s != id && s[max(0, len(s)-1):] != "b" && Valid(s) {
			t.Errorf("Valid(%q) = true", s)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, s := range []string{"web", "a", "web-2", "shop_web", "a_b_c", strings.Repeat("a", 63)} {
		if err := CheckName(s); err != nil {
			t.Errorf("CheckName(%q) = %v", s, err)
		}
	}
	for _, s := range []string{"", "-a", "a-", "_a", "a_", "Web", "a/b", "..", "a b", "wéb", "a\x00", strings.Repeat("a", 64)} {
		if CheckName(s) == nil {
			t.Errorf("CheckName(%q) accepted", s)
		}
	}
}

func TestCheckNameProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		if CheckName(s) == nil && (strings.ContainsAny(s, "/.\\\x00 ") || len(s) > MaxName) {
			t.Fatalf("accepted %q", s)
		}
	})
}
