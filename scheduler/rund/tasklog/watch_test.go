package tasklog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestManyFollowers: more readers follow than a user may have inotify instances,
// two of each log, and hear what is written though others of the same log, and
// the directory of another, have gone.
func TestManyFollowers(t *testing.T) {
	const logs = 150
	root := t.TempDir()
	dir := func(i int) string { return filepath.Join(root, fmt.Sprint(i)) }
	done := make(chan struct{})
	heard := make(chan string, 4*logs)
	var readers sync.WaitGroup
	follow := func(i int, done chan struct{}) {
		readers.Go(func() {
			err := Read(t.Context(), dir(i), Query{Tail: -1, Follow: true, Done: done}, func(r Record) error {
				heard <- fmt.Sprintf("%d %s", i, r.Data)
				return nil
			})
			if err != nil {
				t.Errorf("log %d: %v", i, err)
			}
		})
	}
	write := func(i int, text string) {
		w, err := NewWriter(dir(i), 1<<20)
		if err == nil {
			err = errors.Join(w.Write(Record{Time: time.Now(), Data: []byte(text)}), w.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	hear := func(n int, text string) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		got := map[string]int{}
		for range n {
			select {
			case h := <-heard:
				got[h]++
			case <-deadline:
				t.Fatalf("of %d times %q there came %d: %v", n, text, len(got), got)
			}
		}
		for h := range got {
			if !strings.HasSuffix(h, text) {
				t.Fatalf("heard %q, want only %q", h, text)
			}
		}
	}
	soon := make(chan struct{})
	for i := range logs {
		if err := os.Mkdir(dir(i), 0o755); err != nil {
			t.Fatal(err)
		}
		write(i, "first")
		follow(i, done)
		follow(i, soon)
	}
	hear(2*logs, "first")
	if n := instances(t); n != 1 {
		t.Errorf("%d inotify instances for %d readers", n, 2*logs)
	}
	close(soon)
	if err := os.RemoveAll(dir(0)); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < logs; i++ {
		write(i, "second")
	}
	got := map[string]bool{}
	for deadline := time.After(30 * time.Second); len(got) < logs-1; {
		select {
		case h := <-heard: // once or twice: those that end read what is left
			got[h] = true
		case <-deadline:
			t.Fatalf("%d of %d logs were followed on", len(got), logs-1)
		}
	}
	close(done)
	readers.Wait()
	if n := instances(t); n != 0 {
		t.Errorf("%d inotify instances are left", n)
	}
}

// instances counts this process's inotify instances.
func instances(t *testing.T) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to == "anon_inode:inotify" {
			n++
		}
	}
	return n
}
