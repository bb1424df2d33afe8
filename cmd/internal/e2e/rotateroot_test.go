package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestRotateRoot replaces the root under load: a TCP connection between services, a
// stream of the API and writes go on. A node that is down is not waited for and comes
// back through the cross certificate; a join token of before is refused; the leader
// dies in the midst of it, and the next one goes on; it is given up. In the end no
// node trusts the root of before.
func TestRotateRoot(t *testing.T) {
	t.Parallel()
	c := up(t, "rotateroot", 3, 3)
	c.load()
	const m, away, held = "manager-1", "worker-3", "worker-1"
	hosts := []string{m, "manager-2", "manager-3", held, "worker-2"}
	eventually(t, time.Minute, func() string { return c.threeVote(m) })
	c.ok(m, "network", "create", "back")
	c.ok(m, "service", "create", "--name", "web", "--network", "back", "--constraint", "node.hostname==worker-1", image)
	c.ok(m, "service", "create", "--name", "client", "--network", "back", "--constraint", "node.hostname==worker-2", image)
	ask := c.keeps(c.place(c.tasks(m, "client")[0]), c.vip("web"))
	first := c.root(m)
	before, _ := c.token("worker")

	c.lab("stop", away)
	c.wantState(away, "down")
	seen := c.events(m)
	stop := c.writeOn()
	began := time.Now()
	out := c.ok(m, "ca", "rotate", "--root")
	took := time.Since(began)
	for _, want := range []string{"1 join token became void", "Away, and not waited for: " + away, "worker-2 has its certificate", "took", "Every connected node"} {
		if !strings.Contains(out, want) {
			t.Errorf("ca rotate --root does not say %q: %s", want, out)
		}
	}
	if n := strings.Count(out, "worker-2 has its certificate"); n != 1 {
		t.Errorf("it says %d times that a node has its certificate: %s", n, out)
	}
	ask("after the root was replaced")
	written := stop()
	c.ok(m, "service", "create", "--detach", "--name", "after", "--replicas", "0", image)
	seen.await("after")
	second := c.root(m)
	if second == first || written == 0 {
		t.Fatalf("the root is %.8s as before, or nothing was written: %d", second, written)
	}
	t.Logf("the root of 5 nodes was replaced in %v, with %d writes meanwhile: %s", took.Round(time.Millisecond), written, out)
	for _, h := range hosts {
		eventually(t, 30*time.Second, func() string { return c.trustsOnly(h, second) })
	}
	if out := c.ok(m, "ca", "inspect"); !strings.Contains(out, "of before, away") {
		t.Errorf("ca inspect does not say who is away: %s", out)
	}

	// The one that was down knows the first root alone.
	c.lab("start", away)
	c.wantState(away, "ready")
	eventually(t, 30*time.Second, func() string { return c.trustsOnly(away, second) })

	// A machine that is new with a token of before, and with one of now.
	c.ok(away, "leave")
	c.ok(m, "node", "rm", "--force", away)
	c.refused(away, 5, "make a new token", []byte(before), "join", c.addr2377(m))
	now, _ := c.token("worker")
	if r := c.onIn(away, []byte(now), "join", c.addr2377(m)); r.code != 0 {
		t.Fatalf("a token made after the root was replaced: %v", r)
	}
	hosts = append(hosts, away)

	// It is given up while a node does not answer.
	release := c.stopDaemon(held, "redoubtd")
	defer release()
	c.ok(m, "ca", "rotate", "--root", "--detach")
	c.refused(m, 1, "a root is being replaced already", nil, "ca", "rotate", "--root")
	c.refused(m, 1, "a root is being replaced already", nil, "ca", "rotate")
	c.refused(m, 1, "a root is being replaced already", nil, "join-token", "worker")
	c.ok(m, "ca", "rotate", "--abort", "--detach")
	c.refused(m, 1, "no root is being replaced", nil, "ca", "rotate", "--abort")
	release()
	c.settled(m)
	for _, h := range hosts {
		eventually(t, 30*time.Second, func() string { return c.trustsOnly(h, second) })
	}
	ask("after it was given up")

	// The leader dies in the midst of it.
	leader := c.leader(m)
	via := c.survivor(leader)
	release = c.stopDaemon(held, "redoubtd")
	defer release()
	c.ok(via, "ca", "rotate", "--root", "--detach")
	c.lab("kill", leader)
	release()
	c.settled(via)
	c.lab("start", "--unlock", leader)
	third := c.root(via)
	if third == second {
		t.Fatal("the next leader did not go on with it")
	}
	for _, h := range hosts {
		eventually(t, time.Minute, func() string { return c.trustsOnly(h, third) })
	}
	// The manager that was away when the root was replaced is one as before.
	eventually(t, time.Minute, func() string { return c.threeVote(via) })
	c.settled(via)
	ask("after a leader died while the root was replaced")
	if r := c.on(via, "ca", "rotate"); r.code != 0 {
		t.Errorf("and the issuing CA after that: %v", r)
	}
}

// settled waits for a replacement's end, with every connected node there.
func (c *cluster) settled(from string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		r := c.on(from, "ca", "rotate", "--watch")
		if r.code != 0 || !strings.Contains(r.stdout, "Every connected node") {
			return r.String()
		}
		return ""
	})
}

// root is the SHA-256 of the root that signs, in part, as the cluster shows it.
func (c *cluster) root(from string) (short string) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, func() string {
		r := c.on(from, "ca", "inspect")
		for line := range strings.Lines(r.stdout) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "root" {
				short = f[1]
				return ""
			}
		}
		return r.String()
	})
	return short
}

// trustsOnly says where a node keeps another root than that one, or has a
// certificate that does not end in it.
func (c *cluster) trustsOnly(name, short string) string {
	c.t.Helper()
	dir := filepath.Join(c.host(name).DataDir, "control")
	var kept struct{ Roots [][]byte }
	readFile(c.t, filepath.Join(dir, "roots"), &kept)
	chain := c.keptChain(filepath.Join(dir, "leaf"))
	if len(kept.Roots) != 1 || shortHash(kept.Roots[0]) != short || shortHash(chain[len(chain)-1]) != short {
		return name + " trusts another root than " + short
	}
	return ""
}

func shortHash(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:6])
}

// apiStream is `redoubt events`, which must go on.
type apiStream struct {
	c   *cluster
	mu  sync.Mutex
	out bytes.Buffer
}

func (c *cluster) events(from string) *apiStream {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "redoubt"), "--host", "unix://"+filepath.Join(c.host(from).RunDir, "api.sock"), "events")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	s := &apiStream{c: c}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			s.mu.Lock()
			s.out.WriteString(lines.Text() + "\n")
			s.mu.Unlock()
		}
	})
	c.t.Cleanup(func() { cancel(); reading.Wait(); cmd.Wait() })
	return s
}

// await fails the test unless the stream shows text.
func (s *apiStream) await(text string) {
	s.c.t.Helper()
	eventually(s.c.t, 20*time.Second, func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !strings.Contains(s.out.String(), text) {
			return "the stream of events ended, or lacks " + text + ": " + s.out.String()
		}
		return ""
	})
}
