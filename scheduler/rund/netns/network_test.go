package netns

import (
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// sharedDir is a store's directory in a mount namespace of the test's own thread's
// making; it goes with the test.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, flags := range []uintptr{unix.MS_BIND, unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount(dir, dir, "", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// owner is the user namespace that owns the network namespace at path.
func owner(t *testing.T, path string) (dev, ino uint64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return uint64(st.Dev), st.Ino
}

func TestNetworks(t *testing.T) {
	s, err := Open(sharedDir(t), func(string) IDMap { return IDMap{1 << 30, 65536} })
	if err != nil {
		t.Fatal(err)
	}
	sync := func(keep bool, ids ...string) {
		t.Helper()
		if failed, err := s.SyncNetworks(ids, keep); err != nil || len(failed) > 0 {
			t.Fatalf("%v %v", failed, err)
		}
	}
	inode := func(id string) uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(s.NetworkPath(id), &st); err != nil || !isNamespace(s.NetworkPath(id)) {
			t.Fatalf("%s is no namespace: %v", id, err)
		}
		return st.Ino
	}
	a, b, task := ident.New(), ident.New(), ident.New()
	if err := s.Create(task); err != nil {
		t.Fatal(err)
	}
	defer s.Remove(task)
	sync(false, a)
	first := inode(a)

	// Its owner is the host's user namespace; a container's has one of its own.
	dev, ino := owner(t, s.NetworkPath(a))
	if hd, hi := owner(t, "/proc/self/ns/net"); hd != dev || hi != ino {
		t.Error("a network's namespace is not the host's")
	}
	if _, other := owner(t, s.Path(task)); other == ino {
		t.Error("a sandbox is the host's")
	}

	// Another Store finds it again, keeps what it is not told of, and then does not.
	if s, err = Open(s.dir, s.ids); err != nil {
		t.Fatal(err)
	}
	sync(true, b)
	if inode(a) != first {
		t.Error("a namespace was made anew")
	}
	sync(false, a, b)
	if inode(a) != first || inode(b) == first {
		t.Error("a namespace was made anew, or is shared")
	}
	// A crash between the file and the mount.
	c := ident.New()
	if err := os.WriteFile(s.NetworkPath(c), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sync(false, b, c, Ingress)
	inode(c)
	inode(Ingress)
	if list, err := s.Networks(); err != nil || len(list) != 3 || slices.Contains(list, a) {
		t.Errorf("networks %v, %v", list, err)
	}
	sync(false)
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) != 2 { // the task's pair stays
		t.Errorf("left: %v, %v", entries, err)
	}
	for _, id := range []string{"", "../x", "UPPER"} {
		if failed, _ := s.SyncNetworks([]string{id}, true); failed[id] == "" {
			t.Errorf("%q was accepted", id)
		}
	}
	runtime.KeepAlive(s)
}
