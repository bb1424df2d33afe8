package profile

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

func ids() []string {
	var all []string
	for _, c := range control.All() {
		all = append(all, c.ID)
	}
	return all
}

// TestBuiltIn: the profiles that come with it are in order, and the baseline has
// every control.
func TestBuiltIn(t *testing.T) {
	want := []string{"cis-docker-1.6", "disa-docker-v2r2", "nist-800-190", "nist-800-207", Baseline}
	if got := Names(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, name := range Names() {
		p, err := Load(name, ids())
		if err != nil {
			t.Fatal(err)
		}
		if p.ID != name || p.Source == "" || len(p.Controls()) == 0 {
			t.Errorf("%s: %s of %q with %v", name, p.ID, p.Source, p.Controls())
		}
		for _, r := range p.Requirements {
			if r.Family == "" {
				t.Errorf("%s: %s has no family", name, r.ID)
			}
		}
		if name == Baseline && (!slices.Equal(p.Controls(), ids()) || p.Count(Full)+p.Count(Partial) != len(p.Requirements)) {
			t.Errorf("%s has %v: every control belongs into it, and judges something", name, p.Controls())
		}
	}
	cis, err := Load("cis-docker-1.6", ids())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 9 {
		id := fmt.Sprintf("7.%d", i+1)
		if !slices.ContainsFunc(cis.Requirements, func(r Requirement) bool { return r.ID == id }) {
			t.Errorf("section 7 has no %s", id)
		}
	}
}

// TestNotMoreThanIsJudged: what controls judge in part is not said to be covered.
func TestNotMoreThanIsJudged(t *testing.T) {
	for name, want := range map[string]map[string]Coverage{
		Baseline:           {"keys.sealed": Partial, "keys.memory": Partial, "daemons.programs": Partial, "identity.managers": Partial},
		"cis-docker-1.6":   {"2.1": Partial, "3.14": Partial, "7.1": Full, "7.2": None, "7.5": Partial},
		"disa-docker-v2r2": {"V-235848": Full, "V-235864": Partial, "V-235873": None},
	} {
		p, err := Load(name, ids())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Requirements {
			if c, ok := want[r.ID]; ok && r.Coverage != c {
				t.Errorf("%s: %s is covered %s, want %s", name, r.ID, r.Coverage, c)
			}
		}
	}
}

// TestNamesake: a file does not pass for what is built in, and says by its sum that
// something in it, or in what it includes, is another.
func TestNamesake(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, id := range []string{Baseline, Baseline + ".node", "nist-800-190"} {
		if _, err := Load(file("a.yaml", strings.Replace(small, "id: small", "id: "+id, 1)), known); err == nil || !strings.Contains(err.Error(), "is built in: give") {
			t.Errorf("%s: %v", id, err)
		}
	}
	sums := map[string]bool{}
	for _, text := range []string{small, strings.Replace(small, "[lock, bolt]", "[lock]", 1)} {
		file("part.yaml", text)
		p, err := Load(file("whole.yaml", "version: 1\nid: whole\ntitle: Whole\ninclude: [./part.yaml]\n"), known)
		if err != nil {
			t.Fatal(err)
		}
		sums[p.SHA256] = true
	}
	if len(sums) != 2 {
		t.Errorf("%v", sums)
	}
}

const small = `version: 1
id: small
title: A small one
requirements:
  - id: A.1
    title: The lock is shut
    coverage: full
    controls: [lock, bolt]
  - id: "7.1"
    title: The wall stands
    coverage: none
    note: nobody looks yet
`

var known = []string{"lock", "bolt", "lamp"}

func TestParse(t *testing.T) {
	f, err := parse([]byte(small), known)
	if err != nil {
		t.Fatal(err)
	}
	if r := f.Requirements[1]; r.ID.text != "7.1" || r.ID.line != 9 {
		t.Errorf("%+v", r)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":          {"coverage: full", "coverage: full\n    colour: red", `line 8: unknown key "colour"`},
		"unknown control":      {"[lock, bolt]", "[lock, bell]", `line 8: A.1: no control is called "bell"`},
		"control twice":        {"[lock, bolt]", "[lock, lock]", "line 8: A.1 names control lock twice"},
		"control as a map":     {"[lock, bolt]", "[{lock: 1}]", "line 8: a text belongs here"},
		"unknown coverage":     {"coverage: full", "coverage: mostly", `line 5: A.1: coverage "mostly" is none of full`},
		"no coverage":          {"    coverage: full\n", "", `line 5: A.1: coverage ""`},
		"full of nothing":      {"    controls: [lock, bolt]\n", "", "line 5: A.1 has no control"},
		"none with a control":  {"coverage: none", "coverage: none\n    controls: [lamp]", "line 9: 7.1 has controls"},
		"none without a note":  {"    note: nobody looks yet\n", "", "line 9: 7.1 is covered by no control: its note must say why"},
		"partial without note": {"coverage: full", "coverage: partial", "line 5: A.1 is covered in part: its note"},
		"outside with control": {"coverage: full", "coverage: outside", "line 5: A.1 has controls"},
		"markup in an id":      {"id: A.1", `id: "<b>"`, "line 5: a requirement's id"},
		"no id":                {"id: A.1\n    title", "title", "a requirement's id"},
		"no title":             {"    title: The wall stands\n", "", "line 9: 7.1 has no title"},
		"a line break":         {"title: The wall stands", `title: "a\nb"`, "line 10: a text is one line"},
		"an escape sequence":   {"title: The wall stands", `title: "\e[2J"`, "line 10: a text is one line"},
		"a long text":          {"The wall stands", strings.Repeat("x", maxText+1), "line 10: a text of more than"},
		"an anchor":            {"[lock, bolt]", "&x [lock, bolt]", "line 8: anchors and aliases"},
		"another version":      {"version: 1", "version: 2", "version 2"},
		"a bad id":             {"id: small", "id: Small/er", `line 2: id "Small/er"`},
		"two documents":        {"requirements:", "---\nrequirements:", "more than one YAML document"},
	} {
		text := strings.Replace(small, c.old, c.new, 1)
		if text == small {
			t.Fatalf("%s: %q is not there", name, c.old)
		}
		if _, err := parse([]byte(text), known); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for text, want := range map[string]string{"": "empty", "version: 1\nid: a\ntitle: b\n": "line 2: a requires nothing", strings.Repeat("#", maxFile+1): "larger than"} {
		if _, err := parse([]byte(text), known); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

// TestInclude: profiles of others come before one's own, once, and never in a ring.
func TestInclude(t *testing.T) {
	dir := t.TempDir()
	write := func(name, include, requirement string) {
		t.Helper()
		text := "version: 1\nid: " + strings.TrimSuffix(filepath.Base(name), ".yaml") + "\ntitle: t\ninclude: [" + include + "]\n"
		if requirement != "" {
			text += "requirements:\n  - {id: " + requirement + ", title: t, coverage: full, controls: [lock]}\n"
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", "sub/b.yaml, c.yaml", "A")
	write("sub/b.yaml", "../c.yaml", "B")
	write("c.yaml", "", "C")
	p, err := Load(filepath.Join(dir, "a.yaml"), known)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range p.Requirements {
		got = append(got, r.ID)
	}
	if p.ID != "a" || !slices.Equal(got, []string{"C", "B", "A"}) {
		t.Errorf("%s %v", p.ID, got)
	}

	write("own.yaml", Baseline, "mine")
	if p, err := Load(filepath.Join(dir, "own.yaml"), append(ids(), "lock")); err != nil || p.Requirements[len(p.Requirements)-1].ID != "mine" || len(p.Requirements) < 12 {
		t.Errorf("with the baseline: %+v, %v", p, err)
	}

	write("ring.yaml", "sub/ring.yaml", "R")
	write("sub/ring.yaml", "../ring.yaml", "S")
	write("self.yaml", "./self.yaml", "R")
	write("twice.yaml", "c.yaml", "C")
	write("lost.yaml", "nowhere.yaml", "R")
	write("name.yaml", "nothing", "R")
	for i := range maxDepth + 1 {
		write(fmt.Sprintf("deep%d.yaml", i), fmt.Sprintf("deep%d.yaml", i+1), "")
	}
	for name, want := range map[string]string{
		"ring.yaml":  "sub/ring.yaml: line 4: includes",
		"self.yaml":  "self.yaml: line 4: includes",
		"twice.yaml": "twice.yaml: line 6: requirement C is there already, in ",
		"lost.yaml":  "lost.yaml: line 4: ",
		"name.yaml":  `line 4: no profile is called "nothing"`,
		"deep0.yaml": "profiles within each other",
	} {
		if _, err := Load(filepath.Join(dir, name), known); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	t.Chdir(dir) // names without a directory are the same files
	if _, err := Load("self.yaml", known); err == nil || !strings.Contains(err.Error(), "./self.yaml → ./self.yaml") {
		t.Errorf("self.yaml: %v", err)
	}
	if _, err := Load("./none.yaml", known); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	if _, err := Load("none", known); err == nil || !strings.Contains(err.Error(), "there are cis-docker-1.6, ") {
		t.Errorf("none: %v", err)
	}
}

// TestWithin: a part of a profile is called so, has what is left of each requirement
// and nothing that its controls cannot judge, and leaves the whole alone.
func TestWithin(t *testing.T) {
	p := &Profile{ID: "p", Title: "All", Requirements: []Requirement{
		{ID: "both", Coverage: Full, Controls: []string{"lamp", "lock"}},
		{ID: "kept", Coverage: Full, Controls: []string{"lock"}},
		{ID: "left", Coverage: Full, Controls: []string{"lamp"}},
		{ID: "open", Coverage: None, Note: "nobody looks"},
	}}
	part := p.Within("door", "the door", func(id string) bool { return id == "lock" })
	var got []string
	for _, r := range part.Requirements {
		got = append(got, fmt.Sprint(r.ID, " ", r.Coverage, " ", r.Controls, " ", r.Note))
	}
	if want := []string{"both partial [lock] Of the door alone.", "kept full [lock] ", "open none [] nobody looks"}; part.ID != "p.door" || part.Title != "All (the door)" || !slices.Equal(got, want) {
		t.Errorf("%s, %s: %q", part.ID, part.Title, got)
	}
	if len(p.Requirements) != 4 || len(p.Requirements[0].Controls) != 2 || p.Requirements[0].Coverage != Full {
		t.Errorf("the whole is now %+v", p)
	}
}

// FuzzParse: whatever is read is refused in one line, or holds to what is promised
// of a requirement.
func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	for _, name := range Names() {
		data, err := read(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("version: 1\nid: a\ntitle: b\nrequirements: [{id: *x}]"))
	f.Add([]byte("d\n\n''\n\n"))
	known := append(ids(), known...)
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &loader{known: known, ids: map[string]string{}, sum: sha256.New(), read: func(name string) ([]byte, error) {
			if name == "./it.yaml" {
				return data, nil
			}
			return nil, errors.New("there is one file")
		}}
		if _, err := l.load("./it.yaml", nil); err != nil {
			if err.Error() == "" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, r := range l.all {
			if seen[r.ID] || r.Title == "" || (len(r.Controls) > 0) != (r.Coverage == Full || r.Coverage == Partial) {
				t.Fatalf("%+v", r)
			}
			seen[r.ID] = true
		}
	})
}
