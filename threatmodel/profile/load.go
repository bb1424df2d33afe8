package profile

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"hash"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

//go:embed profiles/*.yaml
var builtin embed.FS

// Baseline is the profile of our own promises, and has every control.
const Baseline = "redoubt-baseline"

// Names are the profiles that are built in.
func Names() []string {
	entries, _ := builtin.ReadDir("profiles") // it is part of the program
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// Load reads a profile that is built in by its name, or a file by its path, which
// has a slash or ends in .yaml, with all that it includes. known are the ids of
// the controls that exist.
func Load(name string, known []string) (*Profile, error) {
	l := &loader{known: known, read: read, ids: map[string]string{}, sum: sha256.New()}
	f, err := l.load(clean(name), nil)
	if err != nil {
		return nil, err
	}
	return &Profile{ID: f.ID.text, Title: f.Title.text, Source: f.Source.text, Text: f.Text.text, SHA256: hex.EncodeToString(l.sum.Sum(nil)), Requirements: l.all}, nil
}

// loader gathers what a profile and those that it includes require.
type loader struct {
	known []string
	read  func(name string) ([]byte, error)

	all  []Requirement
	ids  map[string]string // of requirements → the profile that has them
	sum  hash.Hash         // of what was read, each with its length
	done []string          // profiles that were read: two may include the same
}

// load reads one profile; within are those that include it, outermost first.
func (l *loader) load(name string, within []string) (*file, error) {
	data, err := l.read(name)
	if err != nil {
		return nil, err
	}
	l.sum.Write(lp.Append(nil, data))
	f, err := parse(data, l.known)
	if err == nil && isPath(name) {
		err = f.ownID()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	within = append(slices.Clone(within), name)
	for _, inc := range f.Include {
		other := inc.text
		if isPath(other) && !filepath.IsAbs(other) {
			other = filepath.Join(filepath.Dir(name), other)
		}
		other = clean(other)
		switch {
		case slices.Contains(within, other):
			err = inc.errorf("includes %s, which includes it: %s", other, strings.Join(append(within, other), " → "))
		case slices.Contains(l.done, other):
			continue
		case len(within) == maxDepth:
			err = inc.errorf("more than %d profiles within each other", maxDepth)
		case isPath(other) && !isPath(name):
			err = inc.errorf("a profile that is built in includes no file")
		default:
			if _, err = l.load(other, within); err != nil {
				return nil, fmt.Errorf("%s: %w", name, inc.errorf("%v", err))
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	l.done = append(l.done, name)
	for _, r := range f.Requirements {
		if other, twice := l.ids[r.ID.text]; twice {
			return nil, fmt.Errorf("%s: %w", name, r.ID.errorf("requirement %s is there already, in %s", r.ID.text, other))
		}
		if len(l.all) == maxRequirements {
			return nil, fmt.Errorf("%s: %w", name, r.ID.errorf("more than %d requirements with what is included", maxRequirements))
		}
		l.ids[r.ID.text] = name
		l.all = append(l.all, r.requirement())
	}
	return f, nil
}

// ownID refuses a file that would pass for a profile that is built in, or for a part of
// one.
func (f *file) ownID() error {
	for _, name := range Names() {
		if f.ID.text == name || strings.HasPrefix(f.ID.text, name+".") {
			return f.ID.errorf("%s is built in: give a profile of your own another id", name)
		}
	}
	return nil
}

func (r item) requirement() Requirement {
	x := Requirement{ID: r.ID.text, Title: r.Title.text, Family: r.Family.text, Coverage: Coverage(r.Coverage.text), Controls: []string{}, Note: r.Note.text}
	for _, c := range r.Controls {
		x.Controls = append(x.Controls, c.text)
	}
	return x
}

func isPath(name string) bool {
	return strings.Contains(name, "/") || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

// clean gives a file one name, which is a path whatever its ending is.
func clean(name string) string {
	if !isPath(name) {
		return name
	}
	if name = filepath.Clean(name); !strings.Contains(name, "/") {
		name = "./" + name
	}
	return name
}

func read(name string) ([]byte, error) {
	if isPath(name) {
		return atomicfile.ReadBounded(name, maxFile)
	}
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("no profile is called %q: there are %s; give a file of your own by its path, as ./%s.yaml", name, strings.Join(Names(), ", "), name)
	}
	return builtin.ReadFile("profiles/" + name + ".yaml")
}
