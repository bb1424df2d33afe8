package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// TestAuditArchive: older records are archived, verified where no cluster is, and then
// dropped by all managers, for good; what they were, and who had it done, can be told and
// proved afterwards, also by who was away, and by who began with a backup.
func TestAuditArchive(t *testing.T) {
	t.Parallel()
	c := up(t, "archive", 3, 0)
	c.readOften(4300)
	dir := t.TempDir()
	archive, keys, kept := filepath.Join(dir, "archive"), filepath.Join(dir, "keys"), filepath.Join(dir, "checkpoint")
	all := []string{"manager-1", "manager-2", "manager-3"}
	files := func(host string) (n int) {
		for _, f := range []string{"0000000000000000", "0000000000000001"} {
			if _, err := os.Stat(filepath.Join(c.host(host).DataDir, "control", "raft", "audit", f)); err == nil {
				n++
			}
		}
		return n
	}
	eventually(t, 2*time.Minute, func() string { // a checkpoint is made each minute
		r := c.on("manager-1", "audit", "archive", archive, "--below", "2048")
		if r.code != 0 || !strings.Contains(r.stdout, "records 0 to 2047") {
			return fmt.Sprintf("no archive: %v", r)
		}
		return ""
	})
	for file, args := range map[string][]string{keys: {"--keys"}, kept: nil} {
		text := c.ok("manager-1", append([]string{"audit", "checkpoint"}, args...)...)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := []string{"audit", "verify", "--archive", archive, "--keys", keys}
	if r := run(t, nil, verify...); r.code != 0 || !strings.Contains(r.stdout, "segments 0 to 1 (records 0 to 2047)") { // outside of every host
		t.Fatal(r)
	}
	for _, h := range all {
		if n := files(h); n != 2 {
			t.Fatalf("%s has %d files of the first two segments", h, n)
		}
	}
	c.refused("manager-1", 1, "records are kept for 90 days at least", nil, "audit", "drop", "--archive", archive, "--keys", keys)
	c.ok("manager-1", "audit", "retention", "0")
	c.lab("stop", "manager-3")
	eventually(t, 2*time.Minute, func() string {
		if r := c.on("manager-1", "audit", "checkpoint"); !strings.Contains(r.stderr, "has not signed") {
			return fmt.Sprintf("manager-3 has signed, or there is no checkpoint: %v", r)
		}
		return ""
	})
	c.refused("manager-1", 1, "has not signed the newest checkpoint", nil, "audit", "drop", "--archive", archive, "--keys", keys)
	c.lab("start", "--unlock", "manager-3")
	eventually(t, 3*time.Minute, func() string {
		if r := c.on("manager-2", "audit", "drop", "--archive", archive, "--keys", keys); r.code != 0 {
			return fmt.Sprintf("it is not dropped: %v", r)
		}
		return ""
	})
	whole := func() {
		t.Helper()
		eventually(t, 3*time.Minute, func() string { // files are looked after each minute
			r := c.on("manager-1", "audit", "verify", "--checkpoint", kept, "--keys", keys)
			if r.code != 0 || strings.Count(r.stdout, " same ") != 3 || !strings.Contains(r.stderr, "archived: segments 0 to 1 (records 0 to 2047), dropped on ") || !strings.Contains(r.stderr, "manager-2") {
				return fmt.Sprintf("audit verify: %v", r)
			}
			for _, h := range all {
				if n := files(h); n != 0 {
					return fmt.Sprintf("%s has %d files of what was dropped", h, n)
				}
			}
			return ""
		})
	}
	whole()
	c.lab("stop", "manager-3")
	c.lab("start", "--unlock", "manager-3")
	whole() // what it lacks is nothing that it gets from the others

	c.refused("manager-1", 1, "record 5 is here no more: segments 0 to 1 were dropped on", nil, "audit", "show", "5")
	c.ok("manager-1", "audit", "show", "2048")
	for _, verb := range []string{"show", "prove"} {
		if r := run(t, nil, "audit", verb, "5", "--archive", archive, "--keys", keys); r.code != 0 || !strings.Contains(r.stdout, `"number": 5`) {
			t.Error(r)
		}
	}
	if !strings.Contains(c.ok("manager-1", "audit", "ls", "--last", "4000", "--filter", "verb=audit.drop"), "done") {
		t.Error("that records were dropped has no record")
	}
	// Who begins with a backup knows what was dropped, and lacks nothing.
	backup := filepath.Join(dir, "backup.rdtb")
	c.ok("manager-1", "backup", "create", backup)
	c.lab("stop", "manager-1")
	c.lab("stop", "manager-2")
	c.ok("manager-3", "leave", "--force")
	if r := c.onIn("manager-3", c.key(), "backup", "restore", backup); r.code != 0 {
		t.Fatal(r)
	}
	eventually(t, time.Minute, func() string {
		r := c.on("manager-3", "audit", "verify")
		if r.code != 0 || strings.Count(r.stdout, " same ") != 1 || !strings.Contains(r.stderr, "archived: segments 0 to 1 (records 0 to 2047), dropped on ") {
			return fmt.Sprintf("audit verify: %v", r)
		}
		return ""
	})
	c.refused("manager-3", 1, "record 5 is here no more", nil, "audit", "prove", "5")
	// What somebody changes of the archive is seen.
	path := filepath.Join(archive, "segment-0000000000000001")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, nil, verify...); r.code != 1 || !strings.Contains(r.stderr, "segment-0000000000000001") {
		t.Errorf("a changed archive verifies: %v", r)
	}
}

// readOften has so many records made of somebody who reads a config.
func (c *cluster) readOften(times int) {
	c.t.Helper()
	if r := c.onIn("manager-1", []byte("text"), "config", "create", "read-often", "-"); r.code != 0 {
		c.t.Fatal(r)
	}
	api, err := apiclient.Dial(c.t.Context(), filepath.Join(c.host("manager-1").RunDir, apiclient.APISocket))
	if err != nil {
		c.t.Fatal(err)
	}
	defer api.Close()
	g, ctx := errgroup.WithContext(c.t.Context())
	g.SetLimit(64)
	for range times {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			_, err := api.GetConfigs(ctx, &controlpb.GetConfigsRequest{Configs: []string{"read-often"}})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		c.t.Fatal(apiclient.Err(err))
	}
}
