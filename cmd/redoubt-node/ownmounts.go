package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownMountsVerb is the one step of the sandbox that a systemd unit cannot say:
// a unit's own mount namespace always cuts what is mounted inside it off from
// the machine, and the containers' namespaces, pinned in one directory, must be
// seen by all. The unit of redoubt-rund starts it through this verb, which makes
// the namespace, holds the locks of the node's directories and becomes the daemon:
// same process, same environment, same descriptors.
const ownMountsVerb = "own-mounts"

func becomeWithOwnMounts(args []string) error {
	var shared, dataDir, runDir string
	fs := flag.NewFlagSet(ownMountsVerb, flag.ContinueOnError)
	fs.StringVar(&shared, "but", "", "")
	fs.StringVar(&dataDir, "lock-data", "", "")
	fs.StringVar(&runDir, "lock-run", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 || !filepath.IsAbs(shared) || !filepath.IsAbs(dataDir) || !filepath.IsAbs(runDir) {
		return errors.New("own-mounts is internal to the packaged units: start redoubt-node without it")
	}
	for _, d := range []struct{ path, flag string }{{dataDir, "--data-dir"}, {runDir, "--run-dir"}} {
		lock, err := takeLock(d.path, d.flag)
		if err != nil {
			return err
		}
		// Held until the daemon ends, which inherits it.
		if _, err := unix.FcntlInt(lock.Fd(), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	if err := ownMounts(filepath.Clean(shared)); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	return fmt.Errorf("%s: %w", fs.Arg(0), syscall.Exec(fs.Arg(0), fs.Args(), os.Environ()))
}
