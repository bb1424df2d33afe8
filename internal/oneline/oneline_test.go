package oneline_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

func TestText(t *testing.T) {
	for _, tc := range []struct {
		in   string
		most int
		want string
	}{
		{"", 10, ""},
		{"plain", 5, "plain"},
		{" \tat the ends\r\n", 100, "at the ends"},
		{"two\n\n\tlines", 100, "two lines"},
		{"\x1b[2Jcleared\x00", 100, "[2Jcleared"},
		{"turned \u202eround\u2028and split", 100, "turned round and split"},
		{"not \xff\xfe UTF-8", 100, "not ? UTF-8"},
		{"ü is kept, and 世界", 100, "ü is kept, and 世界"},
		{"cut off", 6, "cut…"},
		{"世界世界", 10, "世界…"},
		{"world", 3, "…"},
	} {
		if got := oneline.Text(tc.in, tc.most); got != tc.want {
			t.Errorf("%q in %d bytes: %q, want %q", tc.in, tc.most, got, tc.want)
		}
	}
}

func TestError(t *testing.T) {
	if err := oneline.Error(nil, 10); err != nil {
		t.Error(err)
	}
	err := oneline.Error(errors.Join(io.EOF, io.ErrClosedPipe), 100)
	if err.Error() != "EOF io: read/write on closed pipe" || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%q", err)
	}
}

// FuzzText: what comes out is one bounded line that can be shown, and stays as it is.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", " ", "a\nb", "\x1b]0;t\x07", "\xff", "世界世界", "\u202e\u200b", strings.Repeat("a ", 100)} {
		f.Add(s, 7)
	}
	f.Fuzz(func(t *testing.T, in string, most int) {
		most = 3 + most&0xff
		out := oneline.Text(in, most)
		switch {
		case len(out) > most, !utf8.ValidString(out), strings.TrimSpace(out) != out, strings.Contains(out, "  "),
			strings.ContainsFunc(out, func(r rune) bool { return !unicode.IsPrint(r) }):
			t.Errorf("%q in %d bytes: %q", in, most, out)
		case oneline.Text(out, most) != out:
			t.Errorf("%q becomes %q at first and %q again", in, out, oneline.Text(out, most))
		}
	})
}
