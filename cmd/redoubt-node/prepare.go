package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/account"
)

// prepare makes the directories, takes the locks of those two that must not be
// another node's, and mounts the shared directory of network namespaces. The
// returned func lets go.
func prepare(c config) (func(), error) {
	unix.Umask(0o077)
	// The locks come first: a second start must not touch a running node's
	// directories, nor take its sockets away.
	unlock, err := takeLocks(c.dataDir, c.runDir)
	if err != nil {
		return nil, err
	}
	if err := makeDirs(c); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func takeLocks(dataDir, runDir string) (unlock func(), err error) {
	var locks []*os.File
	unlock = func() {
		for _, l := range locks {
			l.Close()
		}
	}
	for _, d := range []struct{ path, flag string }{{dataDir, "--data-dir"}, {runDir, "--run-dir"}} {
		if err = os.MkdirAll(d.path, 0o711); err != nil {
			break
		}
		var l *os.File
		if l, err = takeLock(d.path, d.flag); err != nil {
			break
		}
		locks = append(locks, l)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// dir is a directory that must be there, with its mode and owner.
type dir struct {
	path  string
	mode  os.FileMode
	owner account.Account
}

func dirs(c config) []dir {
	return []dir{
		{c.dataDir, 0o711, root},
		{filepath.Join(c.dataDir, "control"), 0o700, c.control},
		{filepath.Join(c.dataDir, "keyd"), 0o700, c.keyd},
		{c.runDir, 0o711, root},
		{filepath.Join(c.runDir, "netns"), 0o711, root},
		{filepath.Join(c.runDir, "rund"), 0o711, root},
	}
}

func makeDirs(c config) error {
	for _, d := range dirs(c) {
		if err := makeDir(d.path, d.mode, d.owner); err != nil {
			return err
		}
	}
	return shareMount(filepath.Join(c.runDir, "netns"))
}

// takeLock makes this the only supervisor of a directory.
func takeLock(dir, flag string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another redoubt-node, or redoubt.target, uses %s: stop it first, or name another %s", dir, flag)
		}
		return nil, err
	}
	return lock, nil
}

func makeDir(path string, mode os.FileMode, owner account.Account) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s is not a directory: move it away", path)
	}
	if err := os.Lchown(path, owner.UID, owner.GID); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// shareMount makes dir a mount point whose mounts are seen by every mount
// namespace that was copied from this one. It stays after this process, as the
// containers' namespaces are pinned there.
func shareMount(dir string) error {
	mounted, err := mountPoints()
	if err != nil {
		return err
	}
	if !mounted[dir] {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	return nil
}
