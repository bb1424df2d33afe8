package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// file is a compose file as it was written.
type file struct {
	path  string // absolute; "-" of standard input
	shown string // as people call it
	named bool   // on the command line
	roots []*yaml.Node
}

// source are all files of a stack, as trees that know their lines. The loader, which
// forgets them, is given only what was read, and found to be bounded, here.
type source struct {
	files  []*file
	expand func(string) (string, error) // variables
	nodes  int
}

var yamlLine = regexp.MustCompile(`line (\d+)(?:, column \d+)?:? ?`)

// open reads a file whose relative references are to dir. content is nil where it is
// to be read from path.
func (s *source) open(path, dir string, content []byte) error {
	f := &file{path: path, shown: shown(path), named: content != nil}
	for _, known := range s.files {
		if known.path == path {
			return nil
		}
	}
	if len(s.files) == maxFiles {
		return failed([]Problem{{File: f.shown, Text: fmt.Sprintf("there are more than %d files", maxFiles)}})
	}
	if content == nil {
		var err error
		if content, err = readRegular(path, maxFile); err != nil {
			return failed([]Problem{{File: f.shown, Text: "it cannot be read: " + reason(err)}})
		}
	}
	s.files = append(s.files, f)
	d := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var n yaml.Node
		err := d.Decode(&n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return failed([]Problem{syntax(f, err)})
		}
		c := &counter{file: f, seen: map[*yaml.Node]extent{}}
		if s.nodes += c.count(&n, nil).size; s.nodes > maxNodes && len(c.problems) == 0 {
			c.problem(&n, "", "the files hold more than %d values, with aliases written out", maxNodes)
		}
		if len(c.problems) > 0 {
			return failed(c.problems)
		}
		f.roots = append(f.roots, &n)
	}
	return s.follow(f, dir)
}

// shown is a path as people write it: relative where that is shorter.
func shown(path string) string {
	if path == "-" {
		return "standard input"
	}
	if wd, err := os.Getwd(); err == nil && wd != "/" {
		if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
			return rel
		}
	}
	return path
}

// reason is an error without the path that is told of anyway.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// readRegular reads a file, and waits for no device or pipe.
func readRegular(path string, limit int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it is longer than %d bytes", limit)
	}
	return b, err
}

// syntax is what the parser of YAML says, and where.
func syntax(f *file, err error) Problem {
	p := Problem{File: f.shown, Text: strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")}
	if all := yamlLine.FindAllStringSubmatch(p.Text, -1); len(all) > 0 { // the last is where it ended
		p.Line, _ = strconv.Atoi(all[len(all)-1][1])
	}
	p.Text = "it is not YAML: " + p.Text
	return p
}

// counter counts the values of a document with its aliases written out, without
// writing them out, and looks at keys.
type counter struct {
	file     *file
	seen     map[*yaml.Node]extent // what has an anchor; zero while it is counted
	problems []Problem
}

// extent is how many values something has, and how deep they are nested.
type extent struct{ size, depth int }

func (c *counter) problem(n *yaml.Node, key, format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, Problem{File: c.file.shown, Line: n.Line, Key: key, Text: fmt.Sprintf(format, args...)})
	}
}

func (c *counter) count(n *yaml.Node, path []string) extent {
	if n.Kind == yaml.AliasNode { // its anchor was before it
		e := c.seen[n.Alias]
		if e.size == 0 {
			c.problem(n, strings.Join(path, "."), "*%s stands within what it stands for", n.Value)
		}
		return e
	}
	if n.Anchor != "" {
		c.seen[n] = extent{}
	}
	if n.Kind == yaml.MappingNode {
		c.keys(n, path)
	}
	e := extent{size: 1}
	for i, child := range n.Content {
		at := path
		if n.Kind == yaml.MappingNode && i%2 == 1 {
			at = append(path[:len(path):len(path)], n.Content[i-1].Value)
		}
		of := c.count(child, at)
		e.size = min(e.size+of.size, maxNodes+1)
		e.depth = max(e.depth, of.depth)
	}
	if e.depth++; e.depth == maxDepth+1 {
		c.problem(n, strings.Join(path, "."), "it is nested more than %d deep", maxDepth)
	}
	if n.Anchor != "" {
		c.seen[n] = e
	}
	return e
}

// keys refuses keys that are there twice, and such as are not text.
func (c *counter) keys(n *yaml.Node, path []string) {
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		key := strings.Join(append(path[:len(path):len(path)], k.Value), ".")
		tag := k.ShortTag()
		switch first, twice := lines[k.Value]; {
		case k.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!merge":
			c.problem(k, key, "a key is text: write it in quotes")
		case twice:
			c.problem(k, key, "the key is there twice, first in line %d", first)
		}
		lines[k.Value] = k.Line
	}
}

// follow opens what a file includes, and what its services extend.
func (s *source) follow(f *file, dir string) error {
	var ps []Problem
	for _, root := range f.roots {
		for _, ref := range references(root) {
			err := s.openRef(ref, dir, f)
			var mine *Error
			if err != nil && !errors.As(err, &mine) {
				mine = &Error{[]Problem{{Text: err.Error()}}}
			}
			if err == nil {
				continue
			}
			for _, p := range mine.Problems {
				if p.Line == 0 { // it is the reference that is wrong
					p = Problem{File: f.shown, Line: ref.at.Line, Key: ref.key, Text: p.String()}
				}
				ps = append(ps, p)
			}
		}
	}
	return failed(ps)
}

// reference is one file that another names.
type reference struct {
	at        *yaml.Node
	key, path string
	// projectDir is what the paths in it are relative to; empty: its directory.
	projectDir string
	// variables: it is no compose file, but one of variables.
	variables bool
}

func (s *source) openRef(r reference, dir string, from *file) error {
	// What variables are there is another matter: those of .env beside it are, too.
	if !from.named && strings.Contains(r.path+r.projectDir, "$") {
		return errors.New("a file that is not named on the command line names others without variables")
	}
	path, err := s.expand(r.path)
	if err != nil {
		return err
	}
	if remote(path) {
		return fmt.Errorf("%q is not on this machine: nothing is fetched for a stack; get it, look at it, and name the file", path)
	}
	base, err := s.expand(r.projectDir)
	if err != nil {
		return err
	}
	path = absolute(dir, path)
	if r.variables {
		if path != "/dev/null" {
			_, err = readRegular(path, maxFile)
		}
		return unreadable(path, err)
	}
	if base == "" {
		base = filepath.Dir(path)
	}
	base = absolute(dir, base)
	beside := filepath.Join(base, ".env")
	if _, err := readRegular(beside, maxFile); r.key == "include" && err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unreadable(beside, err)
	}
	return s.open(path, base, nil)
}

func unreadable(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: it cannot be read: %s", shown(path), reason(err))
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// remote reports whether path is what tools fetch from elsewhere.
func remote(path string) bool {
	return strings.Contains(path, "://") || strings.HasPrefix(path, "git@") || strings.HasPrefix(path, "oci:") || strings.HasPrefix(path, "github.com/")
}

// oneOrMore are the values of a key that has one or a list.
func oneOrMore(n *yaml.Node, key string) []*yaml.Node {
	v, _ := child(n, key)
	if v == nil {
		return nil
	}
	if v = resolved(v); v.Kind == yaml.ScalarNode {
		return []*yaml.Node{v}
	}
	return v.Content
}

// references are those of a document, as written.
func references(root *yaml.Node) (out []reference) {
	if n, _ := child(root, "include"); n != nil {
		for _, item := range resolved(n).Content {
			item = resolved(item)
			if item.Kind == yaml.ScalarNode {
				out = append(out, reference{at: item, key: "include", path: item.Value})
				continue
			}
			var dir string
			if d, _ := child(item, "project_directory"); d != nil {
				dir = resolved(d).Value
			}
			for _, p := range oneOrMore(item, "path") {
				out = append(out, reference{at: p, key: "include", path: resolved(p).Value, projectDir: dir})
			}
			for _, p := range oneOrMore(item, "env_file") {
				out = append(out, reference{at: p, key: "include.env_file", path: resolved(p).Value, variables: true})
			}
		}
	}
	services, _ := child(root, "services")
	if services == nil {
		return out
	}
	for i, n := 1, resolved(services); i < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
		if e, _ := child(n.Content[i], "extends"); e != nil {
			if path, _ := child(e, "file"); path != nil {
				out = append(out, reference{at: path, key: "services." + n.Content[i-1].Value + ".extends.file", path: resolved(path).Value})
			}
		}
	}
	return out
}
