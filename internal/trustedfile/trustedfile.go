// Package trustedfile opens what root of this machine vouches for: programs, and files
// that decide what is trusted.
package trustedfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Open opens a regular file that nobody but root can have written or put
// there: it and every directory above are root's, not writable by others, and no
// symbolic link is followed. Each step is taken from the descriptor of the one
// before, so that what was looked at is what is used.
func Open(path string) (*os.File, error) {
	dir, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	at := "/"
	for _, name := range splitPath(filepath.Dir(path)) {
		at = filepath.Join(at, name)
		next, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(dir)
		if err != nil {
			return nil, explain(at, err)
		}
		dir = next
		if err := trustedDir(dir, at); err != nil {
			unix.Close(dir)
			return nil, err
		}
	}
	defer unix.Close(dir)
	// Not blocking: it may be a pipe.
	fd, err := unix.Openat(dir, filepath.Base(path), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain(path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = fmt.Errorf("%s is no regular file", path)
	case st.Uid != 0 || st.Mode&0o022 != 0:
		err = fmt.Errorf("%s may be written by others than root: chown it to root and chmod go-w it", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func trustedDir(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// In a sticky directory others cannot replace what is root's.
	if st.Uid != 0 || st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("directory %s may be written by others than root: chown it to root and chmod go-w it", path)
	}
	return nil
}

func splitPath(path string) (names []string) {
	for path != "/" && path != "." {
		names = append([]string{filepath.Base(path)}, names...)
		path = filepath.Dir(path)
	}
	return names
}

func explain(path string, err error) error {
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s is a symbolic link, or no directory: name the real one", path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no %s on this node", path)
	}
	return &fs.PathError{Op: "open", Path: path, Err: err}
}

// Read reads a trusted file of at most so many bytes.
func Read(path string, most int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return b, err
}
