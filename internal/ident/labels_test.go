package ident

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestValidLabelIsItsRule(t *testing.T) {
	rule := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?\z`)
	for _, s := range []string{"", "a", "a.", "-a", "a/b-c_d.E9", "a b", "ä", "a\n", strings.Repeat("a", MaxLabelKey), strings.Repeat("a", MaxLabelKey+1)} {
		if want := rule.MatchString(s) && len(s) <= MaxLabelKey; ValidLabel(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOf(rapid.SampledFrom([]rune("aZ9._/- \nü"))).Draw(t, "s")
		if want := rule.MatchString(s) && len(s) <= MaxLabelKey; ValidLabel(s) != want {
			t.Fatalf("%q: %v", s, !want)
		}
	})
}

func TestCheckLabels(t *testing.T) {
	many := map[string]string{}
	for i := range MaxLabels + 1 {
		many["k"+strings.Repeat("x", i%100)+string(rune('a'+i%26))] = ""
	}
	for want, labels := range map[string]map[string]string{
		"use up to":           {"a b": ""},
		"is 4097 bytes":       {"a": strings.Repeat("v", MaxLabelValue+1)},
		"a control character": {"a": "\x1b[2J"},
		"not UTF-8":           {"a": "\xff"},
	} {
		if err := CheckLabels("config label", labels); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "config label") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := CheckLabels("label", map[string]string{"a/b": "one\ttwo\nthree"}); err != nil {
		t.Error(err)
	}
	if err := CheckLabels("label", many); err == nil {
		t.Error("any number of labels is accepted")
	}
}

func TestCheckOwnName(t *testing.T) {
	if err := CheckOwnName("config", "site"); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "Site", New()} {
		if err := CheckOwnName("config", s); err == nil || !strings.HasPrefix(err.Error(), "config") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestCheckLine(t *testing.T) {
	for _, s := range []string{"", "a reason", "naïve, 理由", strings.Repeat("a", 16)} {
		if err := CheckLine("the reason", s, 16); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"a\nb", "a\rb", "a\tb", "a\x00", "a\x1b[2J", "a\u2028b", "a\u202eb", "a\xff", strings.Repeat("a", 17)} {
		if err := CheckLine("the reason", s, 16); err == nil || !strings.HasPrefix(err.Error(), "the reason must be one line of at most 16 bytes") {
			t.Errorf("%q: %v", s, err)
		}
	}
}
