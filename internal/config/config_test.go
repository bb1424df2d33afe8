package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type section struct {
	Name string `yaml:"name"`
	Size int    `yaml:"size"`
}

func write(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	s := section{Name: "default", Size: 7}
	err := Load(write(t, "rund:\n  whatever: [1]\nnode:\n  name: n1\n"), map[string]any{"node": &s})
	if err != nil || s.Name != "n1" || s.Size != 7 {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := Load(write(t, ""), map[string]any{"node": &s}); err != nil {
		t.Fatalf("empty file: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"node:\n  name: a\n  colour: red\n": `line 3: unknown key "colour"`,
		"nodes:\n  name: a\n":               `line 1: unknown key "nodes"`,
		"node:\n  size: many\n":             "line 2: a text `many` stands where there should be a number",
		"node:\n  name: a\n  name: b\n":     `line 3: mapping key "name" already defined at line 2`,
		"node: {name: a}\n---\nnode: {}\n":  "more than one YAML document",
		"node: [\n":                         "line",
		"rund: 3\n":                         "line 1: a number `3` stands where there should be a mapping",
	} {
		var s section
		err := Load(write(t, text), map[string]any{"node": &s})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q on one line", text, err, want)
		}
	}
}

func TestLoadRefusesUntrustedFiles(t *testing.T) {
	path := write(t, "node: {}\n")
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, nil); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("world-writable: %v", err)
	}
	os.Chmod(path, 0o644)
	if err := os.Chown(path, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, nil); err == nil || !strings.Contains(err.Error(), "chown") {
		t.Errorf("not root's: %v", err)
	}
	if err := Load(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Error("a missing file at a path somebody named was accepted")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("node:\n  name: a\n"))
	f.Add([]byte("node: &a {name: x}\nrund: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s section
		if err := Decode(data, map[string]any{"node": &s}); err != nil && err.Error() == "" {
			t.Fatal("an error that says nothing")
		}
	})
}
