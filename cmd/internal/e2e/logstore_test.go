package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// otherLogStore keeps the manager's log in the database from here on, and looks
// for what must not be in it. Before, secretsStayOut has looked into segments.
func otherLogStore(t *testing.T, c *cluster) {
	h := c.host("manager-1")
	pattern := filepath.Join(h.DataDir, "control", "raft*", "wal*", "*.wal")
	segments, _ := filepath.Glob(pattern)
	if len(segments) == 0 {
		t.Error("there are no segments: a new log is not kept in them")
	}
	for _, s := range segments {
		fi, err := os.Stat(s)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is of mode %v", s, fi.Mode())
		}
	}
	c.lab("stop", h.Name)
	c.logStore(h, "bolt")
	c.lab("start", h.Name)
	c.unlock(h.Name)
	secretsStayOut(t, c)
	if segments, _ := filepath.Glob(pattern); len(segments) > 0 {
		t.Errorf("%v are left: the log is not kept as asked", segments)
	}
	// It is a manager as before.
	eventually(t, time.Minute, func() string {
		if r := c.on(h.Name, "node", "ls"); r.code != 0 {
			return fmt.Sprint(r)
		}
		return ""
	})
}
