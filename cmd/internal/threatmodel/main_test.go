package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/threatmodel"
)

// tree is a copy of the model, and the tests of one package, with the text of
// threats.yaml changed.
func tree(t *testing.T, old, new string) string {
	t.Helper()
	data, err := os.ReadFile("../../../threatmodel/threats.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), old, new, 1)
	if old != new && text == string(data) {
		t.Fatalf("%q is not there", old)
	}
	m, err := threatmodel.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"threatmodel/threats.yaml": text}
	for _, x := range m.Mitigations {
		for pkg, names := range x.Tests {
			for _, name := range names {
				kind := "T"
				if strings.HasPrefix(name, "Fuzz") {
					kind = "F"
				}
				files[filepath.Join(pkg, name+"_test.go")] = "package x\n\nimport \"testing\"\n\nfunc " + name + "(t *testing." + kind + ") {}\n"
			}
		}
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestRun(t *testing.T) {
	root := tree(t, "", "")
	if err := run(root, true, "", threatmodel.Unit); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"threat-model.md", "threat-model.otm.json"} {
		if b, err := os.ReadFile(filepath.Join(root, "docs", name)); err != nil || len(b) < 10000 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if err := run(root, false, filepath.Join(root, "threatmodel"), threatmodel.Unit); err == nil || !strings.Contains(err.Error(), "no results") {
		t.Errorf("without results: %v", err)
	}
	if err := run(root, false, "", "stories"); err == nil || !strings.Contains(err.Error(), "-tier stories") {
		t.Errorf("another tier: %v", err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":    {"version: 1\n", "version: 1\ncolour: red\n", `unknown key "colour"`},
		"dangling test":  {"TestHandshakePolicy", "TestHandshakes", "1 findings"},
		"duplicated id":  {"id: T-002", "id: T-001", "1 findings"},
		"past review":    {"review: \"2027-11-30\"", "review: \"2025-11-30\"", "1 findings"},
		"a control":      {"    controls: [", "    controls: [tls-is-on, ", "1 findings"},
		"not a mapping":  {"version: 1\n", "- version: 1\n", "threats.yaml:"},
		"orphaned owner": {"owners:\n", "owners:\n  - {id: nobody, text: x}\n", "1 findings"},
	} {
		root := tree(t, c.old, c.new)
		if err := run(root, true, "", threatmodel.Unit); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if _, err := os.Stat(filepath.Join(root, "docs", "threat-model.md")); err == nil {
			t.Errorf("%s: pages were made of what does not hold together", name)
		}
	}
}
