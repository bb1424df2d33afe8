package node

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk with room for a small file, and not for a segment of the log, is full.
func TestSmallDisk(t *testing.T) {
	d := disk{t.TempDir()}
	if err := unix.Mount("tmpfs", d.dir, "tmpfs", 0, "size=20m,mode=0700"); err != nil {
		t.Fatalf("mounting a small disk (run as root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := d.takesWrites(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.path("fill"), make([]byte, 10<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.takesWrites(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free 17 MiB") {
		t.Errorf("10 MiB are free: %v", err)
	}
	if err := os.Remove(d.path("fill")); err != nil {
		t.Fatal(err)
	}
	if err := d.takesWrites(); err != nil {
		t.Errorf("it has room again: %v", err)
	}
}
