package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// CopyFrom is a Fill that copies what an image has at path, whose root file system root
// is: files, directories and symbolic links, with owner, mode and time. Links in the image
// lead nowhere but into it. most bounds the bytes of all files.
func CopyFrom(root *os.File, path string, most int64) Fill {
	return func(ctx context.Context, to *os.File) error {
		fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return nil // the image has no such directory
		}
		if err != nil {
			return fmt.Errorf("what the image has there: %w", err)
		}
		from := os.NewFile(uintptr(fd), path)
		defer from.Close()
		c := copying{ctx: ctx, left: most, entries: maxEntries}
		if err := c.dir(from, to, 0); err != nil {
			return fmt.Errorf("copy what the image has there: %w", err)
		}
		return nil
	}
}

type copying struct {
	ctx     context.Context
	left    int64 // bytes
	entries int
}

// dir copies what is in a directory, then what it is: its mode may forbid to write.
func (c *copying) dir(from, to *os.File, depth int) error {
	if depth > maxDepth {
		return refuse("its directories are more than %d deep", maxDepth)
	}
	for {
		names, err := from.Readdirnames(256)
		for _, name := range names {
			if err := c.entry(from, to, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return like(from, to)
		}
		if err != nil {
			return err
		}
	}
}

func (c *copying) entry(from, to *os.File, name string, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if c.entries--; c.entries < 0 {
		return refuse("it has more than %d files", maxEntries)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return c.link(from, to, name, &st)
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		return nil // sockets; devices and pipes are in no image here
	}
	fd, err := unix.Openat(int(from.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	source := os.NewFile(uintptr(fd), name)
	defer source.Close()
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil {
			return err
		}
		flags = unix.O_RDONLY | unix.O_DIRECTORY
	}
	if fd, err = unix.Openat(int(to.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600); err != nil {
		return err
	}
	target := os.NewFile(uintptr(fd), name)
	if flags&unix.O_DIRECTORY != 0 {
		err = c.dir(source, target, depth+1)
	} else if err = c.file(source, target); err == nil {
		err = like(source, target)
	}
	return errors.Join(err, target.Close())
}

func (c *copying) file(from, to *os.File) error {
	n, err := io.Copy(to, io.LimitReader(reading{c.ctx, from}, c.left+1))
	if c.left -= n; c.left < 0 {
		return refuse("it is larger than an image may be here (rund.limits.image_bytes)")
	}
	return err
}

// reading ends with its context.
type reading struct {
	ctx context.Context
	r   io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func (c *copying) link(from, to *os.File, name string, st *unix.Stat_t) error {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(from.Fd()), name, b)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(b[:n]), int(to.Fd()), name); err != nil {
		return err
	}
	return unix.Fchownat(int(to.Fd()), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

// like gives a file the owner, mode and time of another. The owner first: to change it
// clears bits of the mode.
func like(from, to *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	fd := int(to.Fd())
	if err := errors.Join(unix.Fchown(fd, int(st.Uid), int(st.Gid)), unix.Fchmod(fd, st.Mode&0o7777)); err != nil {
		return err
	}
	at := unix.NsecToTimeval(time.Unix(st.Mtim.Unix()).UnixNano())
	return unix.Futimes(fd, []unix.Timeval{at, at})
}
