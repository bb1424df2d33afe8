package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// TestFullDisk is the story of a manager whose disk is full, first as a follower
// and then as the leader. It stops serving and says why, the others go on, and
// once there is room it is back with everything.
func TestFullDisk(t *testing.T) {
	c := up(t, "fulldisk", 3, 0)
	c.load()
	eventually(t, time.Minute, func() string { return c.threeVote("manager-1") })
	sick, via := "manager-2", "manager-3"
	if c.leader(via) == sick {
		sick, via = via, sick
	}
	data := c.onSmallDisk(sick)
	var written []string
	for _, role := range []string{"follower", "leader"} {
		if role == "leader" {
			eventually(t, 2*time.Minute, func() string { return c.takeLead(sick, via) })
		}
		stops, n, begun := c.stops(sick), 0, time.Now()
		c.inHost(sick, "sh", "-c", "cat /dev/zero >"+data+"/fill 2>/dev/null; true")
		// What needs no new block still works, as the log's segment is made in
		// full: so write until the manager has noticed.
		eventually(t, 2*time.Minute, func() string {
			if c.stops(sick) > stops {
				return ""
			}
			name := fmt.Sprintf("%s-%d", role, n)
			n++
			if r := c.writeBig(via, name); r.code == 0 {
				written = append(written, name)
			}
			return fmt.Sprintf("%s has not noticed after %d writes: %v", sick, n, c.on(sick, "status"))
		})
		t.Logf("the %s noticed after %d writes of 240 KB, %v", role, n, time.Since(begun).Round(100*time.Millisecond))
		var name string
		since := time.Now()
		for try := 0; name == ""; try++ { // one that was cut off may have been written
			if r := c.writeBig(via, fmt.Sprintf("%s-full-%d", role, try)); r.code == 0 {
				name = fmt.Sprintf("%s-full-%d", role, try)
			} else if time.Since(since) > 30*time.Second {
				t.Fatalf("the others do not go on: %v", r)
			}
		}
		written = append(written, name)
		eventually(t, time.Minute, func() string {
			if r := c.on(sick, "status"); r.code == 0 || !strings.Contains(r.stdout, "takes no writes") || !strings.Contains(r.stdout, "no space left on device") {
				return "status says " + r.String()
			}
			return ""
		})
		c.inHost(sick, "rm", data+"/fill")
		c.unlock(sick)
		eventually(t, time.Minute, func() string { return c.serves(sick, written...) })
		eventually(t, time.Minute, func() string { return c.threeVote(via) })
	}
}

// inHost runs a command in a host's namespaces.
func (c *cluster) inHost(host string, command ...string) string {
	c.t.Helper()
	return c.must(append([]string{"lab", "exec", "--name", c.name, host, "--"}, command...)...)
}

// onSmallDisk moves a manager's data to a small disk of its own, and starts it
// there. The mount is seen in its host alone, and goes with it.
func (c *cluster) onSmallDisk(name string) (dir string) {
	c.t.Helper()
	dir = c.host(name).DataDir
	c.lab("stop", name)
	c.inHost(name, "sh", "-ec", fmt.Sprintf("cp -a %[1]s %[1]s.moved; mount -t tmpfs -o size=96m,mode=0711 small %[1]s; cp -a --sparse=never %[1]s.moved/. %[1]s", dir))
	c.lab("start", "--unlock", name)
	eventually(c.t, time.Minute, func() string { return c.threeVote(name) })
	return dir
}

// takeLead restarts whoever leads, unless that is name.
func (c *cluster) takeLead(name, via string) string {
	c.t.Helper()
	now := c.leader(via)
	if now == name {
		return ""
	}
	c.lab("stop", now)
	c.lab("start", "--unlock", now)
	eventually(c.t, time.Minute, func() string { return c.threeVote(via) })
	return now + " led"
}

// stops counts how often a host's log says that its disk stopped the store.
func (c *cluster) stops(name string) (n int) {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(c.host(name).DataDir), "redoubt-node.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "the replicated store has stopped") && strings.Contains(line, "no space left on device") {
			n++
		}
	}
	return n
}

// writeBig creates a service of 240 KB.
func (c *cluster) writeBig(via, name string) result {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "env")
	var b strings.Builder
	for i := range 8 {
		fmt.Fprintf(&b, "BIG%d=%s\n", i, strings.Repeat("x", 30000))
	}
	if err := atomicfile.Write(file, []byte(b.String())); err != nil {
		c.t.Fatal(err)
	}
	return c.on(via, "service", "create", "--detach", "--name", name, "--replicas", "0", "--env-file", file, image)
}
