package taskfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// PutDir makes a directory of a task show these files and no others, beside whatever
// else the task has. A file that was there before under its name keeps its owner. The
// files' data is wiped.
func (s *Store) PutDir(task string, d Dir, files []File) (err error) {
	defer func() {
		for _, f := range files {
			clear(f.Data)
		}
	}()
	if err := check(task, files, nil, d); err != nil {
		return err
	}
	defer s.lock(task)()
	at := s.path(task)
	if !s.mounted(at) {
		if err := errors.Join(unmount(at), s.mount(at)); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, s.remove(task))
			}
		}()
	}
	for i, f := range files {
		var was unix.Stat_t
		if err := unix.Lstat(filepath.Join(s.DirPath(task, d), data, f.Name), &was); err == nil {
			files[i].UID, files[i].GID = int(was.Uid), int(was.Gid)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := s.putDir(s.DirPath(task, d), d, files); err != nil {
		return fmt.Errorf("files of a task: %w", err)
	}
	return nil
}

// Own gives the files of a directory, and those that take their place, to somebody.
// Ids are the host's.
func (s *Store) Own(task string, d Dir, uid, gid int) error {
	defer s.lock(task)()
	if !s.mounted(s.path(task)) {
		return fs.ErrNotExist
	}
	now := filepath.Join(s.DirPath(task, d), data)
	entries, err := os.ReadDir(now)
	for _, e := range entries {
		err = errors.Join(err, os.Lchown(filepath.Join(now, e.Name()), uid, gid))
	}
	return err
}

// Read is what a directory of a task shows under a name, of at most max bytes;
// fs.ErrNotExist: there is none.
func (s *Store) Read(task string, d Dir, name string, max int64) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	defer s.lock(task)()
	if !s.mounted(s.path(task)) {
		return nil, fs.ErrNotExist
	}
	return atomicfile.ReadBounded(filepath.Join(s.DirPath(task, d), data, name), max)
}
