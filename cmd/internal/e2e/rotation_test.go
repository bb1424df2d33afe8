package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRotationCutShort is the story of a rotation that does not run smoothly: at
// any time exactly one key opens a manager, and which one can be seen.
func TestRotationCutShort(t *testing.T) {
	t.Parallel()
	c := up(t, "diskrot", 2, 0)
	first := string(c.key())
	eventually(t, time.Minute, func() string { return c.behind() })

	// keyd of manager-2 does not answer while the others re-seal.
	m2 := c.host("manager-2")
	pid := c.daemons(m2)["redoubt-keyd"]
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r := c.on("manager-1", "unlock-key", "rotate", "--timeout", "3s")
	second := keyText.FindString(r.stdout)
	if r.code != 3 || second == "" || !strings.Contains(r.stderr, "manager-2") || strings.Contains(r.stderr, "manager-1") {
		t.Errorf("rotate while keyd of manager-2 hangs: %v", r)
	}
	if r := c.on("manager-1", "unlock-key", "rotate"); r.code != 1 || !strings.Contains(r.stderr, "manager-2") {
		t.Errorf("rotate before the last one ended: %v", r)
	}
	// It dies there: its manager opens with the old key, once, and catches up.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-2", "service", "ls"); r.code != 4 {
			return "manager-2 is not locked: " + r.String()
		}
		return ""
	})
	c.refused("manager-2", 4, "does not open", []byte(second), "unlock")
	if r := c.onIn("manager-2", []byte(first), "unlock"); r.code != 0 {
		t.Fatalf("the key manager-2 was sealed to: %v", r)
	}
	eventually(t, time.Minute, func() string { return c.behind() })
	c.keepKey(second)
	for _, m := range []string{"manager-1", "manager-2"} {
		c.lab("stop", m)
		c.lab("start", m)
		c.refused(m, 4, "does not open", []byte(first), "unlock")
	}
	for _, m := range []string{"manager-1", "manager-2"} {
		if r := c.onIn(m, []byte(second), "unlock"); r.code != 0 && r.code != 3 { // it takes both to be active
			t.Fatalf("%s: the key in force: %v", m, r)
		}
	}
	eventually(t, time.Minute, func() string { return c.behind() })

	// The command is killed as soon as the key was shown: committed or not, one
	// of the two keys opens all managers.
	third := c.rotateAndDie("manager-1")
	eventually(t, time.Minute, func() string { return c.behind() })
	c.lab("stop", "manager-2")
	c.lab("start", "manager-2")
	var opened []string
	for _, key := range []string{second, third} {
		if r := c.onIn("manager-2", []byte(key), "unlock"); r.code == 0 {
			opened = append(opened, key)
		} else if !strings.Contains(r.stderr, "does not open") && !strings.Contains(r.stderr, "not locked") {
			t.Errorf("after the command was killed: %v", r)
		}
	}
	if len(opened) != 1 {
		t.Fatalf("%d keys open manager-2 after the command was killed", len(opened))
	}
	c.keepKey(opened[0])

	// States of two managers that are exchanged open with the right key, and
	// are found to be another's.
	m1 := c.host("manager-1")
	c.lab("stop", "manager-1")
	c.lab("stop", "manager-2")
	th, other := steal(t, m1), filepath.Join(m2.DataDir, "keyd", "state")
	th.sh("cp", "--no-preserve=all", other, th.path("swapped"))
	th.sh("cp", "--no-preserve=all", th.path("swapped"), th.path("data", "keyd", "state"))
	th.start()
	if r := th.redoubt(c.key(), "unlock", "--timeout", "2s"); r.code == 0 || strings.Contains(r.stderr, "the key does not open") ||
		!strings.Contains(r.stderr, "manager") {
		t.Errorf("manager-1 with the keys of manager-2: %v", r)
	}
	if r := th.redoubt(nil, "service", "ls"); r.code != 4 {
		t.Errorf("manager-1 with the keys of manager-2: %v", r)
	}
}

// rotate replaces the lab's operator key, once every manager has a session.
func (c *cluster) rotate(from string) (key string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		r := c.on(from, "unlock-key", "rotate")
		if key = keyText.FindString(r.stdout); r.code != 0 || key == "" {
			return r.String()
		}
		return ""
	})
	c.keepKey(key)
	return key
}

// keepKey makes key the lab's.
func (c *cluster) keepKey(key string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join("/var/lib/redoubt-lab", c.name, "operator.key"), []byte(key+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// behind says which managers have no session or are not sealed to the slots in
// force.
func (c *cluster) behind() string {
	c.t.Helper()
	r := c.on("manager-1", "unlock-key", "slot", "ls")
	if r.code != 0 || strings.Contains(r.stdout, "behind") || strings.Contains(r.stdout, "away") || strings.Count(r.stdout, "current") != 2 {
		return r.String()
	}
	return ""
}

// rotateAndDie kills the command when the key has been shown.
func (c *cluster) rotateAndDie(from string) (key string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), filepath.Join(binDir, "redoubt"), "--host", "unix://"+filepath.Join(c.host(from).RunDir, "api.sock"), "unlock-key", "rotate")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for key == "" && lines.Scan() {
		key = keyText.FindString(lines.Text())
	}
	cmd.Process.Kill()
	cmd.Wait()
	if key == "" {
		c.t.Fatal("no key was shown")
	}
	return key
}
