package cli

import (
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// objects are what arguments and flags name of the cluster, as usages have them.
var objects = []string{"SERVICE", "TASK", "NODE", "SECRET", "CONFIG", "NETWORK", "POLICY", "STACK", "ROLE", "PERSON", "APPROVAL", "WAIVER", "CONTROL", "REPORT", "WHO", "VERB", "VOLUME"}

// objectFlags name objects; enumFlags take one of a few words.
var (
	objectFlags = []string{"node", "network", "network-add", "network-rm", "secret", "secret-add", "secret-rm", "config", "config-add", "config-rm", "sign-with", "context", "profile", "witness", "as"}
	enumFlags   = []string{"format", "mode", "isolation", "availability", "endpoint-mode", "update-order", "rollback-order", "update-failure-action", "rollback-failure-action", "restart-condition"}
)

// TestEveryObjectIsCompleted: whatever names an object of the cluster, as an argument or
// by a flag, is filled in where a shell asks for it.
func TestEveryObjectIsCompleted(t *testing.T) {
	root := Root(Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }})
	word := regexp.MustCompile(`[A-Z][A-Z-]+`)
	args, flags := 0, 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if !sub.Hidden && sub.Name() != "help" && sub.Name() != "completion" && sub.Name() != "lab" {
				walk(sub)
			}
		}
		made := slices.Contains([]string{"create", "set", "verify"}, c.Name()) // it names what is not there yet, or a file
		if !made && slices.ContainsFunc(word.FindAllString(c.Use, -1), func(w string) bool { return slices.Contains(objects, w) }) {
			args++
			if c.ValidArgsFunction == nil {
				t.Errorf("redoubt completes nothing of `%s`", c.UseLine())
			}
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !slices.Contains(objectFlags, f.Name) && !slices.Contains(enumFlags, f.Name) || f.Value.Type() == "bool" || c.Parent() != nil && c.Parent().Name() == "stack" && f.Name == "profile" { // of the compose file
				return
			}
			flags++
			if _, ok := c.GetFlagCompletionFunc(f.Name); !ok {
				t.Errorf("%s completes nothing of --%s", c.CommandPath(), f.Name)
			}
		})
	}
	walk(root)
	if args < 40 || flags < 30 {
		t.Errorf("only %d commands and %d flags were looked at", args, flags)
	}
}
