package compose

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Problem is something of a compose file, and where it stands.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line"`
	// Key is the path of the key, as services.web.build; empty: the file as a whole.
	Key  string `json:"key,omitempty"`
	Text string `json:"text"`
}

// String is compose.yml:3: services.web.build: why.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
	}
	if s != "" {
		s += ": "
	}
	if p.Key != "" {
		s += p.Key + ": "
	}
	return s + p.Text
}

// Error is all that is wrong with the files, sorted, each once.
type Error struct{ Problems []Problem }

// Error is one line for all of them.
func (e *Error) Error() string {
	var all []string
	for _, p := range e.Problems {
		all = append(all, p.String())
	}
	return strings.Join(all, "; ")
}

// sorted puts problems in order, and drops those that are told twice.
func sorted(ps []Problem) []Problem {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Key, b.Key), strings.Compare(a.Text, b.Text))
	})
	ps = slices.Compact(ps)
	if more := len(ps) - maxProblems; more > 0 {
		ps = append(ps[:maxProblems:maxProblems], Problem{Text: fmt.Sprintf("and %d more", more)})
	}
	return ps
}

// failed is an *Error of problems, or nil where there are none.
func failed(ps []Problem) error {
	if len(ps) == 0 {
		return nil
	}
	return &Error{sorted(ps)}
}

// What the loader's errors name, in the order in which it is looked for: the key
// that is not known, a path, and what refers to nothing.
var (
	unknownKey = regexp.MustCompile(`^(?:validating .*?: )?((?:[\w-]+\.)*[\w-]*) ?additional propert(?:y|ies) ('[^']+'(?:, '[^']+')*) not allowed`)
	bracketed  = regexp.MustCompile(`((?:services|networks|secrets|configs|volumes)(?:\[[^\]]+\]|\.[\w-]+)+)`)
	dotted     = regexp.MustCompile(`\b((?:services|networks|secrets|configs|volumes|include|name)(?:\.[\w\[\]-]+)+)`)
	refers     = regexp.MustCompile(`service "([^"]+)" refers to undefined (network|secret|config|volume) ([^ :]+)`)
	depends    = regexp.MustCompile(`service "([^"]+)" depends on undefined service "?([^ :"]+)`)
	circle     = regexp.MustCompile(`dependency cycle detected: ([^ ]+) -> ([^ ]+)`)
	ofOne      = regexp.MustCompile(`\b(service|secret|config|network|volume) "([^"]+)"`)
	cannotExt  = regexp.MustCompile(`cannot extend service "([^"]+)"`)
	prefixes   = regexp.MustCompile(`^(?:validating [^:]*: |error while interpolating [^:]*: |decoding failed due to the following error\(s\):\s*)`)
)

// keyOf is the path of what an error of the loader is about; nil: it does not say.
func keyOf(text string) []string {
	if m := unknownKey.FindStringSubmatch(text); m != nil {
		first, _, _ := strings.Cut(m[2], ",")
		return append(split(strings.TrimSuffix(m[1], ".")), strings.Trim(first, "'"))
	}
	if m := refers.FindStringSubmatch(text); m != nil {
		return []string{"services", m[1], m[2] + "s", m[3]}
	}
	if m := depends.FindStringSubmatch(text); m != nil {
		return []string{"services", m[1], "depends_on", m[2]}
	}
	if m := circle.FindStringSubmatch(text); m != nil {
		return []string{"services", m[1], "depends_on", m[2]}
	}
	if m := cannotExt.FindStringSubmatch(text); m != nil {
		return []string{"services", m[1], "extends"}
	}
	for _, r := range []*regexp.Regexp{bracketed, dotted} {
		if m := r.FindStringSubmatch(text); m != nil {
			return split(m[1])
		}
	}
	if m := ofOne.FindStringSubmatch(text); m != nil {
		return []string{m[1] + "s", m[2]}
	}
	return nil
}

// split reads a.b[0].c and a[b].c.
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}

// located are the problems that an error of the loader tells of: several, where it
// is several in one.
func (s *source) located(err error) []Problem {
	var mine *Error
	if errors.As(err, &mine) {
		return mine.Problems
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []Problem
		for _, e := range many.Unwrap() {
			out = append(out, s.located(e)...)
		}
		return out
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, f := range s.files {
		text = strings.ReplaceAll(text, f.path, f.shown)
	}
	key := keyOf(text)
	text = prefixes.ReplaceAllString(text, "")
	// The key is said with the place.
	if before, rest, ok := strings.Cut(text, ": "); ok && len(key) > 0 && slices.Equal(split(before), key) {
		text = rest
	} else if rest, ok := strings.CutPrefix(text, strings.Join(key, ".")+" "); ok && len(key) > 0 {
		text = rest
	}
	return []Problem{s.at(key, "%s", text)}
}
