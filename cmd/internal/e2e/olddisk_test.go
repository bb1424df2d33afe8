package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOldDisk is the story of a manager whose disk is replaced by a copy of last
// week's: it has forgotten what it voted and acknowledged. It finds out, does
// not vote or serve, waits while the others could not do without it, and then
// begins anew without a vote, which it gets back.
func TestOldDisk(t *testing.T) {
	t.Parallel()
	c := up(t, "olddisk", 3, 0)
	c.load()
	leader := c.leader("manager-1")
	var others []string
	for i := range 3 {
		if name := fmt.Sprintf("manager-%d", i+1); name != leader {
			others = append(others, name)
		}
	}
	old, other := others[0], others[1]
	write := func(from, name string) result {
		return c.on(from, "service", "create", "--detach", "--name", name, "--replicas", "0", image)
	}
	if r := write(leader, "before"); r.code != 0 {
		t.Fatal(r)
	}

	eventually(t, time.Minute, func() string { return c.threeVote(leader) })
	c.lab("stop", old)
	data := c.host(old).DataDir
	copied := filepath.Join(t.TempDir(), "copy")
	cp(t, data, copied)
	c.lab("start", "--unlock", old)
	eventually(t, time.Minute, func() string { return c.serves(old, "before") })
	eventually(t, time.Minute, func() string { return c.threeVote(leader) })
	// With the third one away it is the old one that acknowledges the write.
	c.lab("stop", other)
	if r := write(leader, "between"); r.code != 0 {
		t.Fatal(r)
	}

	c.lab("stop", old)
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	cp(t, copied, data)
	c.lab("start", old)
	c.onIn(old, c.key(), "unlock", "--timeout", "2s")
	eventually(t, time.Minute, func() string {
		r := c.on(old, "status")
		if r.code != 6 || !strings.Contains(r.stdout, "old copy of itself, so it neither votes nor serves") {
			return "status says " + r.String()
		}
		return ""
	})
	// The old disk and the newest one are two of three, and no majority.
	if r := write(leader, "meanwhile"); r.code == 0 {
		t.Error("a write was acknowledged with the vote of a manager that forgot what it voted")
	}

	c.lab("start", "--unlock", other)
	begun := time.Now()
	eventually(t, time.Minute, func() string {
		if r := c.on(old, "status"); r.code != 0 || !strings.Contains(r.stdout, "thrown away and filled anew") || strings.Contains(r.stdout, "no vote yet") {
			return "status says " + r.String()
		}
		return ""
	})
	t.Logf("it had its vote back %v after the third manager was up", time.Since(begun).Round(100*time.Millisecond))
	eventually(t, time.Minute, func() string { return c.serves(old, "before", "between") })
	if left, _ := filepath.Glob(filepath.Join(data, "control", "raft*")); len(left) != 1 {
		t.Errorf("of the store that was thrown away there is left: %v", left)
	}
	if r := write(old, "after"); r.code != 0 {
		t.Errorf("a write through it: %v", r)
	}
	// What it has now is its own: after a restart nobody knows better.
	c.lab("stop", old)
	c.lab("start", "--unlock", old)
	eventually(t, time.Minute, func() string { return c.serves(old, "before", "between", "after") })
}

// threeVote says what is missing to three voters.
func (c *cluster) threeVote(from string) string {
	c.t.Helper()
	r := c.on(from, "status")
	if r.code != 0 || strings.Contains(r.stdout, "no vote") || strings.Contains(r.stdout, "is down") || strings.Contains(r.stdout, "is locked") {
		return "status says " + r.String()
	}
	return ""
}

func cp(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}
