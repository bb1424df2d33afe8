package compose

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"go.yaml.in/yaml/v4"
)

var update = flag.Bool("update", false, "rewrite what files come to")

// TestGolden: files come to what stands beside them.
func TestGolden(t *testing.T) {
	t.Chdir("testdata/golden")
	files, _ := filepath.Glob("*.yml")
	if len(files) < 2 {
		t.Fatal("there are no files")
	}
	for _, name := range files {
		o := Options{Stack: "shop", Files: []string{name}, Profiles: []string{"front"}, Environ: []string{"TOKEN=abc", "FROM_HERE=here"}}
		r, err := Load(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var notes []any
		for _, p := range r.Unsupported {
			notes = append(notes, p.String())
		}
		s, err := r.Stack()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string][]any{"unsupported": notes}
		add := func(what string, m proto.Message) {
			b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			out[what] = append(out[what], json.RawMessage(b))
		}
		for _, n := range s.Networks {
			add("networks", n)
		}
		for _, v := range s.Volumes {
			add("volumes", v)
		}
		for _, x := range s.Secrets {
			add("secrets", x.Spec)
			out["secret data"] = append(out["secret data"], string(x.Data))
		}
		for _, x := range s.Configs {
			add("configs", x)
		}
		for _, x := range s.Policies {
			add("policies", x)
		}
		for _, x := range s.Services {
			add("services", x)
		}
		b, err := json.MarshalIndent(out, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden := strings.TrimSuffix(name, ".yml") + ".json"
		if *update {
			if err := os.WriteFile(golden, append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || !bytes.Equal(bytes.TrimSpace(want), b) {
			t.Errorf("%s comes to another stack than %s (%v): run with -update, and look at the difference", name, golden, err)
		}
		// What is merged is a compose file again, of the same stack.
		text, err := r.Model()
		if err != nil || !bytes.HasPrefix(text, []byte("name: shop\n")) {
			t.Errorf("%s is merged into %.60s, %v", name, text, err)
		}
	}
}

// TestKeys: every key that the table says is understood is in the file that has all.
func TestKeys(t *testing.T) {
	var roots []*yaml.Node
	for _, name := range []string{"full.yml", "included/part.yml"} {
		text, err := os.ReadFile(filepath.Join("testdata/golden", name))
		if err != nil {
			t.Fatal(err)
		}
		var n yaml.Node
		if err := yaml.Unmarshal(text, &n); err != nil {
			t.Fatal(err)
		}
		roots = append(roots, &n)
	}
	for _, k := range Keys {
		found := false
		for _, n := range roots {
			found = found || has(n, parts(k.Path))
		}
		if !found {
			t.Errorf("%s is in no file of testdata/golden", k.Path)
		}
	}
}

func has(n *yaml.Node, path []string) bool {
	if len(path) == 0 {
		return true
	}
	n = resolved(n)
	switch path[0] {
	case "*":
		for i := 1; i < len(n.Content); i += 2 {
			if has(n.Content[i], path[1:]) {
				return true
			}
		}
	case "[]":
		for _, c := range n.Content {
			if has(c, path[1:]) {
				return true
			}
		}
	default:
		c, _ := child(n, path[0])
		return c != nil && has(c, path[1:])
	}
	return false
}

// TestKeysInDocs: docs/operations.md has the table of Keys.
func TestKeysInDocs(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- compose keys -->\n", "<!-- end of compose keys -->\n"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/operations.md has no place for the table")
	}
	want := before + begin + keyTable() + end + after
	if *update {
		if err := os.WriteFile("../../../../docs/operations.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(text) {
		t.Error("the table of keys in docs/operations.md is another one: run with -update")
	}
}

func keyTable() string {
	var b strings.Builder
	b.WriteString("\n| key | |\n|---|---|\n")
	for _, k := range Keys {
		b.WriteString("| `" + k.Path + "` | " + strings.ReplaceAll(k.Note, "<", "\\<") + " |\n")
	}
	b.WriteString("\n")
	return b.String()
}
