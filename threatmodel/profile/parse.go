package profile

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/strictyaml"
)

// file is one profile as it is written.
type file struct {
	Version      int    `yaml:"version"`
	ID           ref    `yaml:"id"`
	Title        ref    `yaml:"title"`
	Source       ref    `yaml:"source"`
	Text         ref    `yaml:"text"`
	Include      []ref  `yaml:"include"`
	Requirements []item `yaml:"requirements"`
}

type item struct {
	ID       ref   `yaml:"id"`
	Title    ref   `yaml:"title"`
	Family   ref   `yaml:"family"`
	Coverage ref   `yaml:"coverage"`
	Controls []ref `yaml:"controls"`
	Note     ref   `yaml:"note"`
}

// ref is a text that knows where it stands.
type ref struct {
	text string
	line int
}

func (r *ref) UnmarshalYAML(n *yaml.Node) error {
	r.line = n.Line
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: a text belongs here", n.Line)
	}
	r.text = n.Value
	return nil
}

var (
	profileID     = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)
	requirementID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
)

// parse reads one file, without what it includes. known are the controls that
// exist.
func parse(data []byte, known []string) (*file, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	if _, err := strictyaml.Tree(data); errors.Is(err, io.EOF) {
		return nil, errors.New("empty")
	} else if err != nil {
		return nil, err
	}
	f := &file{}
	if err := strictyaml.Decode(data, f); err != nil {
		return nil, err
	}
	return f, f.check(known)
}

func (f *file) check(known []string) error {
	if f.Version != 1 {
		return fmt.Errorf("version %d: this is read as version 1 alone", f.Version)
	}
	if !profileID.MatchString(f.ID.text) {
		return f.ID.errorf("id %q: give up to 63 small letters, digits, dots and hyphens", f.ID.text)
	}
	if f.Title.text == "" {
		return f.ID.errorf("%s has no title", f.ID.text)
	}
	if len(f.Include)+len(f.Requirements) == 0 {
		return f.ID.errorf("%s requires nothing", f.ID.text)
	}
	for _, r := range append([]ref{f.Title, f.Source, f.Text}, f.Include...) {
		if err := r.plain(); err != nil {
			return err
		}
	}
	if len(f.Requirements) > maxRequirements {
		return f.Requirements[maxRequirements].ID.errorf("more than %d requirements", maxRequirements)
	}
	for _, r := range f.Requirements {
		if err := r.check(known); err != nil {
			return err
		}
	}
	return nil
}

func (r item) check(known []string) error {
	id := r.ID.text
	if !requirementID.MatchString(id) {
		return r.ID.errorf("a requirement's id %q: give up to 63 letters, digits, dots, hyphens and underscores", id)
	}
	if r.Title.text == "" {
		return r.ID.errorf("%s has no title", id)
	}
	for _, t := range []ref{r.Title, r.Family, r.Note} {
		if err := t.plain(); err != nil {
			return err
		}
	}
	if len(r.Controls) > maxControls {
		return r.Controls[maxControls].errorf("%s has more than %d controls", id, maxControls)
	}
	for i, c := range r.Controls {
		if !slices.Contains(known, c.text) {
			return c.errorf("%s: no control is called %q", id, c.text)
		}
		if slices.ContainsFunc(r.Controls[:i], func(o ref) bool { return o.text == c.text }) {
			return c.errorf("%s names control %s twice", id, c.text)
		}
	}
	switch c := Coverage(r.Coverage.text); c {
	case Full, Partial:
		if len(r.Controls) == 0 {
			return r.ID.errorf("%s has no control: its coverage is none or outside, not %s", id, c)
		}
		if c == Partial && r.Note.text == "" {
			return r.ID.errorf("%s is covered in part: its note must say what is left out", id)
		}
	case None, Outside:
		if len(r.Controls) > 0 {
			return r.ID.errorf("%s has controls: its coverage is full or partial, not %s", id, c)
		}
		if r.Note.text == "" {
			return r.ID.errorf("%s is covered by no control: its note must say why", id)
		}
	default:
		return r.ID.errorf("%s: coverage %q is none of full, partial, none, outside", id, c)
	}
	return nil
}

// plain refuses what does not fit on one line of a page or a terminal.
func (r ref) plain() error {
	if len(r.text) > maxText {
		return r.errorf("a text of more than %d bytes", maxText)
	}
	if r.text != oneline.Text(r.text, maxText) {
		return r.errorf("a text is one line of what can be shown, without spaces at its ends")
	}
	return nil
}

func (r ref) errorf(format string, args ...any) error {
	text := oneline.Text(fmt.Sprintf(format, args...), maxText)
	if r.line == 0 { // the key is not there
		return errors.New(text)
	}
	return fmt.Errorf("line %d: %s", r.line, text)
}
