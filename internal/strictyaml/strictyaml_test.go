package strictyaml

import (
	"errors"
	"io"
	"strings"
	"testing"
)

type sheet struct {
	Name string   `yaml:"name"`
	Size int      `yaml:"size"`
	Tags []string `yaml:"tags"`
}

func TestDecode(t *testing.T) {
	s := sheet{Size: 7}
	if err := Decode([]byte("name: a\ntags: [b]\n"), &s); err != nil || s.Name != "a" || s.Size != 7 || len(s.Tags) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := Decode(nil, &s); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %v", err)
	}
	for text, want := range map[string]string{
		"name: a\ncolour: red\n": `line 2: unknown key "colour"`,
		"name: a\nname: b\n":     `line 2: mapping key "name" already defined at line 1`,
		"size: many\n":           "line 1: a text `many` stands where there should be a number",
		"name: a\n---\nname: b":  "more than one YAML document",
		"name: [\n":              "line",
		"tags: b\n":              "line 1: a text `b` stands where there should be a list",
		"name: [b]\n":            "line 1: a list stands where there should be a text",
		"tags: {b: 1}\n":         "line 1: a mapping stands where",
		"d\n\n''\n":              "line 1: a text `d ''` stands where there should be a mapping",
	} {
		if err := Decode([]byte(text), &sheet{}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q on one line", text, err, want)
		}
	}
}

func TestTree(t *testing.T) {
	if root, err := Tree([]byte("\nname: a\n")); err != nil || root.Content[0].Content[1].Line != 2 {
		t.Errorf("%+v, %v", root, err)
	}
	if _, err := Tree(nil); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %v", err)
	}
	for text, line := range map[string]string{"name: a\ntags: [&x b, c]\n": "line 2", "a: {b: [c, &y d]}": "line 1", "a: &z [1]\nb: *z\n": "line 1"} {
		if _, err := Tree([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), line+": anchors") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("name: &a x\ntags: [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := Decode(data, &sheet{}); err != nil && (err.Error() == "" || strings.Contains(err.Error(), "\n")) {
			t.Fatalf("%q", err)
		}
	})
}
