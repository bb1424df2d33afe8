package cli

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Every command that does something shows how, by examples that begin with the
// command itself, and says in a line what it is for. What its flags take has a name of
// one word: cobra takes the first words in backquotes for one.
func TestHelpHasExamples(t *testing.T) {
	root := Root(Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }})
	n := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if !sub.Hidden && sub.Name() != "help" && sub.Name() != "completion" {
				walk(sub)
			}
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its line is %q", c.CommandPath(), c.Short)
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if strings.Contains(f.DefValue, ownDir()) {
				t.Errorf("%s: the default of --%s is of this machine: %s", c.CommandPath(), f.Name, f.DefValue)
			}
			if name, _ := pflag.UnquoteUsage(f); strings.Contains(name, " ") {
				t.Errorf("%s: --%s takes %q: no backquotes in what a flag is for", c.CommandPath(), f.Name, name)
			}
		})
		if c.HasSubCommands() && c.Name() != "registry" || c.IsAdditionalHelpTopicCommand() || strings.Contains(c.Short, "not there yet") {
			return
		}
		n++
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: no example of it in its help:\n%s", c.CommandPath(), c.Example)
		}
	}
	walk(root)
	if n < 30 {
		t.Errorf("only %d commands were looked at", n)
	}
}
