package contexts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSigned: the greatest serial is known; what is beside the keys says so where
// another command has it, and nothing of contexts.
func TestSigned(t *testing.T) {
	d := Deployers{Dir: filepath.Join(t.TempDir(), "lock")}
	for _, serial := range []int64{7, 5} {
		if err := d.RememberSigned(t.Context(), "cluster", "web", serial); err != nil {
			t.Fatal(err)
		}
	}
	for service, want := range map[string]int64{"web": 7, "db": 0} {
		if got, err := d.LastSigned("cluster", service); got != want || err != nil {
			t.Errorf("%s: %d, %v", service, got, err)
		}
	}
	hangs, err := os.OpenFile(filepath.Join(d.Dir, "signed.lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	if err := syscall.Flock(int(hangs.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err = d.RememberSigned(ctx, "cluster", "web", 8)
	if !errors.Is(err, ErrBusy) || !strings.HasPrefix(err.Error(), filepath.Join(d.Dir, "signed")+": another command") {
		t.Errorf("beside one that hangs: %v", err)
	}
	if got, _ := d.LastSigned("cluster", "web"); got != 7 {
		t.Errorf("%d was written without the lock", got)
	}
}
