package control

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// TestStarted: who may not trace a process sees by its age whether the program at its
// path is the one that it was started as.
func TestStarted(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "redoubtd")
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	write(program, "x")
	p := Process{Name: "redoubtd", PID: 7, args: []string{program}, proc: filepath.Join(dir, "7")}
	boot := time.Now().Add(-time.Hour).Unix()
	write(filepath.Join(dir, "stat"), "cpu 1 2 3\nbtime "+decimal(boot)+"\nprocesses 9\n")
	born := func(after time.Duration) {
		write(filepath.Join(dir, "7", "stat"), "7 (a) b) S "+strings.Repeat("0 ", 18)+decimal(int64(after.Seconds()*hertz))+" 0 0\n")
	}
	born(2 * time.Hour) // after the file was written
	found := &Found{}
	if path, err := p.started(dir, found); err != nil || path != program || len(found.against) != 0 {
		t.Errorf("%s, %v, %q", path, err, found.against)
	}
	born(time.Minute)
	if _, err := p.started(dir, found); err != nil || !slices.Equal(found.against, []string{"redoubtd: " + program + " was changed after it was started"}) {
		t.Errorf("%v, %q", err, found.against)
	}
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if path, err := p.started(dir, found); err != nil || path != program+" (deleted)" {
		t.Errorf("%s, %v", path, err)
	}
	p.args[0] = "redoubtd"
	if _, err := p.started(dir, found); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name alone: %v", err)
	}
}
