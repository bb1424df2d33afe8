package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctls returns an error that names the first of these settings of a network which
// this kernel does not have in a task's sandbox.
func (s *Store) Sysctls(id string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return s.AsOwner(id, func() error {
		ns, err := unix.Open(s.Path(id), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		for _, n := range names { // the kernel shows whoever looks his own network's
			if _, err := os.Stat(filepath.Join("/proc/sys", strings.ReplaceAll(n, ".", "/"))); err != nil {
				return fmt.Errorf("the kernel of this node has no sysctl %s for containers: leave it out, or use a newer one", n)
			}
		}
		return nil
	})
}
