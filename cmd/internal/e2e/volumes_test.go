package e2e

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestVolumes: what a container wrote is found again by the next task, which goes where
// it is and waits for that node; it outlives services and the node's reboot, and goes by
// volume rm alone, also from the disk.
func TestVolumes(t *testing.T) {
	t.Parallel()
	c := up(t, "volumes", 1, 2)
	const m, image = "manager-1", "redoubt.test/probe:1"
	c.lab("load", checkedImage(t, image, "/probe"))
	once := func(name string, args ...string) {
		t.Helper()
		c.ok(m, append([]string{"service", "create", "-d", "--name", name, "--restart-condition", "none", "--no-healthcheck", "--volume", "db:/data", image}, args...)...)
	}

	// Whoever names a volume first makes it.
	once("writer", "write", "/data/kept")
	c.printedAll("writer", "/data/kept: <nil>")
	c.refused(m, 1, "volume db is in use by service writer", nil, "volume", "rm", "db")
	c.ok(m, "service", "rm", "writer")
	var at string
	eventually(t, 20*time.Second, func() string {
		name, ok := strings.CutPrefix(c.ok(m, "volume", "ls", "--format", "{{.Name}} {{.State}} {{range .Nodes}}{{.}}{{end}}"), "db unused ")
		if at = strings.TrimSpace(name); !ok || at == "" {
			return name
		}
		return ""
	})
	if got := c.ok(m, "node", "inspect", at); !strings.Contains(got, "db (") {
		t.Errorf("the node says nothing of it:\n%s", got)
	}

	// The next task goes there, though that node has more to do, and waits for it.
	c.ok(m, "service", "create", "-q", "--name", "busy", "--replicas", "3", "--constraint", "node.hostname=="+at, "--no-healthcheck", image, "wait")
	once("reader", "cat", "/data/kept")
	if got := c.printedAll("reader", "/data/kept"); !strings.Contains(got, "/data/kept: x") {
		t.Errorf("the data is another: %s", got)
	}
	c.ok(m, "node", "update", "--availability", "drain", at)
	once("later", "cat", "/data/kept")
	eventually(t, 20*time.Second, func() string {
		if got := c.ok(m, "service", "explain", "later"); !strings.Contains(got, "no data of volume db, which is on "+at) {
			return got
		}
		return ""
	})
	c.lab("stop", at)
	c.lab("start", at)
	c.ok(m, "node", "update", "--availability", "active", at)
	if got := c.printedAll("later", "/data/kept"); !strings.Contains(got, "/data/kept: x") {
		t.Errorf("after the reboot: %s", got)
	}

	// It goes when somebody says so, and then from the disk, too.
	c.ok(m, "service", "rm", "reader", "later", "busy")
	eventually(t, 20*time.Second, func() string { // tasks have to end first
		if got := c.ok(m, "volume", "prune", "--dry-run"); !strings.Contains(got, "db ") || !strings.Contains(got, at) {
			return "nothing is to be pruned: " + got
		}
		return ""
	})
	c.ok(m, "volume", "prune", "--force")
	if got := c.ok(m, "volume", "ls", "-q"); got != "" {
		t.Errorf("it is still listed: %s", got)
	}
	eventually(t, 20*time.Second, func() (left string) {
		err := filepath.WalkDir(filepath.Join(c.host(at).DataDir, "volumes"), func(path string, _ fs.DirEntry, err error) error {
			if strings.HasSuffix(path, "/kept") {
				left = path
			}
			if errors.Is(err, fs.ErrNotExist) { // it goes while we look
				return nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return left
	})
}
