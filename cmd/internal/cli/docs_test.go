package cli

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const repo = "../../.."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestExitCodesInDocs: the table of exit codes has those of exit.go, and no others.
func TestExitCodesInDocs(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "exit.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	code := map[string]string{} // to its name
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Exit") {
			code[constant.MakeFromLiteral(v.Values[0].(*ast.BasicLit).Value, token.INT, 0).String()] = v.Names[0].Name
		}
		return true
	})
	_, section, found := strings.Cut(read(t, filepath.Join(repo, "docs/operations.md")), "\n## Exit codes\n")
	if !found {
		t.Fatal("docs/operations.md has no section on exit codes")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var told []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(section, -1) {
		told = append(told, m[1])
	}
	if have := slices.Sorted(maps.Keys(code)); len(have) < 8 || !slices.Equal(told, have) {
		t.Errorf("docs/operations.md tells of %v, and exit.go has %v", told, code)
	}
}

// spans are what is written as code in a text: between backticks in a line, and lines of
// fenced blocks.
func spans(text string) (out []string) {
	fenced := false
	inline := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
			code, _, _ := strings.Cut(line, " #")
			out = append(out, strings.TrimSpace(code))
		default:
			for _, m := range inline.FindAllStringSubmatch(line, -1) {
				out = append(out, m[1])
			}
		}
	}
	return out
}

// noCommand are labels in docs/formats.md that begin with the program's name.
var noCommand = regexp.MustCompile(`^redoubt [a-z -]+ v[0-9]+$`)

// TestCommandsInDocs: what the docs tell to type is there, down to its flags.
func TestCommandsInDocs(t *testing.T) {
	paths := []string{"README.md", "SECURITY.md", "CONTRIBUTING.md"}
	if err := filepath.WalkDir(filepath.Join(repo, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if rel, ok := strings.CutPrefix(filepath.ToSlash(path), repo+"/"); ok && strings.HasSuffix(rel, ".md") {
			paths = append(paths, rel)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, path := range paths {
		for _, span := range spans(read(t, filepath.Join(repo, path))) {
			if !strings.HasPrefix(span, "redoubt ") || noCommand.MatchString(span) {
				continue
			}
			seen++
			if why := wrongCommand(span); why != "" {
				t.Errorf("%s: `%s`: %s", path, span, why)
			}
		}
	}
	if seen < 150 {
		t.Errorf("only %d commands were looked at", seen)
	}
}

// TestWrongCommand: the test above finds what it is for.
func TestWrongCommand(t *testing.T) {
	for span, wrong := range map[string]bool{
		"redoubt backup restore FILE": false, "redoubt service logs [-f] NAME": false, "redoubt ca crl > lists.pem": false, "redoubt help formats": false,
		"redoubt lab exec m1 -- redoubt node ls": false, "redoubt store rotate-key [manager-2…]": false,
		"redoubt restore": true, "redoubt compliance --profile": true, "redoubt status --loud": true, "redoubt node --host": false, "redoubt node list-all": true,
		"redoubt status -y": true, "redoubt lab exec m1 -- redoubt nod ls": true,
	} {
		if why := wrongCommand(span); (why != "") != wrong {
			t.Errorf("%s: %q", span, why)
		}
	}
}

// wrongCommand says what of a command line is not there; empty: all is.
func wrongCommand(line string) string {
	root := Root(Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	words := strings.Fields(line)[1:]
	if i := slices.IndexFunc(words, func(w string) bool { return strings.ContainsAny(w[:1], "<>|&;") || w == "2>" || w == "--" }); i >= 0 {
		if rest := words[i+1:]; words[i] == "--" && len(rest) > 1 && rest[0] == "redoubt" {
			if why := wrongCommand(strings.Join(rest, " ")); why != "" {
				return why
			}
		}
		words = words[:i]
	}
	c := root
	for len(words) > 0 {
		next := subcommand(c, words[0])
		if next == nil {
			break
		}
		c, words = next, words[1:]
	}
	if c.HasSubCommands() && len(words) > 0 && regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(words[0]) {
		return "no command is called so"
	}
	c.InheritedFlags() // has them in Flags
	c.InitDefaultHelpFlag()
	for _, w := range words {
		w = strings.Trim(w, "[]")
		name, _, _ := strings.Cut(w, "=")
		if long, ok := strings.CutPrefix(name, "--"); ok && c.Flags().Lookup(long) == nil {
			return c.CommandPath() + " has no flag --" + long
		} else if short, is := strings.CutPrefix(name, "-"); is && !ok && len(short) == 1 && c.Flags().ShorthandLookup(short) == nil {
			return c.CommandPath() + " has no flag -" + short
		}
	}
	return ""
}

func subcommand(c *cobra.Command, name string) *cobra.Command {
	for _, sub := range c.Commands() {
		if sub.Name() == name || sub.HasAlias(name) {
			return sub
		}
	}
	return nil
}
