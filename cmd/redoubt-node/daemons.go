package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/account"
)

// daemon is one child, as declared; what it holds is written here and nowhere
// else. A test compares it with /proc/<pid>/status.
type daemon struct {
	path    string // of its binary
	account account.Account
	// caps are its permitted, effective, inheritable, ambient and bounding sets.
	caps []int
	// traceback is what Go prints of a process that ends in a panic: nothing,
	// unless it holds no key.
	traceback string
	// memlock is RLIMIT_MEMLOCK in bytes.
	memlock uint64
	// nice is its share of cores that are short: below zero is more than others.
	nice int
	// ownMountsBut, when set, gives it a mount namespace that shares only this
	// directory.
	ownMountsBut string
	sockets      []socket
	args         []string
	// tells: it tells callers itself what it refuses, and is tried again. The
	// others would only be missing.
	tells bool

	files []*os.File // of sockets; held open for its whole life
}

type socket struct {
	name  string
	owner account.Account
	// group: whoever is of the owner's group may connect, too.
	group bool
}

func (s socket) mode() os.FileMode {
	if s.group {
		return 0o660
	}
	return 0o600
}

var root = account.Account{}

func daemons(c config) []daemon {
	args := []string{"--config", c.configFile, "--data-dir", c.dataDir, "--run-dir", c.runDir, "--control-user", strconv.Itoa(c.control.UID)}
	if c.fips {
		args = append(args, "--fips")
	}
	rundCaps := []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
		unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SYS_ADMIN}
	if c.cni { // it hands them to the process that runs plugins, and gives them up
		rundCaps = append(rundCaps, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW)
	}
	bin := func(name string) string { return filepath.Join(c.binDir, name) }
	return []daemon{
		{path: bin("redoubt-keyd"), account: c.keyd, traceback: "none", memlock: 64 << 20, args: args,
			sockets: []socket{{name: "keyd", owner: c.control}, {name: "unlock", owner: root}}},
		{path: bin("redoubt-netd"), account: c.netd, traceback: "none", memlock: 8 << 20, args: args,
			caps:    []int{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN},
			sockets: []socket{{name: "netd", owner: c.control}, {name: "wg", owner: root}}},
		{path: bin("redoubt-named"), account: c.named, traceback: "single", memlock: 8 << 20,
			args:    append(slices.Clone(args), "--netd-user", strconv.Itoa(c.netd.UID)),
			sockets: []socket{{name: "named", owner: c.control}, {name: "named-net", owner: c.netd}}},
		{path: bin("redoubt-rund"), account: root, traceback: "single", memlock: 8 << 20, args: args, ownMountsBut: filepath.Join(c.runDir, "netns"),
			caps:    rundCaps,
			sockets: []socket{{name: "rund", owner: c.control}, {name: "identity", owner: c.control}}},
		// A leader that gets no core for an election timeout is given up.
		{path: bin("redoubtd"), account: c.control, traceback: "single", memlock: 64 << 20, nice: -10, args: args, tells: true,
			sockets: []socket{{name: "api", owner: root}, {name: "users", owner: account.Account{GID: c.control.GID}, group: true},
				{name: "docker", owner: account.Account{GID: c.control.GID}, group: true}, {name: "metrics", owner: root}}},
	}
}

// bind makes the daemon's sockets, each its owner's alone, or its group's as well.
func (d *daemon) bind(runDir string) error {
	for _, s := range d.sockets {
		path := filepath.Join(runDir, s.name+".sock")
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		f, err := l.File()
		l.Close()
		if err != nil {
			return err
		}
		if err := os.Chown(path, s.owner.UID, s.owner.GID); err != nil {
			return err
		}
		if err := os.Chmod(path, s.mode()); err != nil {
			return err
		}
		d.files = append(d.files, f)
	}
	return nil
}

func (d *daemon) socketNames() string {
	var names []string
	for _, s := range d.sockets {
		names = append(names, s.name)
	}
	return strings.Join(names, ":")
}

func (d *daemon) name() string { return filepath.Base(d.path) }

func checkBinaries(ds []daemon) error {
	for _, d := range ds {
		fi, err := os.Stat(d.path)
		if err != nil {
			return fmt.Errorf("%w: install all of Redoubt's binaries in one directory, or name it with --bin-dir", err)
		}
		if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("%s may be written by others than its owner: chmod 0755 it", d.path)
		}
	}
	return nil
}
