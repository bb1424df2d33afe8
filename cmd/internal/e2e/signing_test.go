package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var rootLine = regexp.MustCompile(`(?m)^[A-Za-z0-9+/]{43}=$`)

// TestCheckpoints keeps a checkpoint of the audit log outside, which every manager
// signed, and holds the log against it: later, on another manager, and after the
// keyset was renewed. One that was changed by hand is refused.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	c := up(t, "checks", 3, 0)
	kept, keys := filepath.Join(t.TempDir(), "kept"), filepath.Join(t.TempDir(), "keys")
	note := ""
	// The leader makes one a minute: the first ones may lack who was still joining.
	eventually(t, 4*time.Minute, func() string {
		r := c.on("manager-2", "audit", "checkpoint")
		if note = r.stdout; r.code != 0 || strings.Count(note, "\n— ") != 4 {
			return fmt.Sprintf("no checkpoint that three managers signed: %v", r)
		}
		return ""
	})
	c.write(kept, note)
	c.write(keys, c.ok("manager-1", "audit", "checkpoint", "--keys"))
	held := func(host string, args ...string) {
		t.Helper()
		r := c.on(host, append([]string{"audit", "verify", "--checkpoint", kept}, args...)...)
		if r.code != 0 || !strings.Contains(r.stderr, "signed by the cluster and 3 of its managers on ") {
			t.Errorf("%s: %v: %v", host, args, r)
		}
	}
	held("manager-1")
	held("manager-3", "--keys", keys)

	forged := filepath.Join(t.TempDir(), "forged")
	c.write(forged, rootLine.ReplaceAllString(note, strings.Repeat("A", 43)+"="))
	for _, more := range [][]string{nil, {"--keys", keys}} {
		c.refused("manager-1", 1, "forged was changed: the signature of redoubt/", nil, append([]string{"audit", "verify", "--checkpoint", forged}, more...)...)
	}

	c.ok("manager-1", "node", "demote", "manager-3")
	eventually(t, 3*time.Minute, func() string {
		all := c.ok("manager-1", "audit", "checkpoint", "--keys")
		if strings.Count(all, "/audit/1+") < 2 {
			return "no checkpoint by the next keyset: " + all
		}
		return ""
	})
	held("manager-1")
	held("manager-2", "--keys", keys)
	if again := c.ok("manager-1", "audit", "checkpoint"); strings.Count(again, "\n— ") != 3 {
		t.Errorf("two managers are left, and the checkpoint is %s", again)
	}
}

func (c *cluster) write(path, content string) {
	c.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
}
