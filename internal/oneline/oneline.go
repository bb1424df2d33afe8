// Package oneline makes what others wrote fit for one line of a log, a table or a
// terminal: an error of a library that fills a page, what a plugin or a container said,
// what a node that may be compromised says of itself.
//
// It bounds and cleans a text, and judges nothing: who must refuse one that is not
// plain (a name, a label) does that itself, and what is shown as it is (a container's
// own log) does not come through here.
package oneline

import (
	"strings"
	"unicode"
)

// more stands where something was left off.
const more = "…"

// Text is s on one line of at most so many bytes, which are three or more: what cannot
// be shown (control characters, escape sequences, marks that turn the direction of
// writing) and all white space becomes one space, none at the ends; what is not UTF-8
// becomes a question mark. A text of this kind stays as it is.
func Text(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }), " ")
	if len(s) <= most {
		return s
	}
	// Never within a character: what is cut there is dropped with it.
	return strings.TrimRight(strings.ToValidUTF8(s[:most-len(more)], ""), " ") + more
}

// Error is err with its text on one line of at most so many bytes. It wraps err; nil
// stays nil.
func Error(err error, most int) error {
	if err == nil {
		return nil
	}
	return line{err, Text(err.Error(), most)}
}

type line struct {
	error
	text string
}

func (l line) Error() string { return l.text }
func (l line) Unwrap() error { return l.error }
