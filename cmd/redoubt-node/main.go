// Command redoubt-node is the supervisor: it makes the node's directories, binds
// its local sockets, and starts, sandboxes and restarts the daemons.
//
// It runs as root and therefore does as little as can be: it reads no file but
// the user database, accepts no connection, parses nothing that anybody sends,
// and links nothing outside the standard library but x/sys. It takes flags only.
// On a machine with systemd the packaged units can take its place.
//
// Each daemon is started through this same binary ("launch"), which sets mount
// namespace, uid, capability sets and limits and then becomes the daemon. A
// daemon that ends is started again, after a pause that doubles while it keeps
// failing; its sockets stay bound, so callers wait instead of being refused.
// Containers do not belong to this process tree and are not touched.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/redoubt-cluster/redoubt/internal/version"
)

type config struct {
	configFile, dataDir, runDir, binDir string
	control, keyd, netd                 account
}

// account is a user a daemon runs as.
type account struct{ uid, gid int }

func main() {
	// Children are told of this process's death by the death of the thread
	// that made them: it must be the main one, and stay.
	runtime.LockOSThread()
	if len(os.Args) > 1 && os.Args[1] == launchVerb {
		err := launch(os.Args[2:])
		fmt.Fprintf(os.Stderr, "redoubt-node: %v\n", err)
		os.Exit(1)
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
		os.Exit(1)
	}
}

func parse(args []string) (config, error) {
	self, err := os.Executable()
	if err != nil {
		return config{}, err
	}
	var c config
	var control, keyd, netd string
	fs := flag.NewFlagSet("redoubt-node", flag.ContinueOnError)
	fs.StringVar(&c.configFile, "config", "/etc/redoubt/config.yaml", "configuration `file`, handed to the daemons")
	fs.StringVar(&c.dataDir, "data-dir", "/var/lib/redoubt", "`directory` of what must survive a reboot")
	fs.StringVar(&c.runDir, "run-dir", "/run/redoubt", "`directory` of sockets and state that need not")
	fs.StringVar(&c.binDir, "bin-dir", filepath.Dir(self), "`directory` of the daemons' binaries")
	fs.StringVar(&control, "control-user", "redoubt", "`user` (name or uid) of redoubtd")
	fs.StringVar(&keyd, "keyd-user", "redoubt-keyd", "`user` (name or uid) of redoubt-keyd")
	fs.StringVar(&netd, "netd-user", "redoubt-netd", "`user` (name or uid) of redoubt-netd")
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
	// The kernel's limit on a unix socket's path, 108 with its final zero.
	if n := len(filepath.Join(c.runDir, "metrics.sock")); n > 107 {
		return c, fmt.Errorf("--run-dir %s is %d characters too long for unix sockets", c.runDir, n-107)
	}
	seen := map[int]string{}
	for _, u := range []struct {
		flag, name string
		to         *account
	}{{"control-user", control, &c.control}, {"keyd-user", keyd, &c.keyd}, {"netd-user", netd, &c.netd}} {
		if *u.to, err = lookUp(u.name); err != nil {
			return c, fmt.Errorf("--%s: %w", u.flag, err)
		}
		if other, ok := seen[u.to.uid]; ok || u.to.uid == 0 {
			return c, fmt.Errorf("--%s: uid %d is root's or already --%s: each daemon needs a user of its own", u.flag, u.to.uid, other)
		}
		seen[u.to.uid] = u.flag
	}
	return c, nil
}

func lookUp(name string) (account, error) {
	if uid, err := strconv.Atoi(name); err == nil {
		if uid < 0 || uid > 1<<31-2 {
			return account{}, fmt.Errorf("uid %d is out of range", uid)
		}
		return account{uid, uid}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("no user is called %q: create it (useradd --system) or name another", name)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return account{uid, gid}, errors.Join(err1, err2)
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
