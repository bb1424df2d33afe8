package rund

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// binds decides which host directories a task may see.
//
// Only what the node's administrator listed, and nothing that is, holds or lies
// in a forbidden directory, even when listed. A source is opened below its
// allowed root in one step that cannot leave it (openat2, RESOLVE_BENEATH), so
// "..", symlinks that lead out and races with whoever writes there are of no
// use; the descriptor, not the path, is what gets mounted.
type binds struct {
	allowed   []BindMount
	forbidden []string
}

// alwaysForbidden holds what would give a container the host.
var alwaysForbidden = []string{"/proc", "/sys", "/dev", "/boot", "/etc/redoubt", "/run/containerd", "/var/lib/containerd"}

// open returns the source, to be pinned and closed, or a refusal.
func (b *binds) open(source string, readOnly bool) (*os.File, error) {
	if !cleanAbs(source) {
		return nil, fmt.Errorf("bind source %q must be a clean absolute path", source)
	}
	root, ok := b.root(source)
	if !ok {
		return nil, fmt.Errorf("bind source %s is not on this node's allow-list (rund.bind_mounts)", source)
	}
	if root.ReadOnly && !readOnly {
		return nil, fmt.Errorf("bind source %s may be mounted read-only alone on this node", source)
	}
	f, err := openBeneath(root.Path, source)
	if err != nil {
		return nil, err
	}
	if err := b.checkReal(f, source); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// root returns the longest allowed root that source lies below.
func (b *binds) root(source string) (best BindMount, ok bool) {
	for _, a := range b.allowed {
		if within(source, a.Path) && len(a.Path) > len(best.Path) {
			best, ok = a, true
		}
	}
	return best, ok
}

func openBeneath(root, source string) (*os.File, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("bind source: allowed directory: %w", err)
	}
	defer dir.Close()
	rel, err := filepath.Rel(root, source)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat2(int(dir.Fd()), rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.EXDEV):
		return nil, fmt.Errorf("bind source %s leads out of %s by a symbolic link", source, root)
	case err != nil:
		return nil, fmt.Errorf("bind source %s: %w", source, err)
	}
	return os.NewFile(uintptr(fd), source), nil
}

// checkReal looks at where the descriptor really is.
func (b *binds) checkReal(f *os.File, source string) error {
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return err
	}
	for _, list := range [][]string{alwaysForbidden, b.forbidden} {
		for _, dir := range list {
			if resolved, err := filepath.EvalSymlinks(dir); err == nil {
				dir = resolved
			}
			if within(real, dir) || within(dir, real) {
				return fmt.Errorf("bind source %s is never allowed: it gives access to %s", source, dir)
			}
		}
	}
	return nil
}

// within reports whether p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
