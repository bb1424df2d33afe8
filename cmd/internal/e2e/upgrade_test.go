package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/headed"
)

// TestReleases is the story of a manager that is upgraded: what a release wrote
// opens with today's binaries, holds what it held, and is written on.
func TestReleases(t *testing.T) {
	t.Parallel()
	fixtures, err := filepath.Glob("testdata/*-release/node.tar.gz")
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("no release's data directory is there: %v", err)
	}
	for _, f := range fixtures {
		t.Run(filepath.Base(filepath.Dir(f)), func(t *testing.T) { release(t, f) })
	}
}

func release(t *testing.T, fixture string) {
	th, key := fromRelease(t, fixture)
	unlocked := func() {
		t.Helper()
		th.sh("rm", "-rf", th.path("run")) // the last round's sockets
		th.start()
		if r := th.redoubt(key, "unlock"); r.code != 0 {
			t.Fatalf("unlock: %v\n%s", r, th.logs())
		}
	}
	holds := func(what []string, args ...string) {
		t.Helper()
		eventually(t, 30*time.Second, func() string {
			r := th.redoubt(nil, args...)
			for _, s := range what {
				if r.code != 0 || !strings.Contains(r.stdout, s) {
					return fmt.Sprintf("redoubt %v: want %q, got %v\n%s", args, s, r, th.logs())
				}
			}
			return ""
		})
	}
	services := []string{"web", "api"}
	for round := range 3 { // as it was found, as it was left, and after a second restart
		unlocked()
		holds(services, "service", "ls")
		holds([]string{image}, "service", "inspect", "web")
		holds([]string{"manager-1", "worker-1"}, "node", "ls")
		holds([]string{"worker"}, "join-token", "ls")
		name := fmt.Sprintf("new-%d", round)
		if r := th.redoubt(nil, "service", "create", "--detach", "--name", name, "--replicas", "0", image); r.code != 0 {
			t.Fatalf("a write: %v\n%s", r, th.logs())
		}
		services = append(services, name)
		holds(services, "service", "ls")
		th.stop()
	}
	// What had no header was given one, and the directory is as documented.
	for _, name := range []string{"member", "leaf", "boot"} {
		raw, err := os.ReadFile(th.path("data", "control", name))
		if err != nil || !bytes.HasPrefix(raw, []byte(headed.Magic)) {
			t.Errorf("%s was not given its header: %.20q, %v", name, raw, err)
		}
	}
}

// fromRelease unpacks a release's data directory for a node that holds its
// address and nothing else.
func fromRelease(t *testing.T, fixture string) (th *thief, key []byte) {
	t.Helper()
	dir := t.TempDir()
	h := host{DataDir: filepath.Join(dir, "data")}
	unpack := &thief{t: t}
	unpack.sh("tar", "-xzf", fixture, "-C", dir)
	var member struct{ Name, Advertise string }
	readFile(t, filepath.Join(h.DataDir, "control", "member"), &member)
	var err error
	if h.Address, _, err = net.SplitHostPort(member.Advertise); err != nil {
		t.Fatal(err)
	}
	h.Name = member.Name
	for uid, name := range map[string]string{"64997": "control", "64998": "keyd"} {
		unpack.sh("chown", "-R", uid+":"+uid, filepath.Join(h.DataDir, name))
	}
	if key, err = os.ReadFile(filepath.Join(dir, "operator.key")); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("node:\n  name: %s\n  listen: %[2]s:2377\n  advertise: %[2]s:2377\n", h.Name, h.Address)
	if err := atomicfile.WriteMode(filepath.Join(dir, "config.yaml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} { // the daemons' users go through
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return steal(t, h), key
}
