// Package daemon is the main function that Redoubt's daemons share: flags,
// FIPS mode, configuration, passed sockets, logging, sandbox, signals, in that order. What
// is left to a daemon's own main is to name its section, its sandbox and what it
// runs.
//
// All configuration is read before the machine is touched. Exit codes: 0 after
// SIGTERM or SIGINT, 1 for an error, 2 for wrong flags or configuration.
package daemon

import (
	"context"
	"crypto/fips140"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/redoubt-cluster/redoubt/internal/account"
	"github.com/redoubt-cluster/redoubt/internal/config"
	"github.com/redoubt-cluster/redoubt/internal/listenfd"
	"github.com/redoubt-cluster/redoubt/internal/refusal"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/internal/version"
)

// Env is what a daemon was started with.
type Env struct {
	ConfigPath, DataDir, RunDir string
	// ControlUID is redoubtd's user, the only one the helpers' sockets admit.
	ControlUID uint32
	// Listeners are the passed sockets by name.
	Listeners map[string]net.Listener
	Log       *slog.Logger
	// FIPS: calls outside of Go's FIPS 140-3 module fail in this process.
	FIPS bool
	// Protections in force, for people to read.
	Protections []string
}

// Daemon describes one.
type Daemon struct {
	Name string
	// Section of the configuration file, and the pointer it is decoded into; empty:
	// it has none.
	Section string
	Config  any
	// Sockets that must have been passed.
	Sockets []string
	// Tell names the socket at which callers are told why the configuration was
	// refused; empty: none.
	Tell string
	// Flags, when set, declares flags beside those that all daemons have, and
	// returns what reads them once they are parsed.
	Flags func(*flag.FlagSet) func() error
	// Check, when set, looks at flags and configuration before anything is done.
	Check func(Env) error
	// Prepare, when set, does what the daemon may not do any more once the sandbox
	// is on.
	Prepare func(Env) error
	// Sandbox is put on before Run.
	Sandbox func(Env) sandbox.Profile
	// Run serves until ctx ends; nil or ctx's error is a clean exit.
	Run func(ctx context.Context, env Env) error
}

type logConfig struct {
	Level slog.Level `yaml:"level"`
}

// Main never returns.
func Main(d Daemon) { os.Exit(run(d, os.Args[1:], os.Stdout, os.Stderr)) }

func run(d Daemon, args []string, stdout, stderr io.Writer) int {
	env, more, err := parse(d, args, stdout, stderr)
	var refused error
	if err == nil {
		refused = enterFIPS(env.ConfigPath, env.FIPS)
		env.FIPS = fips140.Enforced()
	}
	supervisor := refusal.ToSupervisor()
	var logs logConfig
	if err == nil {
		logs, err = setUp(d, &env, more, refused)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "%s: %v\n", d.Name, err)
		supervisor.Tell(err.Error())
		return 2
	}
	supervisor.Close()
	env.Log = slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: logs.Level})).With("daemon", d.Name)
	slog.SetDefault(env.Log)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if d.Prepare != nil {
		if err := d.Prepare(env); err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", d.Name, err)
			return 1
		}
	}
	if env.Protections, err = sandbox.Apply(d.Sandbox(env)); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", d.Name, err)
		return 1
	}
	if env.FIPS {
		env.Protections = append(env.Protections, fipsMode)
	}
	env.Log.Info("started", "version", version.String(), "protections", env.Protections)
	if err := d.Run(ctx, env); err != nil && !errors.Is(err, context.Canceled) {
		env.Log.Error("stopped", "err", err)
		return 1
	}
	env.Log.Info("stopped")
	return 0
}

// parse reads the flags. What more returns is still to be called.
func parse(d Daemon, args []string, stdout, stderr io.Writer) (env Env, more func() error, err error) {
	fs := flag.NewFlagSet(d.Name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&env.ConfigPath, "config", config.DefaultPath, "configuration `file`")
	fs.StringVar(&env.DataDir, "data-dir", "/var/lib/redoubt", "`directory` of what must survive a reboot")
	fs.StringVar(&env.RunDir, "run-dir", "/run/redoubt", "`directory` of sockets and state that need not")
	fs.BoolVar(&env.FIPS, "fips", false, "run in FIPS mode, as with node.fips in the configuration")
	control := fs.String("control-user", "", "`user` (name or uid) of redoubtd, admitted to the helpers' sockets")
	show := fs.Bool("version", false, "print the version and exit")
	more = func() error { return nil }
	if d.Flags != nil {
		more = d.Flags(fs)
	}
	if err := fs.Parse(args); err != nil {
		return env, more, err
	}
	if *show {
		fmt.Fprintln(stdout, version.String())
		return env, more, flag.ErrHelp
	}
	if fs.NArg() > 0 {
		return env, more, fmt.Errorf("unexpected argument %q: only flags are taken", fs.Arg(0))
	}
	if *control == "" {
		return env, more, errors.New("--control-user is missing: start it through redoubt-node or the packaged units")
	}
	user, err := account.Lookup(*control)
	if err != nil {
		return env, more, fmt.Errorf("--control-user: %w", err)
	}
	env.ControlUID = uint32(user.UID)
	return env, more, nil
}

// setUp reads the configuration and takes the sockets. Callers are told of a refusal,
// that one or another.
func setUp(d Daemon, env *Env, more func() error, refused error) (logs logConfig, err error) {
	if err := more(); err != nil {
		return logs, err
	}
	sections := map[string]any{"log": &logs}
	if d.Section != "" {
		sections[d.Section] = d.Config
	}
	if refused == nil {
		refused = config.Load(env.ConfigPath, sections)
	}
	if refused == nil && d.Check != nil {
		refused = d.Check(*env)
	}
	env.Listeners, err = listenfd.Listeners()
	if refused != nil {
		if l := env.Listeners[d.Tell]; l != nil {
			refusal.Tell(l, refused.Error())
		}
		return logs, refused
	}
	if err != nil {
		return logs, err
	}
	for _, name := range d.Sockets {
		if env.Listeners[name] == nil {
			return logs, fmt.Errorf("no socket named %q was passed: start it through redoubt-node or the packaged units", name)
		}
	}
	return logs, nil
}
