// Package cli is the redoubt command: what operators and developers type.
//
// It owns flags, prompts, tables, progress and exit codes, and nothing of the
// cluster: every verb is a call over the node's own socket (gRPC on api.sock,
// keyd's wire on unlock.sock for the one thing that must not pass through
// redoubtd). The flag names and forms are Docker's where Docker has them.
//
// It refuses to take a key or a token from the command line, where every user
// of the machine can read it: they come from standard input, a file or a file
// descriptor. It shows a key once, when it is made.
//
// Results go to stdout, everything else to stderr; an error is one line that
// starts with "redoubt:" and names the remedy. Exit codes are in exit.go.
//
//	os.Exit(cli.Main(ctx, cli.System(), os.Args[1:]))
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
)

// Env is everything the command touches of the process it runs in.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	// Environ is all of the environment, NAME=value; nil: there is none.
	Environ func() []string
	// Terminal opens the one that the command was typed at, for questions whatever Stdin
	// is; the caller closes it.
	Terminal func() (*os.File, error)
}

// System is the real process.
func System() Env {
	return Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Environ: os.Environ,
		Terminal: func() (*os.File, error) { return os.OpenFile("/dev/tty", os.O_RDWR, 0) }}
}

// app is one run of the command.
type app struct {
	Env
	host    string           // --host
	context string           // --context
	opened  *contexts.Opened // the context in use, once it was opened
	noticed map[string]bool  // notices that were shown
}

// Main runs the command and returns its exit code.
func Main(ctx context.Context, env Env, args []string) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		a.printError(err)
	}
	return exitCode(err)
}

// Root returns the whole command tree, for documentation and tests.
func Root(env Env) *cobra.Command { return (&app{Env: env}).root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "redoubt",
		Short: "A container cluster that trusts nobody",
		Long: `redoubt runs containers on a cluster of machines. Every byte between them and
every byte of cluster state on disk is encrypted, and every caller is known.

Commands talk to this machine's own node, over --host (default
` + defaultHost + `), or as a person to a cluster elsewhere, by a context
(see redoubt context --help).`,
		Example: `  # The first machine: prints the operator key, once
  redoubt init

  # One more worker: prints what to run on it
  redoubt join-token worker

  # Three replicas of an image, port 8080 of their nodes
  redoubt service create --name web --replicas 3 -p published=8080,target=80,mode=host registry.example/web:1`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	group(root)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return flagError(c, err) })
	root.PersistentFlags().StringVarP(&a.host, "host", "H", "", "the node's socket, unix:///path/api.sock (or set REDOUBT_HOST)")
	root.PersistentFlags().StringVar(&a.context, "context", "", "the context to go by (or set REDOUBT_CONTEXT); default: the one that redoubt context use set")
	_ = root.RegisterFlagCompletionFunc("context", a.contextNames) // fails only where a flag gets two
	root.AddCommand(
		a.initCmd(), a.joinCmd(), a.leaveCmd(), a.unlockCmd(), a.unlockKeyCmd(), a.autolockCmd(), a.caCmd(), a.storeCmd(), a.backupCmd(), a.recoverCmd(), a.joinTokenCmd(), a.admissionCmd(),
		a.nodeCmd(), a.serviceCmd(), a.placementCmd(), a.stackCmd(), a.networkCmd(), a.volumeCmd(), a.policyCmd(), a.authCmd(), a.approvalCmd(), a.secretCmd(), a.configCmd(), a.imageCmd(), a.statusCmd(), a.doctorCmd(), a.topCmd(), a.eventsCmd(), a.complianceCmd(), a.versionCmd(), a.labCmd(),
		&cobra.Command{Use: "formats", Short: "About --format and --filter", Long: formatsHelp},
	)
	root.AddCommand(a.personCmd(), a.breakGlassCmd(), a.contextCmd(), a.whoamiCmd(), a.lockCmd())
	addTo(root, "ca", "See and manage the cluster's certificate authorities", a.caCrlCmd())
	addTo(root, "audit", "See and verify the log of who did what", a.auditVerbs()...)
	addTo(root, "identity", "See and manage what workloads prove themselves with", a.identityVerbs()...)
	a.completions(root)
	return root
}

// addTo adds commands to the group of that name, which is made where it is not
// there.
func addTo(root *cobra.Command, name, short string, cmds ...*cobra.Command) {
	for _, c := range root.Commands() {
		if c.Name() == name {
			c.AddCommand(cmds...)
			return
		}
	}
	c := &cobra.Command{Use: name, Short: short}
	group(c)
	c.AddCommand(cmds...)
	root.AddCommand(c)
}

// group makes c a command that only holds others: alone it shows its help, an
// unknown subcommand is a usage error with suggestions.
func group(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		msg := fmt.Sprintf("unknown command %q", c.CommandPath()+" "+args[0])
		if s := c.SuggestionsFor(args[0]); len(s) > 0 {
			return usagef("%s: did you mean `%s %s`?", msg, c.CommandPath(), s[0])
		}
		return usagef("%s: see `%s --help`", msg, c.CommandPath())
	}
	c.SuggestionsMinimumDistance = 2
}

// args checks the number of arguments, max < 0 meaning any number.
func args(min, max int) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if len(got) >= min && (max < 0 || len(got) <= max) {
			return nil
		}
		return usagef("%s takes %s, not %d: usage is `%s`", c.CommandPath(), countArgs(min, max), len(got), c.UseLine())
	}
}

func countArgs(min, max int) string {
	switch {
	case max == 0:
		return "no arguments"
	case min == max && min == 1:
		return "exactly 1 argument"
	case min == max:
		return fmt.Sprintf("exactly %d arguments", min)
	case max < 0:
		return fmt.Sprintf("at least %d argument(s)", min)
	}
	return fmt.Sprintf("%d to %d arguments", min, max)
}

func flagError(c *cobra.Command, err error) error {
	msg := err.Error()
	if c.Name() == "join" && strings.Contains(msg, "unknown") && strings.Contains(msg, "token") {
		return usagef("a token is not taken from the command line, where every user of this machine can read it: give it on stdin or by --token-file FILE")
	}
	return usagef("%s: see `%s --help`", msg, c.CommandPath())
}

// alias lets a flag be written under another name too.
func alias(fs *pflag.FlagSet, other, name string) {
	old := fs.GetNormalizeFunc()
	fs.SetNormalizeFunc(func(f *pflag.FlagSet, n string) pflag.NormalizedName {
		if n == other {
			n = name
		}
		return old(f, n)
	})
}
