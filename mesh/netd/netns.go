package netd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openSandbox opens <run-dir>/netns/<name>. The name was checked to be an id.
// The file is rund's; it is still opened without following any link, and what
// it is must be a network namespace other than the node's own, so that a
// mistake over there cannot make netd reconfigure the node.
func openSandbox(runDir, name string, node *os.File) (*os.File, error) {
	dir, err := unix.Open(filepath.Join(runDir, "netns"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Join(runDir, "netns"), err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("sandbox %s does not exist (any more)", name)
	}
	if err != nil {
		return nil, fmt.Errorf("open sandbox %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := checkSandbox(fd, int(node.Fd())); err != nil {
		f.Close()
		return nil, fmt.Errorf("sandbox %s: %w", name, err)
	}
	return f, nil
}

func checkSandbox(fd, node int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return errors.New("the file is no namespace")
	}
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return errors.New("the file is no network namespace")
	}
	a, err := nsID(fd)
	if err != nil {
		return err
	}
	b, err := nsID(node)
	if err != nil {
		return err
	}
	if a == b {
		return errors.New("it is the node's own network namespace")
	}
	return nil
}

type nsIdentity struct{ dev, ino uint64 }

func nsID(fd int) (nsIdentity, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return nsIdentity{uint64(st.Dev), st.Ino}, err
}
