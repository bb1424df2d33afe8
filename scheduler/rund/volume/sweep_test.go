package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// deep makes a directory of so many levels below at, as a container may: by a working
// directory, whatever the length of the path.
func deep(t *testing.T, at string, levels int) {
	t.Helper()
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for range levels {
		if err != nil {
			t.Fatal(err)
		}
		var next int
		if err = unix.Mkdirat(fd, "d", 0o700); err == nil {
			next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}

func (w *world) wantSwept() {
	w.t.Helper()
	if err := w.store.Sweep(w.t.Context()); err != nil {
		w.t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(w.dir, removed+"*")); err != nil || len(left) > 0 {
		w.t.Errorf("%d are left: %.100q, %v", len(left), left, err)
	}
}

// TestSweepOfADeepTree: what is deleted takes neither descriptors nor memory of its own.
func TestSweepOfADeepTree(t *testing.T) {
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "volumes")}
	if memory, err := os.MkdirTemp("/dev/shm", "redoubt-test-"); err == nil { // a disk is slow
		t.Cleanup(func() { os.RemoveAll(memory) })
		w.dir = filepath.Join(memory, "volumes")
	}
	w.open()
	v, stays := named("db"), named("stays")
	at, kept := w.mustUse("a", v, nil), w.mustUse("a", stays, nil)
	deep(t, at, 70_000)
	outside := t.TempDir()
	err := errors.Join(
		os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o600),
		os.WriteFile(filepath.Join(kept, "file"), []byte("kept"), 0o600),
		os.Symlink(outside, filepath.Join(at, "link")),
		os.Symlink(outside, filepath.Join(at, "d/link")),
		unix.Mkfifo(filepath.Join(at, "d/d/pipe"), 0o600),
		os.Mkdir(filepath.Join(at, "closed"), 0),
		os.Mkdir(filepath.Join(at, removed+"x"), 0o700))
	for i := range 1500 { // more than are kept in mind
		err = errors.Join(err, os.MkdirAll(filepath.Join(at, "wide", strconv.Itoa(i), "sub"), 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	w.store.Release("a")
	if err := w.store.Remove(t.Context(), v.GetId()); err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := was
	few.Cur = 64
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	w.wantSwept()
	if read(t, filepath.Join(outside, "file")) != "outside" || read(t, filepath.Join(kept, "file")) != "kept" {
		t.Error("another's data is gone")
	}
}

// TestSweepIsInterrupted: it ends at once, and goes on where it was.
func TestSweepIsInterrupted(t *testing.T) {
	w := newWorld(t)
	v := named("db")
	deep(t, w.mustUse("a", v, nil), 1000)
	w.store.Release("a")
	if err := w.store.Remove(t.Context(), v.GetId()); err != nil {
		t.Fatal(err)
	}
	ctx := &until{Context: t.Context(), calls: 300}
	if err := w.store.Sweep(ctx); !errors.Is(err, context.Canceled) || ctx.calls < -1 {
		t.Fatalf("%v, asked %d times after the end", err, -ctx.calls)
	}
	w.open()
	w.wantSwept()
}

// until is a context that ends when it was asked so often.
type until struct {
	context.Context
	calls int
}

func (u *until) Err() error {
	if u.calls--; u.calls < 0 {
		return context.Canceled
	}
	return nil
}

// TestSweepLeavesMounts: what is mounted somewhere below is not deleted, and what is beside is.
func TestSweepLeavesMounts(t *testing.T) {
	w := newWorld(t)
	v := named("db")
	at := w.mustUse("a", v, nil)
	below := filepath.Join(w.dir, removed+"x", "data", "mounted")
	outside := t.TempDir()
	if err := errors.Join(os.MkdirAll(below, 0o700), os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o600),
		os.WriteFile(filepath.Join(at, "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(outside, below, "", unix.MS_BIND, ""); err != nil {
		t.Fatal("a file system of its own cannot be mounted here: ", err)
	}
	unmount := func() { // wherever it is by now
		at, _ := filepath.Glob(filepath.Join(w.dir, removed+"*", "mounted"))
		for _, at := range append(at, below) {
			unix.Unmount(at, unix.MNT_DETACH)
		}
	}
	t.Cleanup(unmount)
	w.store.Release("a")
	if err := errors.Join(w.store.Remove(t.Context(), v.GetId()), os.WriteFile(filepath.Join(w.dir, removed+"x", "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Sweep(t.Context()); !errors.Is(err, unix.EBUSY) || len(err.Error()) > 400 {
		t.Error(err)
	}
	if read(t, filepath.Join(outside, "file")) != "outside" {
		t.Error("what is mounted is gone")
	}
	if left, err := filepath.Glob(filepath.Join(w.dir, removed+"*", "file")); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
	unmount()
	w.wantSwept()
}
