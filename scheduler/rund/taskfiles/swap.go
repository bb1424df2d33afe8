package taskfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names in a directory that are no file's.
const (
	data    = "..data"
	dataNew = "..data_new"
)

// putDir makes the directory show the files that are its own.
func (s *Store) putDir(dir string, d Dir, files []File) error {
	want := map[string]bool{}
	for _, f := range files {
		if f.Dir == d {
			want[f.Name] = true
		}
	}
	if err := s.mkdir(dir); err != nil {
		return err
	}
	former, err := os.Readlink(filepath.Join(dir, data))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(want) == 0 && former == "" {
		return nil
	}
	next := ".." + strconv.Itoa(generation(former)+1)
	// A crash may have left one of that name, which nobody sees.
	if err := os.RemoveAll(filepath.Join(dir, next)); err != nil {
		return err
	}
	if err := s.mkdir(filepath.Join(dir, next)); err != nil {
		return err
	}
	for _, f := range files {
		if f.Dir == d {
			if err := write(filepath.Join(dir, next, f.Name), f); err != nil {
				return errors.Join(err, os.RemoveAll(filepath.Join(dir, next)))
			}
		}
	}
	if err := os.Remove(filepath.Join(dir, dataNew)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(next, filepath.Join(dir, dataNew)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, dataNew), filepath.Join(dir, data)); err != nil {
		return err
	}
	return tidy(dir, next, want)
}

// tidy makes the names in dir those wanted, and removes other generations.
func tidy(dir, current string, want map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == data || name == current:
		case want[name]:
			have[name] = true
		default:
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	for name := range want {
		if !have[name] {
			if err := os.Symlink(filepath.Join(data, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// generation reads the number in the name of a generation; 0: it has none.
func generation(name string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(name, ".."))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// mkdir makes a directory that the container's root owns and all may look into:
// what is in it has permissions of its own.
func (s *Store) mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return errors.Join(os.Chmod(path, 0o755), os.Lchown(path, s.uid, s.gid))
}

// write makes a file that nobody but the owner it gets has seen.
func write(path string, f File) error {
	fd, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = fd.Write(f.Data)
	return errors.Join(err, own(fd, f), fd.Close())
}

func own(fd *os.File, f File) error {
	return errors.Join(fd.Chown(f.UID, f.GID), fd.Chmod(f.Mode))
}

// putOwn writes over a file where it is: a container has it mounted.
func putOwn(path string, f File) error {
	fd, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return write(path, f)
	}
	if err != nil {
		return err
	}
	n, err := fd.WriteAt(f.Data, 0)
	if err == nil {
		err = fd.Truncate(int64(n))
	}
	if err != nil {
		err = fmt.Errorf("write over: %w", err)
	}
	return errors.Join(err, own(fd, f), fd.Close())
}
