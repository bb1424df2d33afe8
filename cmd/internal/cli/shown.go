package cli

import (
	"bytes"
	"io"
	"os"
	"unicode/utf8"

	"golang.org/x/term"
)

// shown is what somebody else wrote on its way to where this process writes: to a
// terminal it is no more than text and lines, and does nothing else there.
type shown struct {
	to       io.Writer
	terminal bool
	part     []byte // of a character, the rest of which is to come
}

func shownOn(w io.Writer) *shown {
	f, ok := w.(*os.File)
	return &shown{to: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

func (s *shown) Write(b []byte) (int, error) {
	if !s.terminal {
		return s.to.Write(b)
	}
	text := append(s.part, b...)
	whole := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if c := text[len(text)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(text[len(text)-i:]) {
				whole = len(text) - i
			}
			break
		}
	}
	s.part = bytes.Clone(text[whole:])
	return len(b), s.show(text[:whole])
}

// end shows what was not the beginning of a character after all.
func (s *shown) end() {
	if len(s.part) > 0 {
		_ = s.show(s.part) // who reads it is gone
	}
}

func (s *shown) show(text []byte) error {
	var out bytes.Buffer
	for i, line := range bytes.Split(text, []byte("\n")) {
		if i > 0 {
			out.WriteByte('\n')
		}
		out.WriteString(caret(string(line)))
	}
	_, err := s.to.Write(out.Bytes())
	return err
}
