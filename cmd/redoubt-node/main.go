// Command redoubt-node is the supervisor: it makes the node's directories, binds
// its local sockets, and starts, sandboxes and restarts the daemons.
//
// It runs as root and therefore does as little as can be: it reads no file but
// the user database, accepts no connection, parses nothing that anybody sends,
// and links nothing outside the standard library but x/sys. It takes flags only.
// On a machine with systemd the packaged units take its place, but for one
// short step ("own-mounts").
//
// Each daemon is started through this same binary ("launch"), which sets mount
// namespace, uid, capability sets and limits and then becomes the daemon. A
// daemon that ends is started again, after a pause that doubles while it keeps
// failing; its sockets stay bound, so callers wait instead of being refused. But
// where keyd, netd or rund refuses the configuration that this process was
// started with, it stops them all, says so and ends with code 2: nobody else
// would. A file that gets worse while the node runs stops nothing.
// Containers do not belong to this process tree and are not touched.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/redoubt-cluster/redoubt/internal/account"
	"github.com/redoubt-cluster/redoubt/internal/version"
)

type config struct {
	configFile, dataDir, runDir, binDir string
	cni                                 bool // rund may run CNI plugins
	fips                                bool // daemons keep to Go's FIPS 140-3 module
	control, keyd, netd, named          account.Account
}

func main() {
	// Children are told of this process's death by the death of the thread
	// that made them: it must be the main one, and stay.
	runtime.LockOSThread()
	if len(os.Args) > 1 {
		if become := map[string]func([]string) error{launchVerb: launch, ownMountsVerb: becomeWithOwnMounts}[os.Args[1]]; become != nil {
			fmt.Fprintf(os.Stderr, "redoubt-node: %v\n", become(os.Args[2:])) // it came back: it failed
			os.Exit(1)
		}
	}
	c, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "redoubt-node: %v\n", err)
		os.Exit(2)
	}
	if err := run(c); err != nil {
		fmt.Fprintf(os.Stderr, "redoubt-node: %v\n", err)
		if errors.As(err, new(*refusedError)) {
			os.Exit(refusedCode)
		}
		os.Exit(1)
	}
}

func parse(args []string) (config, error) {
	self, err := os.Executable()
	if err != nil {
		return config{}, err
	}
	var c config
	var control, keyd, netd, named string
	fs := flag.NewFlagSet("redoubt-node", flag.ContinueOnError)
	fs.StringVar(&c.configFile, "config", "/etc/redoubt/config.yaml", "configuration `file`, handed to the daemons")
	fs.StringVar(&c.dataDir, "data-dir", "/var/lib/redoubt", "`directory` of what must survive a reboot")
	fs.StringVar(&c.runDir, "run-dir", "/run/redoubt", "`directory` of sockets and state that need not")
	fs.BoolVar(&c.cni, "cni", false, "let redoubt-rund start CNI plugins that its configuration pins")
	fs.BoolVar(&c.fips, "fips", false, "run every daemon in FIPS mode, as with node.fips in the configuration")
	fs.StringVar(&c.binDir, "bin-dir", filepath.Dir(self), "`directory` of the daemons' binaries")
	fs.StringVar(&control, "control-user", "redoubt", "`user` (name or uid) of redoubtd")
	fs.StringVar(&keyd, "keyd-user", "redoubt-keyd", "`user` (name or uid) of redoubt-keyd")
	fs.StringVar(&netd, "netd-user", "redoubt-netd", "`user` (name or uid) of redoubt-netd")
	fs.StringVar(&named, "named-user", "redoubt-named", "`user` (name or uid) of redoubt-named")
	show := fs.Bool("version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	if *show {
		fmt.Println(version.String())
		return c, flag.ErrHelp
	}
	if fs.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q: only flags are taken", fs.Arg(0))
	}
	for _, p := range []*string{&c.configFile, &c.dataDir, &c.runDir, &c.binDir} {
		if !filepath.IsAbs(*p) {
			return c, fmt.Errorf("%q is not an absolute path", *p)
		}
		*p = filepath.Clean(*p)
	}
	if c.dataDir == c.runDir {
		return c, fmt.Errorf("--data-dir and --run-dir are both %s: the second must not survive a reboot, and the first must", c.runDir)
	}
	// The kernel's limit on a unix socket's path, 108 with its final zero.
	if n := len(filepath.Join(c.runDir, "named-net.sock")); n > 107 {
		return c, fmt.Errorf("--run-dir %s is %d characters too long for unix sockets", c.runDir, n-107)
	}
	seen := map[int]string{}
	for _, u := range []struct {
		flag, name string
		to         *account.Account
	}{{"control-user", control, &c.control}, {"keyd-user", keyd, &c.keyd}, {"netd-user", netd, &c.netd}, {"named-user", named, &c.named}} {
		if *u.to, err = account.Lookup(u.name); err != nil {
			return c, fmt.Errorf("--%s: %w", u.flag, err)
		}
		if other, ok := seen[u.to.UID]; ok || u.to.UID == 0 {
			return c, fmt.Errorf("--%s: uid %d is root's or already --%s: each daemon needs a user of its own", u.flag, u.to.UID, other)
		}
		seen[u.to.UID] = u.flag
	}
	return c, nil
}

func run(c config) error {
	if os.Geteuid() != 0 {
		return errors.New("must be started as root: it makes sandboxes for the other daemons, and holds nothing itself")
	}
	daemons := daemons(c)
	if err := checkBinaries(daemons); err != nil {
		return err
	}
	// Everything is read; from here on the machine is touched.
	unlock, err := prepare(c)
	if err != nil {
		return err
	}
	defer unlock()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for i := range daemons {
		if err := daemons[i].bind(c.runDir); err != nil {
			return err
		}
	}
	return supervise(daemons, signals)
}
