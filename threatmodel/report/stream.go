package report

import (
	"bufio"
	"encoding/json"
	"io"
	"iter"
	"strings"
)

// stream writes a JSON document piece by piece: a list in it is never held as text.
// The first error ends it, and close tells it.
type stream struct {
	w     *bufio.Writer
	ends  []string // of what is open
	begun bool     // something stands before, in what is open
	err   error
}

func newStream(w io.Writer) *stream { return &stream{w: bufio.NewWriter(w)} }

// object opens an object, by its key where it is in another, and list a list. In a
// list and at the top the key is "".
func (s *stream) object(key string) { s.open(key, "{", "}") }
func (s *stream) list(key string)   { s.open(key, "[", "]") }

func (s *stream) open(key, begin, end string) {
	s.before(key)
	s.write(begin)
	s.ends = append(s.ends, end)
	s.begun = false
}

// end closes what was opened last.
func (s *stream) end() {
	end := s.ends[len(s.ends)-1]
	s.ends = s.ends[:len(s.ends)-1]
	if s.begun {
		s.write("\n" + s.indent())
	}
	s.write(end)
	s.begun = true
}

// value writes a value, which is small.
func (s *stream) value(key string, v any) {
	s.before(key)
	if s.err != nil {
		return
	}
	b, err := json.MarshalIndent(v, s.indent(), "  ")
	if err != nil {
		s.err = err
	}
	s.write(string(b))
}

// values writes a list of values.
func values[T any](s *stream, key string, all iter.Seq[T]) {
	s.list(key)
	for v := range all {
		s.value("", v)
	}
	s.end()
}

func (s *stream) before(key string) {
	if s.begun {
		s.write(",")
	}
	if len(s.ends) > 0 {
		s.write("\n" + s.indent())
	}
	if key != "" {
		s.write(`"` + key + `": `) // keys are ours
	}
	s.begun = true
}

func (s *stream) indent() string { return strings.Repeat("  ", len(s.ends)) }

func (s *stream) write(text string) {
	if s.err == nil {
		_, s.err = s.w.WriteString(text)
	}
}

// close ends the document.
func (s *stream) close() error {
	for len(s.ends) > 0 {
		s.end()
	}
	s.write("\n")
	if s.err != nil {
		return s.err
	}
	return s.w.Flush()
}
