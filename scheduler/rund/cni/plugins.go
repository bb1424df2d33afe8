package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/trustedfile"
)

// mountBin makes the directory that plugins are executed from: a file system in
// memory, of this process's mount namespace alone. The caller's capabilities and
// its namespace must allow it.
func mountBin(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("plugins", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=700,size=%d", binBytes)); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}

// sealBin makes it read-only.
func sealBin(dir string) error {
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", dir, err)
	}
	return nil
}

// install copies the pinned plugins to bin. What is hashed are the bytes that are
// written there and later executed, so that nothing can be exchanged between; a
// plugin that another one starts, as bridge does with host-local, is found there
// and nowhere else. It returns which may run, and why others may not.
func (c *Config) install(bin string) (installed map[string]bool, refused map[string]error) {
	installed, refused = map[string]bool{}, map[string]error{}
	for name, digest := range c.Plugins {
		if err := c.installOne(bin, name, digest); err != nil {
			refused[name] = err
			continue
		}
		installed[name] = true
	}
	return installed, refused
}

func (c *Config) installOne(bin, name, digest string) error {
	path := filepath.Join(c.PluginDir, name)
	data, err := trustedfile.Read(path, maxPluginBytes)
	if err != nil {
		return err
	}
	want, err := hex.DecodeString(digest)
	if err != nil {
		return err
	}
	if got := sha256.Sum256(data); string(got[:]) != string(want) {
		return fmt.Errorf("%s is not the pinned one: its SHA-256 is %x; if that is right, write it to rund.cni.plugins and restart redoubt-rund", path, got)
	}
	return os.WriteFile(filepath.Join(bin, name), data, 0o500)
}
