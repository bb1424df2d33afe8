package cli

import (
	"bytes"
	"testing"
)

// TestShown: on a terminal what a container writes is text and lines, wherever it is cut;
// elsewhere it is what it was.
func TestShown(t *testing.T) {
	const wrote = "a\x1b[2J\x1b]52;c;eA==\a\r\n\tä€\u009b31m\xff\xe2\x82"
	for _, c := range []struct {
		terminal bool
		want     string
	}{
		{false, wrote},
		{true, "a^[[2J^[]52;c;eA==^G^M\n\tä€<9b>31m??"},
	} {
		for size := 1; size <= len(wrote); size++ {
			var got bytes.Buffer
			s := &shown{to: &got, terminal: c.terminal}
			for rest := []byte(wrote); len(rest) > 0; rest = rest[min(size, len(rest)):] {
				if n, err := s.Write(rest[:min(size, len(rest))]); err != nil || n != min(size, len(rest)) {
					t.Fatal(n, err)
				}
			}
			s.end()
			if c.terminal {
				// How many of what is no character are one mark depends on where it was cut.
				if !bytes.HasPrefix(got.Bytes(), []byte(c.want[:len(c.want)-1])) {
					t.Errorf("in pieces of %d: %q", size, got.String())
				}
			} else if got.String() != c.want {
				t.Errorf("in pieces of %d: %q", size, got.String())
			}
		}
	}
}
