package threatmodel

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Module is the path that packages of the model are below.
const Module = "github.com/redoubt-cluster/redoubt"

// Tiers of tests: which target of the Makefile runs them.
const (
	Unit    = "test"         // make test
	Interop = "test-interop" // make test-interop: needs tools of others
)

// Test is one test of the tree, by package below Module and by name.
type Test struct{ Package, Name string }

func (t Test) String() string { return t.Package + "." + t.Name }

// Tests are the tests that exist, each with its tier.
type Tests map[Test]string

// FindTests reads the test files below root, which is the module's. A test that
// only builds with a tag is of the tier of that tag; of other tags, it is of none.
func FindTests(root string) (Tests, error) {
	tests := Tests{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skip(root, path, d.Name())
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		return readTests(path, filepath.ToSlash(rel), tests)
	})
	return tests, err
}

// skip passes over what is not of this module, as the go command does.
func skip(root, path, name string) error {
	if path == root {
		return nil
	}
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func readTests(path, pkg string, into Tests) error {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	tier := tierOf(f)
	if tier == "" {
		return nil
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !isTest(fn) {
			continue
		}
		into[Test{pkg, fn.Name.Name}] = tier
	}
	return nil
}

// isTest tells what `go test` runs by its name: TestX(*testing.T), FuzzX(*testing.F).
func isTest(fn *ast.FuncDecl) bool {
	for prefix, kind := range map[string]string{"Test": "T", "Fuzz": "F"} {
		rest, ok := strings.CutPrefix(fn.Name.Name, prefix)
		if !ok || len(fn.Type.Params.List) != 1 || fn.Name.Name == "TestMain" {
			continue
		}
		if r, _ := utf8.DecodeRuneInString(rest); rest != "" && unicode.IsLower(r) {
			continue
		}
		star, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr)
		if !ok {
			continue
		}
		if sel, ok := star.X.(*ast.SelectorExpr); ok && sel.Sel.Name == kind {
			return true
		}
	}
	return false
}

// tierOf judges the file's build constraint on the machines that tests run on.
func tierOf(f *ast.File) string {
	for _, g := range f.Comments {
		if g.Pos() > f.Package {
			break
		}
		for _, line := range g.List {
			if !constraint.IsGoBuild(line.Text) {
				continue
			}
			expr, err := constraint.Parse(line.Text)
			if err != nil {
				return ""
			}
			here := []string{"linux", "unix", "amd64", "gc"}
			if expr.Eval(func(tag string) bool { return slices.Contains(here, tag) }) {
				return Unit
			}
			if expr.Eval(func(tag string) bool { return tag == "interop" || slices.Contains(here, tag) }) {
				return Interop
			}
			return ""
		}
	}
	return Unit
}

// each visits the tests that mitigations name, in order.
func (m *Model) each(visit func(line int, id string, t Test)) {
	for i, x := range m.Mitigations {
		for _, t := range x.tests() {
			visit(m.lines[fmt.Sprintf("mitigations[%d]", i)], x.ID, t)
		}
	}
}

// tests are those of a mitigation, in order of package and name.
func (x Mitigation) tests() []Test {
	var all []Test
	for _, pkg := range slices.Sorted(maps.Keys(x.Tests)) {
		for _, name := range slices.Sorted(slices.Values(x.Tests[pkg])) {
			all = append(all, Test{pkg, name})
		}
	}
	return all
}

// CheckTests finds the tests that the model names and the tree does not have.
func (m *Model) CheckTests(tests Tests) []Finding {
	var found []Finding
	m.each(func(line int, id string, t Test) {
		if _, ok := tests[t]; ok {
			return
		}
		what := fmt.Sprintf("dangling: %s has no test %s that make test or make test-interop runs", t.Package, t.Name)
		if others := tests.of(t.Name); len(others) > 0 {
			what += "; there is one in " + strings.Join(others, ", ")
		}
		found = append(found, Finding{line, id, what})
	})
	return found
}

// of are the packages that have a test of that name.
func (tests Tests) of(name string) []string {
	var pkgs []string
	for t := range tests {
		if t.Name == name {
			pkgs = append(pkgs, t.Package)
		}
	}
	slices.Sort(pkgs)
	return pkgs
}

// Count is how much the model has, and how many tests of each tier it names.
type Count struct{ Threats, Mitigations, Unit, Interop, Controls int }

// Count counts each test and control once.
func (m *Model) Count(tests Tests) Count {
	n := Count{Threats: len(m.Threats), Mitigations: len(m.Mitigations)}
	named, controls := map[Test]bool{}, map[string]bool{}
	m.each(func(_ int, _ string, t Test) {
		if named[t] {
			return
		}
		named[t] = true
		if tests[t] == Interop {
			n.Interop++
		} else {
			n.Unit++
		}
	})
	for _, x := range m.Mitigations {
		for _, id := range x.Controls {
			controls[id] = true
		}
	}
	n.Controls = len(controls)
	return n
}
