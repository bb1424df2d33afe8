// Package taskfiles keeps the files that tasks are given while they run: secrets,
// and configs. Each task has a file system of its own, in memory, that is never
// swapped out: a tmpfs with noswap, or a ramfs before Linux 6.4, which says what it
// is by Kind. Nothing of it is on a disk, and it goes with the task.
//
// It lies below a directory that is a shared mount, as the mount namespaces of rund
// and containerd are not the same. It outlives rund: what was put there, and as which
// versions, is read back from it.
//
//	<dir>/files-<task>/record           versions, in the caller's words
//	<dir>/files-<task>/secrets/         what a container has at /run/secrets
//	    ..data -> ..1                   swapped in one step
//	    ..1/token
//	    token -> ..data/token
//	<dir>/files-<task>/configs/         the same at /run/configs
//	<dir>/files-<task>/identity/        the same where the service wants its certificate
//	<dir>/files-<task>/at/3             a file mounted by itself at another place
//
// A new version of all files of a directory appears in one step, as a symbolic link
// takes the place of another. A file that is mounted by itself cannot: it is written
// over where it is, in one call, which who reads at that moment may see half of.
//
// It knows nothing of keys: it is given plaintext, and wipes what it was given.
package taskfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

const prefix = "files-"

// Dir names a directory of files that a container gets.
type Dir string

// The directories there are.
const (
	Secrets  Dir = "secrets"
	Configs  Dir = "configs"
	Identity Dir = "identity" // put by itself, see PutDir
)

// File is one to be put. Ids are the host's.
type File struct {
	// Dir and Name, or Own: it is mounted by itself, and this is its number.
	Dir      Dir
	Name     string
	Own      int
	UID, GID int
	Mode     os.FileMode
	Data     []byte // wiped by Put
}

// Store is the directory of tasks' file systems. It is safe for concurrent use but
// for one task at a time.
type Store struct {
	dir string
	uid int // whose directories are: the container's root
	gid int

	kind    string
	options string
	fstype  string

	mu    sync.Mutex
	locks map[string]*lock // guarded by mu; by task
}

// Open finds out what the kernel offers. The directory is a shared mount, uid and
// gid are the host's ids of containers' root.
func Open(dir string, uid, gid int) (*Store, error) {
	s := &Store{dir: dir, uid: uid, gid: gid, locks: map[string]*lock{}}
	probe := filepath.Join(dir, prefix+"probe")
	if err := unmount(probe); err != nil {
		return nil, err
	}
	s.kind, s.fstype, s.options = "tmpfs noswap", "tmpfs", fmt.Sprintf("noswap,mode=0755,size=%d,nr_inodes=%d", sizeBytes, inodes)
	err := s.mount(probe)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.4
		s.kind, s.fstype, s.options = "ramfs", "ramfs", "mode=0755"
		err = s.mount(probe)
	}
	return s, errors.Join(err, unmount(probe))
}

// Kind says which file system keeps files out of swap.
func (s *Store) Kind() string { return s.kind }

func (s *Store) path(task string) string { return filepath.Join(s.dir, prefix+task) }

// DirPath is where a container's directory is on the host.
func (s *Store) DirPath(task string, d Dir) string { return filepath.Join(s.path(task), string(d)) }

// OwnPath is where a file is that is mounted by itself.
func (s *Store) OwnPath(task string, n int) string {
	return filepath.Join(s.path(task), "at", strconv.Itoa(n))
}

// lock is a task's.
type lock struct {
	sync.Mutex
	users int // who hold it or wait for it; guarded by the store's mu
}

// lock is held by what changes a task's files. It is kept for as long as somebody
// uses it: who waits and who comes later wait for the same one.
func (s *Store) lock(task string) (unlock func()) {
	s.mu.Lock()
	l := s.locks[task]
	if l == nil {
		l = &lock{}
		s.locks[task] = l
	}
	l.users++
	s.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.locks, task)
		}
	}
}

// Put gives a task these files and no others, and keeps record beside them. The
// files' data is wiped.
func (s *Store) Put(task string, files []File, record []byte) (err error) {
	defer func() {
		for _, f := range files {
			clear(f.Data)
		}
	}()
	if err := check(task, files, record, Secrets, Configs); err != nil {
		return err
	}
	defer s.lock(task)()
	at := s.path(task)
	fresh := !s.mounted(at)
	if fresh {
		if err := errors.Join(unmount(at), s.mount(at)); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, s.remove(task))
			}
		}()
	}
	// First what cannot be undone last: a failure leaves the former version.
	for _, d := range []Dir{Secrets, Configs} {
		if err := s.putDir(filepath.Join(at, string(d)), d, files); err != nil {
			return fmt.Errorf("files of a task: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(at, "at"), 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if f.Dir == "" {
			if err := putOwn(s.OwnPath(task, f.Own), f); err != nil {
				return fmt.Errorf("files of a task: %w", err)
			}
		}
	}
	return atomicfile.Write(filepath.Join(at, "record"), record)
}

func check(task string, files []File, record []byte, dirs ...Dir) error {
	if !ident.Valid(task) {
		return fmt.Errorf("%q is no task id", task)
	}
	if len(files) > MaxFiles {
		return fmt.Errorf("a task with %d files: at most %d are allowed", len(files), MaxFiles)
	}
	if len(record) > maxRecord {
		return fmt.Errorf("the record of a task's files has %d bytes: at most %d are allowed", len(record), maxRecord)
	}
	type key struct {
		d    Dir
		name string
		own  int
	}
	n, seen := 0, map[key]bool{}
	for _, f := range files {
		n += len(f.Data)
		k := key{f.Dir, f.Name, f.Own}
		switch {
		case f.Dir == "" && (f.Own < 0 || f.Own >= MaxFiles || f.Name != ""):
			return fmt.Errorf("file %d of a task has no place", f.Own)
		case f.Dir != "" && !slices.Contains(dirs, f.Dir):
			return fmt.Errorf("there is no directory %q", f.Dir)
		case f.Dir != "":
			k.own = 0
			if err := CheckName(f.Name); err != nil {
				return err
			}
		}
		if seen[k] {
			return fmt.Errorf("two files of a task have the name %q", f.Name)
		}
		seen[k] = true
		if f.Mode&^0o777 != 0 {
			return fmt.Errorf("file %q: mode %o has more than permissions", f.Name, f.Mode)
		}
	}
	if n > MaxBytes {
		return fmt.Errorf("the files of a task have %d bytes in all: at most %d are allowed", n, MaxBytes)
	}
	return nil
}

// CheckName refuses what is no name in a directory, or ours.
func CheckName(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, "..") || name == "." {
		return fmt.Errorf("%q is no name of a file: it has 1 to %d characters, no slash, and does not begin with two dots", name, maxName)
	}
	return nil
}

// Record is what was kept by the last Put; fs.ErrNotExist: the task has no files.
func (s *Store) Record(task string) ([]byte, error) {
	if !ident.Valid(task) || !s.mounted(s.path(task)) {
		return nil, fs.ErrNotExist
	}
	return atomicfile.ReadBounded(filepath.Join(s.path(task), "record"), maxRecord)
}

// Remove takes a task's files away, from its container as well. A task without is
// no error.
func (s *Store) Remove(task string) error {
	if !ident.Valid(task) {
		return fmt.Errorf("%q is no task id", task)
	}
	defer s.lock(task)()
	return s.remove(task)
}

// remove deletes before it unmounts: a mount namespace that kept the file system
// has nothing of it then. What is not mounted is not ours to delete.
func (s *Store) remove(task string) error {
	at := s.path(task)
	var errs []error
	if s.mounted(at) {
		entries, err := os.ReadDir(at)
		errs = append(errs, err)
		for _, e := range entries {
			errs = append(errs, os.RemoveAll(filepath.Join(at, e.Name())))
		}
	}
	return errors.Join(append(errs, unmount(at))...)
}

// List returns the tasks with files.
func (s *Store) List() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutPrefix(e.Name(), prefix); ok && ident.Valid(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *Store) mount(at string) error {
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(s.fstype, at, s.fstype, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, s.options); err != nil {
		return errors.Join(fmt.Errorf("mount %s: %w", s.kind, err), os.Remove(at))
	}
	return nil
}

// mounted reports whether at is a file system of ours.
func (s *Store) mounted(at string) bool {
	var here, above unix.Stat_t
	return unix.Lstat(at, &here) == nil && unix.Lstat(filepath.Dir(at), &above) == nil && here.Dev != above.Dev
}

func unmount(at string) error {
	err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
