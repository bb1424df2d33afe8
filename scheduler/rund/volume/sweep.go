package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Sweep is Driver's. What is deleted is a container's: it may be as deep and as wide as
// its disk allows, and have any names. So nothing is held that grows with it: two
// descriptors are open at a time, a directory that is not empty is moved up beside the
// others to be deleted in its turn, and what a crash interrupts goes on from there.
func (l *Local) Sweep(ctx context.Context) error {
	base, err := openDir(l.dir)
	if err != nil {
		return err
	}
	defer base.Close()
	s := sweeping{ctx: ctx, base: base}
	for {
		s.done, s.failed, s.first = 0, 0, nil
		if err := s.pass(); err != nil {
			return err
		}
		if s.done == 0 { // nothing is left, or nothing more can be done
			return s.err()
		}
	}
}

type sweeping struct {
	ctx  context.Context
	base *os.File
	// todo are directories that were moved up, as many as need not be sought again.
	todo []string
	done int // entries that are not where they were
	// Of this pass: how many could not be deleted, and why the first could not.
	failed int
	first  error
}

// pass deletes what it meets. What is moved up meanwhile it may meet or not.
func (s *sweeping) pass() error {
	if _, err := s.base.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for {
		names, err := s.base.Readdirnames(sweepBatch)
		for _, name := range names {
			if !strings.HasPrefix(name, removed) {
				continue
			}
			for s.todo = append(s.todo, name); len(s.todo) > 0; {
				next := s.todo[len(s.todo)-1]
				s.todo = s.todo[:len(s.todo)-1]
				if err := s.tree(next); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tree deletes what of base has that name, but for directories in it that have something:
// those are in base from then on.
func (s *sweeping) tree(name string) error {
	fd, err := unix.Openat2(int(s.base.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil // this pass met it before
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		s.note(unix.Unlinkat(int(s.base.Fd()), name, 0))
		return nil
	case err != nil:
		s.note(err)
		return nil
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	for {
		gone, err := s.empty(dir)
		if err != nil {
			return err
		}
		// What is deleted while it is read may hide something else.
		if err := unix.Unlinkat(int(s.base.Fd()), name, unix.AT_REMOVEDIR); err == nil || gone == 0 {
			s.note(err)
			return nil
		}
	}
}

// empty deletes and moves away what is in a directory, and returns how much.
func (s *sweeping) empty(dir *os.File) (gone int, err error) {
	before := s.done
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	for {
		names, err := dir.Readdirnames(sweepBatch)
		for _, name := range names {
			if err := s.ctx.Err(); err != nil {
				return 0, err
			}
			s.note(s.entry(dir, name))
		}
		if errors.Is(err, io.EOF) {
			return s.done - before, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func (s *sweeping) entry(dir *os.File, name string) error {
	fd := int(dir.Fd())
	err := unix.Unlinkat(fd, name, 0)
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	file := err
	switch err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); {
	case errors.Is(err, unix.ENOTDIR):
		return file
	case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
		return err
	}
	up := removed + ident.New()
	if err := unix.Renameat2(fd, name, int(s.base.Fd()), up, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	if len(s.todo) < maxTodo {
		s.todo = append(s.todo, up)
	}
	return nil
}

func (s *sweeping) note(err error) {
	switch {
	case err == nil:
		s.done++
	case errors.Is(err, unix.ENOENT):
	default:
		s.failed++
		if s.first == nil {
			s.first = err
		}
	}
}

func (s *sweeping) err() error {
	if s.first == nil {
		return nil
	}
	return fmt.Errorf("%d files of volumes that were removed cannot be deleted, the first because: %w", s.failed, oneline.Error(s.first, maxSaid))
}
