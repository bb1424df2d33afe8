// Package netns makes the sandboxes of tasks: for each a user namespace and a
// network namespace owned by it, both pinned as bind mounts in one directory,
// so that netd, containerd and runc find them by path and they outlive every
// process.
//
// The network namespace belongs to the user namespace because the kernel lets
// sysfs be mounted only by the owner of the network namespace; a container
// thus gets a sysfs of its own instead of a view of the host's. Each task has
// its own pair: root in one container holds no capability over another's
// network even though the range of ids is the same. What the kernel counts by
// user it counts against an owner of the task's own, see IDMap.owner.
//
// The directory must be a shared mount, since rund lives in a mount namespace
// of its own: what is pinned here must reach the others. The same directory
// pins the sources of bind mounts, so that what was checked is what is mounted.
// The package knows nothing of interfaces and addresses.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"golang.org/x/sys/unix"
)

const userSuffix = ".user"

// maxPins bounds the pinned bind sources of a task: 64 and two programs of the node's.
const maxPins = 66

// IDMap maps container ids 0 to Size-1, for users and groups, to host ids from
// Base on.
type IDMap struct{ Base, Size uint32 }

// Validate refuses ranges that reach host accounts or wrap.
func (m IDMap) Validate() error {
	const floor = 65536 // system and login accounts live below
	if m.Base < floor {
		return fmt.Errorf("base %d lies among the host's own accounts: choose %d or more", m.Base, floor)
	}
	if m.Size < 1024 || uint64(m.Base)+uint64(m.Size) > 1<<31 {
		return fmt.Errorf("range %d+%d must hold at least 1024 ids and end below 2^31", m.Base, m.Size)
	}
	return nil
}

// Store is the directory of pinned namespaces.
type Store struct {
	dir string
	ids func(task string) IDMap
}

// Open checks that dir is a shared mount. ids tells the range of a task, the same for as
// long as it has anything pinned.
func Open(dir string, ids func(task string) IDMap) (*Store, error) {
	shared, err := isSharedMount(dir)
	if err != nil {
		return nil, err
	}
	if !shared {
		return nil, fmt.Errorf("%s is not a shared mount: start rund through redoubt-node or the packaged units, which make it", dir)
	}
	return &Store{dir, ids}, nil
}

// Path of a task's network namespace.
func (s *Store) Path(id string) string { return filepath.Join(s.dir, id) }

// UserPath of a task's user namespace.
func (s *Store) UserPath(id string) string { return s.Path(id) + userSuffix }

// Create makes and pins the namespaces of a task. What an earlier attempt left
// half-made is replaced; a complete pair is kept.
func (s *Store) Create(id string) error {
	if !ident.Valid(id) {
		return fmt.Errorf("%q is no task id", id)
	}
	if isNamespace(s.Path(id)) && isNamespace(s.UserPath(id)) {
		return nil
	}
	if err := s.Remove(id); err != nil {
		return err
	}
	err := s.AsOwner(id, func() error {
		h, err := newHolder(s.ids(id))
		if err != nil {
			return fmt.Errorf("create namespaces: %w", err)
		}
		defer h.release()
		err = errors.Join(
			pin(h.path("user"), s.UserPath(id), false),
			pin(h.path("net"), s.Path(id), false)) // last: its presence says the pair is complete
		if err != nil {
			return fmt.Errorf("pin namespaces: %w", err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, s.Remove(id))
	}
	return nil
}

// PinSource pins the file or directory behind fd for the n-th mount of a task
// and returns the path to mount from.
func (s *Store) PinSource(id string, n int, fd *os.File) (string, error) {
	fi, err := fd.Stat()
	if err != nil {
		return "", err
	}
	if n < 0 || n >= maxPins {
		return "", fmt.Errorf("more than %d bind mounts", maxPins)
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return "", fmt.Errorf("neither a directory nor a regular file")
	}
	target := s.sourcePath(id, n)
	if err := unpin(target); err != nil {
		return "", err
	}
	return target, pin(fmt.Sprintf("/proc/self/fd/%d", fd.Fd()), target, fi.IsDir())
}

func (s *Store) sourcePath(id string, n int) string {
	return s.Path(id) + ".m" + strconv.Itoa(n)
}

// Remove unpins everything of a task; a task without is no error.
func (s *Store) Remove(id string) error {
	if !ident.Valid(id) {
		return fmt.Errorf("%q is no task id", id)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if owner, _, _ := strings.Cut(e.Name(), "."); owner == id {
			errs = append(errs, unpin(filepath.Join(s.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// List returns the ids of tasks with anything pinned.
func (s *Store) List() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var ids []string
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		if ident.Valid(id) && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func pin(source, target string, dir bool) error {
	if dir {
		if err := os.Mkdir(target, 0o700); err != nil {
			return err
		}
	} else {
		f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
		if err != nil {
			return err
		}
		f.Close()
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		os.Remove(target)
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

func unpin(target string) error {
	// EINVAL: not a mount point, left by a crash between create and bind.
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	// Not RemoveAll: if the unmount had failed silently, this must not delete
	// what lies behind a bind mount.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
