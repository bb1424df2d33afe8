package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/cmd/internal/stack/compose"
)

// composeFlags say which files are read.
type composeFlags struct {
	files, env, profiles []string
	ignore               bool
}

const composeHelp = `Files are merged in the order of -c; without it, compose.yaml, compose.yml or
docker-compose.yml here is read. Variables in them are those of the environment, then
those of --env-file, or of .env beside the first file. Services with profiles are left
out unless --profile, or COMPOSE_PROFILES, names one.

A key that cannot be had is an error with file and line; --ignore-unsupported goes on
without it, and says so. docs/operations.md lists all keys.`

func (f *composeFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.StringArrayVarP(&f.files, "compose-file", "c", nil, "compose `file`; - for standard input")
	s.StringArrayVar(&f.env, "env-file", nil, "`file` of variables (default .env)")
	s.StringArrayVar(&f.profiles, "profile", nil, "services of this profile, too; * for all")
	s.BoolVar(&f.ignore, "ignore-unsupported", false, "go on without the keys that cannot be had, and list them")
	s.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName { return pflag.NormalizedName(name) })
	alias(s, "file", "compose-file")
}

// read reads the files for the stack of that name.
func (a *app) readCompose(ctx context.Context, f *composeFlags, name string) (*compose.Read, error) {
	o := compose.Options{Stack: name, Files: f.files, Stdin: a.Stdin, EnvFiles: f.env, Profiles: f.profiles}
	if a.Environ != nil {
		o.Environ = a.Environ()
	}
	r, err := compose.Load(ctx, o)
	if err != nil {
		return nil, a.composeError(err)
	}
	for _, p := range r.Unsupported {
		if f.ignore {
			fmt.Fprintf(a.Stderr, "redoubt: warning: dropped: %s\n", printable(p.String()))
		}
	}
	if len(r.Unsupported) > 0 && !f.ignore {
		return nil, a.composeError(&compose.Error{Problems: r.Unsupported})
	}
	return r, nil
}

// composeError is one line that says what is wrong; of more than one problem each has
// a line before it.
func (a *app) composeError(err error) error {
	var e *compose.Error
	if !errors.As(err, &e) || len(e.Problems) == 1 {
		return err
	}
	for _, p := range e.Problems {
		fmt.Fprintf(a.Stderr, "redoubt: %s\n", printable(p.String()))
	}
	return fmt.Errorf("the files have %d problems: nothing was done", len(e.Problems))
}

func (a *app) stackConfigCmd() *cobra.Command {
	var files composeFlags
	c := &cobra.Command{
		Use: "config [flags]", Short: "Show what compose files come to",
		Long: `config reads compose files as stack deploy does, and prints them merged, with their
variables filled in, as one file. It asks no cluster. What variables hold is in the
output, but not what secrets do.

` + composeHelp,
		Example: `  redoubt stack config -c compose.yml -c production.yml`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.readCompose(c.Context(), &files, "")
			if err != nil {
				return err
			}
			a.warn(r.Warnings)
			text, err := r.Model()
			if err != nil {
				return err
			}
			fmt.Fprint(a.Stdout, printableText(string(text)))
			return nil
		},
	}
	files.add(c)
	return c
}
