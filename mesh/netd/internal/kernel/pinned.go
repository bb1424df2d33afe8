package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenPinned opens the network namespace that rund pinned on
// <run-dir>/netns/<name>; what says in errors whose it is. The name was checked
// to be a file name. The file is rund's; it is still opened without following any
// link, and what it is must be a network namespace other than the node's own, so
// that a mistake over there cannot make netd reconfigure the node.
func OpenPinned(runDir, name, what string, node *os.File) (*os.File, error) {
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
		return nil, fmt.Errorf("%s %s does not exist (any more)", what, name)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s %s: %w", what, name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := checkPinned(f, node); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s %s: %w", what, name, err)
	}
	return f, nil
}

func checkPinned(f, node *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return errors.New("the file is no namespace")
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return errors.New("the file is no network namespace")
	}
	a, err := IdentityOf(f)
	if err != nil {
		return err
	}
	b, err := IdentityOf(node)
	if err != nil {
		return err
	}
	if a == b {
		return errors.New("it is the node's own network namespace")
	}
	return nil
}

// Identity tells namespaces apart while they exist.
type Identity struct{ dev, ino uint64 }

func IdentityOf(ns *os.File) (Identity, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(ns.Fd()), &st)
	return Identity{uint64(st.Dev), st.Ino}, err
}
