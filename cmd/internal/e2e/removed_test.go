package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRemovedNodeGivesUp: a worker that is up and is removed hears it from the
// managers, ends its containers, forgets its keys, says so, also after a restart,
// and can be taken in again.
func TestRemovedNodeGivesUp(t *testing.T) {
	t.Parallel()
	c := up(t, "removed", 1, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--name", "held", "--replicas", "2", "--constraint", "node.role==worker", image)
	eventually(t, 30*time.Second, func() string {
		if n := len(c.containers()); n != 2 {
			return fmt.Sprintf("%d containers run on the worker", n)
		}
		return ""
	})
	c.socketsKnowTheirUsers()
	h := c.host("worker-1")
	keys := func() (left []string) {
		for _, name := range []string{"member", "leaf"} {
			if _, err := os.Stat(filepath.Join(h.DataDir, "control", name)); err == nil {
				left = append(left, name)
			}
		}
		return left
	}
	start := time.Now()
	c.ok("manager-1", "node", "rm", "--force", "worker-1")
	eventually(t, 30*time.Second, func() string {
		r := c.on("worker-1", "status")
		if r.code != 5 || !strings.Contains(r.stdout, "removed from cluster") || !strings.Contains(r.stderr, "redoubt join") {
			return r.String()
		}
		if left := keys(); left != nil {
			return fmt.Sprintf("%v are left", left)
		}
		if n := len(c.containers()); n != 0 {
			return fmt.Sprintf("%d containers go on", n)
		}
		return ""
	})
	t.Logf("keys and containers gone %v after the removal was asked for", time.Since(start).Round(10*time.Millisecond))
	eventually(t, 30*time.Second, func() string {
		if r := c.on("worker-1", "status"); strings.Contains(r.stdout, "being ended") {
			return r.String()
		}
		return ""
	})
	// The note survives a restart, and joining again ends it.
	c.lab("stop", "worker-1")
	c.lab("start", "worker-1")
	if r := c.on("worker-1", "status"); r.code != 5 || !strings.Contains(r.stdout, "removed from cluster") {
		t.Errorf("after a restart: %v", r)
	}
	token := strings.TrimSpace(c.ok("manager-1", "join-token", "worker", "-q"))
	if r := c.onIn("worker-1", []byte(token), "join", c.addr2377("manager-1")); r.code != 0 {
		t.Fatalf("joining again: %v", r)
	}
	eventually(t, 30*time.Second, func() string {
		if r := c.on("worker-1", "status"); r.code != 0 || strings.Contains(r.stdout, "removed") {
			return r.String()
		}
		if n := len(c.containers()); n != 2 {
			return fmt.Sprintf("%d containers run on the worker", n)
		}
		return ""
	})
}

// rootMayUse are sockets whose callers are people, or their tools: wg show asks
// wg.sock, which changes nothing, redoubt lock asks rund.sock, and docker is docker's.
var rootMayUse = map[string]bool{"rund.sock": true, "docker.sock": true, "metrics.sock": true, "api.sock": true, "unlock.sock": true, "wg.sock": true}

// socketsKnowTheirUsers: no socket of a node says a word to a user it is not
// for, whatever file modes would let through.
func (c *cluster) socketsKnowTheirUsers() {
	t := c.t
	t.Helper()
	ask := func(uid uint32, sock string) string {
		cmd := exec.Command("curl", "-s", "-m", "5", "--http0.9", "--unix-socket", sock, "http://node/healthz")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 0}}
		out, _ := cmd.Output() // curl fails where it is refused
		return string(out)
	}
	for _, name := range []string{"manager-1", "worker-1"} {
		h := c.host(name)
		sockets, err := filepath.Glob(filepath.Join(h.RunDir, "*.sock"))
		if err != nil || len(sockets) < 5 {
			t.Fatalf("%s has the sockets %v (%v)", name, sockets, err)
		}
		if got := ask(0, filepath.Join(h.RunDir, "metrics.sock")); got != "ok\n" {
			t.Errorf("root at the metrics socket of %s gets %q: this test asks in vain", name, got)
		}
		for _, sock := range sockets {
			info, err := os.Stat(sock)
			if err != nil {
				t.Fatal(err)
			}
			// As far as the kernel's check of the peer, whatever the mode.
			if err := os.Chmod(sock, 0o777); err != nil {
				t.Fatal(err)
			}
			for _, uid := range []uint32{65534, 12345} {
				if got := ask(uid, sock); got != "" {
					t.Errorf("user %d at %s gets %q", uid, sock, got)
				}
			}
			if !rootMayUse[filepath.Base(sock)] {
				if got := ask(0, sock); got != "" {
					t.Errorf("root at %s gets %q", sock, got)
				}
			}
			if err := os.Chmod(sock, info.Mode().Perm()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
