package compose

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzLoad: whatever a file holds, it is read or refused, in bounded time, and a refusal
// says which file.
func FuzzLoad(f *testing.F) {
	for _, name := range []string{"full.yml", "voting.yml", "included/base.yml"} {
		text, err := os.ReadFile(filepath.Join("testdata/golden", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("services: {a: &a {image: x, <<: *a}}")
	f.Add("services:\n  a: {image: '${A:-${B:-$$}}', extends: {service: b}}\n  b: {image: b, ports: ['1-3:1-3']}\n")
	f.Add("networks: {n: !reset null}\nservices: {a: !override {image: b}}")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		t.Chdir(dir)
		begun := time.Now()
		r, err := Load(t.Context(), Options{Stack: "shop", Files: []string{"-"}, Stdin: strings.NewReader(text), Environ: []string{"A=" + strings.Repeat("a", 1000)}})
		if err == nil {
			_, err = r.Stack()
			if _, merr := r.Model(); merr != nil {
				t.Errorf("it cannot be shown: %v", merr)
			}
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || len(e.Problems) == 0) {
			t.Errorf("an error that names nothing: %v", err)
		}
		for _, p := range e.problems() {
			if p.File == "" && !strings.HasPrefix(p.Text, "and ") {
				t.Errorf("a problem of no file: %v", p)
			}
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func (e *Error) problems() []Problem {
	if e == nil {
		return nil
	}
	return e.Problems
}

// TestBombs: what would grow without end is refused before it does.
func TestBombs(t *testing.T) {
	var aliases strings.Builder
	aliases.WriteString("x-a0: &a0 [1,2,3,4,5,6,7,8,9]\n")
	for i := 1; i < 30; i++ {
		p := string(rune('a' + i - 1))
		if i == 1 {
			p = "a0"
		}
		n := string(rune('a' + i))
		aliases.WriteString("x-" + n + ": &" + n + " [" + strings.TrimSuffix(strings.Repeat("*"+p+",", 9), ",") + "]\n")
		if i == 25 {
			break
		}
	}
	long := "A=" + strings.Repeat("a", 100_000)
	for name, c := range map[string]struct{ text, want string }{
		"aliases":   {aliases.String() + "services: {a: {image: x}}\n", "more than 100000 values, with aliases written out"},
		"depth":     {"x-a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "\n", "nested more than 48 deep"},
		"variables": {"services: {a: {image: x, command: ['" + strings.Repeat("${A}", 100) + "']}}\n", "variables add more than"},
		"search":    {"services: {a: {image: x, command: ['" + strings.Repeat("${B:-", 60_000) + "']}}\n", "too many for so long a text"},
		"size":      {"# " + strings.Repeat("x", maxFile), "it is longer than 1048576 bytes"},
		"services":  {"services:\n" + many(maxServices+1), "there are 501 services: at most 500 are allowed"},
	} {
		begun := time.Now()
		_, err := Load(t.Context(), Options{Stack: "shop", Files: []string{"-"}, Stdin: strings.NewReader(c.text), Environ: []string{long}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "standard input") {
			t.Errorf("%s: %v; want %s", name, err, c.want)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("  s" + strings.Repeat("x", i/26/26+1) + string(rune('a'+i/26%26)) + string(rune('a'+i%26)) + ": {image: a}\n")
	}
	return b.String()
}
