package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
)

// labApp is what the lab's subcommands share.
type labApp struct {
	*app
	name string
}

func (a *app) labCmd() *cobra.Command {
	la := &labApp{app: a}
	c := &cobra.Command{
		Use:   "lab",
		Short: "A whole cluster on this machine, to try and to test with",
		Long: `A lab is a cluster on one machine: each host has a network of its own, its own
containerd and the real daemons. It is for trying and testing; its hosts share
a kernel, and the operator key is kept in a file.`,
		Example: `  redoubt lab up --managers 3 --workers 2
  redoubt lab exec manager-1 -- redoubt node ls
  redoubt lab kill worker-1 --containers
  redoubt lab down`,
	}
	group(c)
	c.PersistentFlags().StringVar(&la.name, "name", "lab", "name of the lab")
	c.AddCommand(la.upCmd(), la.lsCmd(), la.execCmd(), la.loadCmd(), la.imageCmd(), la.registryCmd(),
		la.killCmd(), la.stopCmd(), la.startCmd(), la.cutCmd(), la.healCmd(), la.downCmd(), la.demoCmd())
	return c
}

// ownDir is where this command's binary lies, and with it the others.
func ownDir() string {
	self, err := os.Executable()
	if err != nil {
		return "/usr/bin"
	}
	return filepath.Dir(self)
}

// binDirFlag says where the binaries are. Help and manual pages say so in words: they are
// the same wherever they are made.
func binDirFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "bin-dir", ownDir(), "directory of Redoubt's binaries")
	c.Flags().Lookup("bin-dir").DefValue = "the one of this command"
}

func (la *labApp) sizeFlags(c *cobra.Command, o *lab.Options) {
	c.Flags().IntVar(&o.Managers, "managers", 3, "number of managers")
	c.Flags().IntVar(&o.Workers, "workers", 2, "number of workers")
	binDirFlag(c, &o.BinDir)
}

func (la *labApp) upCmd() *cobra.Command {
	var o lab.Options
	c := &cobra.Command{
		Use: "up", Short: "Make a lab and wait until every node is ready",
		Example: `  redoubt lab up
  redoubt lab up --name small --managers 1 --workers 1`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			o.Name = la.name
			o.Log = func(format string, args ...any) { fmt.Fprintf(la.Stderr, format+"\n", args...) }
			l, err := lab.Up(c.Context(), o)
			if err != nil && l != nil {
				return fmt.Errorf("%w; the lab stays for inspection, with its logs in %s: remove it with `redoubt lab down --name %s`", err, l.Dir(), l.Name)
			}
			if err != nil {
				return err
			}
			return printHosts(la.app, &output{}, l)
		},
	}
	la.sizeFlags(c, &o)
	c.Flags().BoolVar(&o.FIPS, "fips", false, "start hosts in FIPS mode")
	c.Flags().BoolVar(&o.CNI, "cni", false, "give hosts Debian's CNI plugins and a conflist, lan")
	return c
}

func (la *labApp) lsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the lab's hosts",
		Example: `  redoubt lab ls
  redoubt lab ls --format json`,
		Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			l, err := lab.Open(la.name)
			if err != nil {
				return err
			}
			return printHosts(la.app, &out, l)
		},
	}
	out.flags(c, true)
	return c
}

func printHosts(a *app, out *output, l *lab.Lab) error {
	hosts := l.Describe()
	var names []string
	var rows [][]string
	for _, h := range hosts {
		names = append(names, h.Name)
		rows = append(rows, []string{h.Name, h.Role, h.Address, strconv.FormatBool(h.Running), h.Network, h.DataDir, h.RunDir})
	}
	return out.list(a.Stdout, names, hosts, []string{"NAME", "ROLE", "ADDRESS", "RUNNING", "NETWORK", "DATA DIR", "RUN DIR"}, rows)
}

// host opens the lab and finds one of its hosts.
func (la *labApp) host(name string) (*lab.Lab, lab.Host, error) {
	l, err := lab.Open(la.name)
	if err != nil {
		return nil, lab.Host{}, err
	}
	h, err := l.Host(name)
	return l, h, err
}

func (la *labApp) execCmd() *cobra.Command {
	return &cobra.Command{
		Use: "exec NODE -- CMD [ARG...]", Short: "Run a command on a host, with its exit code",
		Long: `exec runs a command in a host's network and file system, with REDOUBT_HOST set to
its node. Its exit code becomes this command's.`,
		Example: `  redoubt lab exec manager-1 -- redoubt node ls
  redoubt lab exec worker-1 -- ip address`,
		Args: func(c *cobra.Command, got []string) error {
			if len(got) < 2 || c.ArgsLenAtDash() != 1 {
				return usagef("write `redoubt lab exec NODE -- CMD [ARG...]`")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			l, h, err := la.host(args[0])
			if err != nil {
				return err
			}
			code, err := l.Exec(h, args[1:], la.Stdin, la.Stdout, la.Stderr)
			if err == nil && code != 0 {
				err = childExit(code)
			}
			return err
		},
	}
}

func (la *labApp) loadCmd() *cobra.Command {
	return &cobra.Command{
		Use: "load IMAGE.tar", Short: "Import an image archive into every host",
		Example: `  redoubt lab image demo.tar && redoubt lab load demo.tar`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := lab.Open(la.name)
			if err != nil {
				return err
			}
			images, err := l.Load(c.Context(), args[0])
			for _, ref := range slices.Sorted(maps.Keys(images)) {
				fmt.Fprintf(la.Stdout, "%s@%s\n", printable(ref), printable(images[ref]))
			}
			return err
		},
	}
}

func (la *labApp) imageCmd() *cobra.Command {
	var binDir string
	c := &cobra.Command{
		Use: "image OUT.tar", Short: "Write the demo image (" + lab.DemoImage + ") to an archive",
		Example: `  redoubt lab image demo.tar`,
		Args:    args(1, 1),
		RunE:    func(_ *cobra.Command, args []string) error { return lab.WriteImage(args[0], binDir) },
	}
	binDirFlag(c, &binDir)
	return c
}

func (la *labApp) registryCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "registry", Short: "Start the lab's registry, " + lab.RegistryName + " on its hosts",
		Example: `  redoubt lab registry
  redoubt lab registry push demo.tar demo:1`,
		Args: func(c *cobra.Command, got []string) error {
			if len(got) > 0 {
				return usagef("unknown command %q: use `%s` or `%s push`", c.CommandPath()+" "+got[0], c.CommandPath(), c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := lab.Open(la.name)
			if err != nil {
				return err
			}
			if err := l.StartRegistry(c.Context()); err != nil {
				return err
			}
			fmt.Fprintln(la.Stdout, lab.RegistryName)
			return nil
		},
	}
	push := &cobra.Command{
		Use: "push IMAGE.tar NAME:TAG", Short: "Put a docker-save archive into the registry",
		Example: `  redoubt lab registry push demo.tar demo:1`,
		Args:    args(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := lab.Open(la.name)
			if err != nil {
				return err
			}
			ref, err := l.Push(c.Context(), args[0], args[1])
			if err == nil {
				fmt.Fprintln(la.Stdout, ref)
			}
			return err
		},
	}
	serve := &cobra.Command{
		Use: "serve", Short: "The registry's own process", Hidden: true, Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := lab.Open(la.name)
			if err != nil {
				return err
			}
			return l.ServeRegistry(c.Context())
		},
	}
	c.AddCommand(push, serve)
	return c
}

func (la *labApp) killCmd() *cobra.Command {
	var containers bool
	c := &cobra.Command{
		Use: "kill NODE", Short: "End a host's daemons as a crash would",
		Example: `  redoubt lab kill worker-1

  # The whole machine loses its power
  redoubt lab kill --containers worker-1`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			l, h, err := la.host(args[0])
			if err != nil {
				return err
			}
			return l.Kill(c.Context(), h, containers)
		},
	}
	c.Flags().BoolVar(&containers, "containers", false, "its containers and containerd too: only its disk stays")
	return c
}

func (la *labApp) stopCmd() *cobra.Command {
	return &cobra.Command{
		Use: "stop NODE", Short: "Stop a host's daemons in good order; its containers stay",
		Example: `  redoubt lab stop manager-2`,
		Args:    args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, h, err := la.host(args[0])
			if err != nil {
				return err
			}
			return l.Stop(h)
		},
	}
}

func (la *labApp) startCmd() *cobra.Command {
	var unlock bool
	c := &cobra.Command{
		Use: "start NODE", Short: "Start a host again; a manager comes up locked",
		Example: `  redoubt lab start worker-1
  redoubt lab start --unlock manager-2`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			l, h, err := la.host(args[0])
			if err != nil {
				return err
			}
			st, err := l.Start(c.Context(), h, unlock)
			if err != nil {
				return err
			}
			fmt.Fprintf(la.Stdout, "%s is %s\n", h.Name, enumName(st.Phase, "NODE_PHASE_"))
			if st.Phase == controlpb.NodePhase_NODE_PHASE_LOCKED {
				fmt.Fprintf(la.Stderr, "redoubt: unlock it with `redoubt lab exec --name %s %s -- redoubt unlock --key-file %s`\n", l.Name, h.Name, l.KeyFile())
			}
			return nil
		},
	}
	c.Flags().BoolVar(&unlock, "unlock", false, "unlock a manager with the lab's operator key")
	return c
}

func (la *labApp) downCmd() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove the lab and everything it made",
		Example: `  redoubt lab down`,
		Args:    args(0, 0),
		RunE:    func(c *cobra.Command, _ []string) error { return lab.Down(c.Context(), la.name) },
	}
}

func (la *labApp) demoCmd() *cobra.Command {
	var (
		o    lab.Options
		keep bool
	)
	c := &cobra.Command{
		Use: "demo", Short: "Show it all on a lab: services, a lost worker, a locked manager",
		Example: `  redoubt lab demo
  redoubt lab demo --keep`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			o.Name = la.name
			if !c.Flags().Changed("name") {
				o.Name = "demo" // not in the way of a lab that is being used
			}
			if o.Managers < 2 || o.Workers < 2 {
				return usagef("the demo loses a worker and restarts a manager: it needs 2 of each, better 3 managers")
			}
			err := lab.Demo(c.Context(), o, keep, la.Stdout)
			if errors.Is(err, context.Canceled) {
				return context.Canceled
			}
			return err
		},
	}
	la.sizeFlags(c, &o)
	c.Flags().BoolVar(&keep, "keep", false, "leave the lab running at the end")
	return c
}
