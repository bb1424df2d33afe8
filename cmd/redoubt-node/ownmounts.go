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
// the namespace, holds the lock of the data directory and becomes the daemon:
// same process, same environment, same descriptors.
const ownMountsVerb = "own-mounts"

func becomeWithOwnMounts(args []string) error {
	var shared, dataDir string
	fs := flag.NewFlagSet(ownMountsVerb, flag.ContinueOnError)
	fs.StringVar(&shared, "but", "", "")
	fs.StringVar(&dataDir, "lock", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 || !filepath.IsAbs(shared) || !filepath.IsAbs(dataDir) {
		return errors.New("own-mounts is internal to the packaged units: start redoubt-node without it")
	}
	lock, err := takeLock(dataDir)
	if err != nil {
		return err
	}
	// Held until the daemon ends, which inherits it.
	if _, err := unix.FcntlInt(lock.Fd(), unix.F_SETFD, 0); err != nil {
		return err
	}
	if err := ownMounts(filepath.Clean(shared)); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	return fmt.Errorf("%s: %w", fs.Arg(0), syscall.Exec(fs.Arg(0), fs.Args(), os.Environ()))
}
