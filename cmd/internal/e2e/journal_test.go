package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
)

// TestJournalIsImported unlocks a manager while there is no quorum, first with a
// wrong key, and is refused there: once there is a quorum all of it is in the audit
// log, once. Then the journal is cut by hand, and the audit log says so.
func TestJournalIsImported(t *testing.T) {
	t.Parallel()
	c := up(t, "journal", 3, 0)
	const alone = "manager-3"
	id := c.nodeID(alone)
	eventually(t, time.Minute, func() string { // all that there was is there
		if n := len(c.imported(id, "unlock", "done")) + len(c.imported(id, "import-keyset", "begun")); n == 0 {
			return "nothing of " + alone + "'s keyd is in the audit log"
		}
		return ""
	})
	before := len(c.imported(id, "unlock", "done"))
	for _, h := range []string{"manager-1", "manager-2", alone} {
		c.lab("stop", h)
	}
	c.lab("start", alone)
	wrong := autolock.NewOperatorKey()
	c.refused(alone, 4, "", []byte(wrong.String()+"\n"), "unlock")
	if r := c.onIn(alone, c.key(), "unlock", "--timeout", "5s"); r.code == 4 {
		t.Fatalf("unlock: %v", r)
	}
	at := time.Now()
	c.lab("start", "--unlock", "manager-1")
	eventually(t, time.Minute, func() string {
		if n, m := len(c.imported(id, "unlock", "denied")), len(c.imported(id, "unlock", "done")); n != 1 || m != before+1 {
			return fmt.Sprintf("the audit log has %d wrong keys, and %d times that it was unlocked, not %d", n, m, before+1)
		}
		return ""
	})
	if r := c.imported(id, "unlock", "denied")[0]; !r.Imported.Written.Before(at) || r.Reason != "wrong key" {
		t.Errorf("the wrong key is told as %v", r)
	}

	c.lab("stop", alone)
	path := filepath.Join(c.host(alone).DataDir, "keyd", "journal")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := raw[:bytes.LastIndex(raw, []byte(`{"seq"`))]
	if err := os.WriteFile(path, cut, 0o600); err != nil {
		t.Fatal(err)
	}
	c.lab("start", "--unlock", alone)
	eventually(t, time.Minute, func() string {
		faults, unlocks := c.imported(id, "journal", "fault"), c.imported(id, "unlock", "done")
		if len(faults) != 1 || !strings.Contains(faults[0].Reason, "does not go on behind line") || len(unlocks) != before+2 {
			return fmt.Sprintf("a journal that was cut: %v, and %d times that it was unlocked, not %d", faults, len(unlocks), before+2)
		}
		return ""
	})
}

type importedRecord struct {
	Method, Outcome, Reason string
	Caller                  struct{ Node string }
	Imported                struct{ Written time.Time }
}

// imported are the records of an event of a manager's journal; none where nobody
// answers.
func (c *cluster) imported(node, event, outcome string) (out []importedRecord) {
	c.t.Helper()
	r := c.on("manager-1", "audit", "ls", "--last", "4000", "--format", "json", "--filter", "node="+node, "--filter", "outcome="+outcome)
	var all []importedRecord
	if r.code != 0 || json.Unmarshal([]byte(r.stdout), &all) != nil {
		return nil
	}
	for _, rec := range all {
		if rec.Method == "keyd/"+event {
			out = append(out, rec)
		}
	}
	return out
}
