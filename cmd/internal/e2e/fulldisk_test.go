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

// TestFullDisk is the story of a manager whose disk is full, and then of one that
// the kernel has made read-only, first as a follower and then as the leader. It
// stops serving and says why, the others go on, and once the disk takes writes
// again it is back with everything.
func TestFullDisk(t *testing.T) {
	t.Parallel()
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
		for _, ill := range []struct {
			name, says string
			fall, heal func()
		}{
			{"full", "no space left on device",
				func() { c.inHost(sick, "sh", "-c", "cat /dev/zero >"+data+"/fill 2>/dev/null; true") },
				func() { c.inHost(sick, "rm", data+"/fill") }},
			{"read-only", "read-only file system",
				func() { c.inHost(sick, "mount", "-o", "remount,abort", data) }, // as after an error of the device
				func() {
					c.lab("stop", sick)
					c.inHost(sick, "sh", "-ec", fmt.Sprintf("umount %[1]s; e2fsck -p %[1]s.img || [ $? = 1 ]; mount -o loop %[1]s.img %[1]s", data))
					c.lab("start", sick)
				}},
		} {
			if role == "leader" {
				eventually(t, 2*time.Minute, func() string { return c.takeLead(sick, via) })
			}
			stops, begun := c.stops(sick, ill.says), time.Now()
			ill.fall()
			kept := c.writeUntil(via, role+"-"+ill.name, func() bool { return c.stops(sick, ill.says) > stops })
			t.Logf("%s: the %s noticed after %d acknowledged writes of 240 KB, %v", ill.name, role, len(kept), time.Since(begun).Round(100*time.Millisecond))
			written = append(append(written, kept...), c.writeUntil(via, role+"-past-"+ill.name, nil)...)
			eventually(t, time.Minute, func() string {
				if r := c.on(sick, "status"); r.code == 0 || !strings.Contains(r.stdout, "takes no writes") || !strings.Contains(r.stdout, ill.says) {
					return "status says " + r.String()
				}
				return ""
			})
			ill.heal()
			c.unlock(sick)
			eventually(t, time.Minute, func() string { return c.serves(sick, written...) })
			eventually(t, time.Minute, func() string { return c.threeVote(via) })
		}
	}
}

// writeUntil writes until done, or once where that is nil, and returns what was
// acknowledged. What needs no new block works on a full disk, as the log's
// segment is made in full: it takes many.
func (c *cluster) writeUntil(via, prefix string, done func() bool) (kept []string) {
	c.t.Helper()
	n := 0
	eventually(c.t, 2*time.Minute, func() string {
		if done != nil && done() {
			return ""
		}
		name := fmt.Sprintf("%s-%d", prefix, n) // a new one: what failed may have been written
		n++
		r := c.writeBig(via, name)
		if r.code == 0 {
			if kept = append(kept, name); done == nil {
				return ""
			}
		}
		return fmt.Sprintf("after %d writes: %v", n, r)
	})
	return kept
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
	c.inHost(name, "sh", "-ec", fmt.Sprintf("cp -a %[1]s %[1]s.moved; truncate -s 96M %[1]s.img; mkfs.ext4 -q -m 0 %[1]s.img; mount -o loop %[1]s.img %[1]s; chmod 0711 %[1]s; cp -a --sparse=never %[1]s.moved/. %[1]s", dir))
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

// stops counts how often a host's manager stopped and came back to a disk that
// takes no writes: it says so once each time.
func (c *cluster) stops(name, why string) (n int) {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(c.host(name).DataDir), "redoubt-node.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "the disk takes no writes") && strings.Contains(line, why) {
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
