package ident

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of each set of labels.
const (
	MaxLabels     = 128
	MaxLabelKey   = 128
	MaxLabelValue = 4096
)

// CheckLabels returns an error unless these can be the labels of something;
// what names them in errors, as "service label".
func CheckLabels(what string, labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("there are %d %ss: at most %d are allowed", len(labels), what, MaxLabels)
	}
	for k, v := range labels {
		if !ValidLabel(k) {
			return fmt.Errorf("%s %q: use up to %d letters, digits and . _ / - between letters or digits", what, Clip(k), MaxLabelKey)
		}
		if len(v) > MaxLabelValue {
			return fmt.Errorf("%s %s is %d bytes long: at most %d are allowed", what, k, len(v), MaxLabelValue)
		}
		if strings.ContainsFunc(v, control) || !utf8.ValidString(v) {
			return fmt.Errorf("%s %s has a control character or is not UTF-8: remove it", what, k)
		}
	}
	return nil
}

// ValidLabel reports whether s can be the key of a label: letters and digits,
// and . _ / - between them.
func ValidLabel(s string) bool {
	if s == "" || len(s) > MaxLabelKey || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '.' && c != '_' && c != '/' && c != '-' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func control(r rune) bool { return r < ' ' && r != '\t' && r != '\n' || r == 0x7f }

// CheckLine returns an error unless s can be shown as it is and is one line of at most
// max bytes. what names it in the error.
func CheckLine(what, s string, max int) error {
	if len(s) > max || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%s must be one line of at most %d bytes, of characters that can be seen", what, max)
	}
	return nil
}

// Clip keeps an error one short line whatever was given.
func Clip(s string) string {
	const most = 80
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
