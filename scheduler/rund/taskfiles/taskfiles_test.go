package taskfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

func open(t *testing.T) *Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root")
	}
	dir := t.TempDir()
	s, err := Open(dir, 100000, 100000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ids, _ := s.List()
		for _, id := range ids {
			if err := s.Remove(id); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestPut: what is put is there with its owner and mode, in memory that is not
// swapped; another version takes its place in one step; it outlives the process.
func TestPut(t *testing.T) {
	s, id := open(t), ident.New()
	plain := []byte("one")
	if err := s.Put(id, []File{
		{Dir: Secrets, Name: "token", UID: 100007, GID: 100008, Mode: 0o440, Data: plain},
		{Dir: Configs, Name: "app.conf", UID: 100000, GID: 100000, Mode: 0o444, Data: []byte("c1")},
		{Own: 3, UID: 100000, GID: 100000, Mode: 0o400, Data: []byte("a longer one")},
	}, []byte("r1")); err != nil {
		t.Fatal(err)
	}
	if string(plain) != "\x00\x00\x00" {
		t.Error("the plaintext was not wiped")
	}
	token, own := filepath.Join(s.DirPath(id, Secrets), "token"), s.OwnPath(id, 3)
	if got := read(t, token); got != "one" {
		t.Errorf("%q", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(token, &st); err != nil || st.Uid != 100007 || st.Gid != 100008 || st.Mode&0o7777 != 0o440 {
		t.Errorf("%v, %d:%d %o", err, st.Uid, st.Gid, st.Mode)
	}
	if err := unix.Stat(s.DirPath(id, Secrets), &st); err != nil || st.Uid != 100000 || st.Mode&0o7777 != 0o755 {
		t.Errorf("%v, %d %o", err, st.Uid, st.Mode)
	}
	mounts := read(t, "/proc/self/mountinfo")
	i := strings.Index(mounts, s.path(id)+" ")
	line, _, _ := strings.Cut(mounts[i:], "\n")
	if !strings.Contains(line, "nosuid,nodev,noexec") || s.Kind() == "tmpfs noswap" && !strings.Contains(line, "noswap") {
		t.Errorf("%s: mounted as %s", s.Kind(), line)
	}

	held, err := os.Open(own) // as a container has it
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	again, err := Open(s.dir, 100000, 100000) // a new rund
	if err != nil {
		t.Fatal(err)
	}
	if r, err := again.Record(id); err != nil || string(r) != "r1" {
		t.Errorf("%q, %v", r, err)
	}
	if err := again.Put(id, []File{
		{Dir: Secrets, Name: "token", UID: 100000, GID: 100000, Mode: 0o400, Data: []byte("two")},
		{Dir: Configs, Name: "app.conf", Mode: 0o444, Data: []byte("c2")},
		{Own: 3, Mode: 0o400, Data: []byte("short")},
	}, []byte("r2")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, _ := held.ReadAt(b, 0)
	if read(t, token) != "two" || string(b[:n]) != "short" || read(t, filepath.Join(s.DirPath(id, Configs), "app.conf")) != "c2" {
		t.Errorf("not all is of the second version: %q", b[:n])
	}
	out, err := exec.Command("grep", "-rl", "one", s.path(id)).Output()
	if err == nil {
		t.Errorf("the first version is still there: %s", out)
	}
	if err := s.Remove(id); err != nil {
		t.Fatal(err)
	}
	if n, _ := held.ReadAt(b, 0); n != 5 {
		t.Error("who has a file open loses it") // the kernel's promise
	}
	if _, err := s.Record(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a record: %v", err)
	}
	if _, err := os.Stat(s.path(id)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := s.Remove(id); err != nil {
		t.Errorf("again: %v", err)
	}
}

// TestSwapIsAtomic: a reader finds two files of one version whenever it looks, as
// long as it follows ..data once.
func TestSwapIsAtomic(t *testing.T) {
	s, id := open(t), ident.New()
	put := func(v int) {
		d := fmt.Sprintf("%064d", v)
		if err := s.Put(id, []File{{Dir: Secrets, Name: "a", Mode: 0o400, Data: []byte(d)}, {Dir: Secrets, Name: "b", Mode: 0o400, Data: []byte(d)}}, nil); err != nil {
			t.Error(err)
		}
	}
	put(0)
	dir := s.DirPath(id, Secrets)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			d, err := os.OpenRoot(filepath.Join(dir, data))
			if err != nil {
				continue // removed between the link and what it names
			}
			a, erra := d.ReadFile("a")
			b, errb := d.ReadFile("b")
			d.Close()
			if erra == nil && errb == nil && (string(a) != string(b) || len(a) != 64) {
				t.Errorf("%q and %q", a, b)
				return
			}
		}
	})
	for v := 1; v <= 300; v++ {
		put(v)
	}
	close(stop)
	wg.Wait()
}

// TestOneAtATime: who puts a task's files and who removes them never do so at once,
// and nothing is kept of tasks that are gone.
func TestOneAtATime(t *testing.T) {
	s, id := open(t), ident.New()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for range 40 {
				err := s.Put(id, []File{{Dir: Secrets, Name: "a", Mode: 0o400, Data: []byte("x")}}, []byte("r"))
				if i%2 == 0 {
					err = s.Remove(id)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := s.Remove(id); err != nil || len(s.locks) > 0 {
		t.Errorf("%d locks are kept, %v", len(s.locks), err)
	}
}

func TestRefused(t *testing.T) {
	s, id := open(t), ident.New()
	many := make([]File, MaxFiles+1)
	for i := range many {
		many[i] = File{Dir: Secrets, Name: fmt.Sprint(i)}
	}
	for want, files := range map[string][]File{
		"no name of a file":     {{Dir: Secrets, Name: "../x"}},
		"no name of a":          {{Dir: Secrets, Name: "..data"}},
		"is no name":            {{Dir: Secrets, Name: strings.Repeat("a", 256)}},
		"two files":             {{Dir: Secrets, Name: "a"}, {Dir: Secrets, Name: "a"}},
		"no directory":          {{Dir: "at", Name: "1"}},
		"has no place":          {{Own: MaxFiles}},
		"more than permissions": {{Dir: Secrets, Name: "a", Mode: 0o4755}},
		"bytes in all":          {{Dir: Secrets, Name: "a", Data: make([]byte, MaxBytes+1)}},
		"at most 64":            many,
	} {
		if err := s.Put(id, files, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := s.Put("../etc", nil, nil); err == nil {
		t.Error("no task id is accepted")
	}
	if ids, _ := s.List(); len(ids) > 0 {
		t.Errorf("a refusal leaves %v", ids)
	}
}
