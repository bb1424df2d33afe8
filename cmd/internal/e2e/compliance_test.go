package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCompliance: a manager and a worker as they come pass every control of theirs.
// What is spoilt by hand is found by its own control, with what was spoilt as
// evidence and nothing of what a file holds, and by no other; put right, all pass.
func TestCompliance(t *testing.T) {
	t.Parallel()
	c := up(t, "compl", 1, 1)
	c.compliant("manager-1")
	c.compliant("worker-1")
	good := c.ok("manager-1", "compliance", "run", "--format", "json")

	h := c.host("manager-1")
	boot, note, socket := filepath.Join(h.DataDir, "control", "boot"), filepath.Join(h.DataDir, "keyd", "note"), filepath.Join(h.RunDir, "keyd.sock")
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.daemons(h)["redoubtd"]))
	if err != nil {
		t.Fatal(err)
	}
	flags := strings.Split(string(args), "\x00")
	config := flags[slices.Index(flags, "--config")+1]
	do := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	keyd, err := ownerOf(filepath.Dir(note))
	do(err)
	do(os.WriteFile(note, []byte("RDTKEY-"+"SECRETSECRET"), 0o600), os.Chown(note, int(keyd), int(keyd)),
		os.Chmod(boot, 0o644), os.Chmod(socket, 0o666), os.Chmod(config, 0o666))
	c.ok("manager-1", "autolock", "off")

	spoilt := map[string]string{"nothing-in-clear": note, "files-own": boot, "sockets-own": socket, "config-trusted": config, "autolock-on": "auto-"}
	r := c.on("manager-1", "compliance", "run", "--format", "json")
	if r.code != 2 || strings.Contains(r.stdout+r.stderr, "SECRET") {
		t.Errorf("spoilt: %v", r)
	}
	for _, x := range c.controls(r.stdout) {
		evidence, bad := spoilt[x.Control]
		if want := map[bool]string{true: "fail", false: "pass"}[bad]; x.Outcome != want || !strings.Contains(strings.Join(x.Evidence, "\n"), evidence) {
			t.Errorf("%s: %s %q, want %s with %q", x.Control, x.Outcome, x.Evidence, want, evidence)
		}
	}
	c.refused("manager-1", 2, fmt.Sprintf("%d failed and 0 could not be evaluated", len(spoilt)), nil, "compliance", "run")
	for id := range maps.Keys(spoilt) {
		if out := c.ok("manager-1", "compliance", "show", id); !strings.Contains(out, "Remedy:") {
			t.Errorf("%s: %s", id, out)
		}
	}

	c.reports("manager-1", good, r.stdout)

	do(os.Remove(note), os.Chmod(boot, 0o600), os.Chmod(socket, 0o600), os.Chmod(config, 0o644))
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-1", "autolock", "on"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	c.compliant("manager-1")

	c.lab("stop", "worker-1")
	c.refused("worker-1", 1, "no redoubtd runs", nil, "compliance", "run")
}

// reports holds that every format of a node that does not comply is written whole,
// for root alone and without a secret, and that it says what is new since before.
func (c *cluster) reports(name, good, bad string) {
	c.t.Helper()
	dir := c.t.TempDir()
	before, now := filepath.Join(dir, "before.json"), filepath.Join(dir, "now.json")
	if err := errors.Join(os.WriteFile(before, []byte(good), 0o600), os.WriteFile(now, []byte(bad), 0o600)); err != nil {
		c.t.Fatal(err)
	}
	c.refused(name, 2, "new findings", nil, "compliance", "diff", before, now, "--fail-on-new")
	c.ok(name, "compliance", "diff", now, now, "--fail-on-new")
	for _, format := range []string{"table", "html", "json", "junit", "oscal", "prometheus", "sarif", "xccdf"} {
		path := filepath.Join(dir, format)
		if r := c.on(name, "compliance", "run", "--format", format, "--out", path); r.code != 2 || r.stdout != "" {
			c.t.Errorf("%s: %v", format, r)
		}
		text, err := os.ReadFile(path)
		fi, _ := os.Stat(path)
		if err != nil || fi.Mode().Perm() != 0o600 || !strings.Contains(string(text), "files-own") || strings.Contains(string(text), "SECRET") {
			c.t.Errorf("%s: %v, %s", format, err, text)
		}
	}
	page := filepath.Join(dir, "since.html")
	c.refused(name, 2, "failed", nil, "compliance", "run", "--format", "html", "--previous", before, "--out", page)
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "12 of 12 requirements were met; now 7 of 12 are") {
		c.t.Errorf("since before: %v, %s", err, text)
	}
	c.refused(name, 2, "requirements have no control yet", nil, "compliance", "run", "--profile", "cis-docker-1.6")
}

type controlJSON struct {
	Control, Outcome string
	Evidence         []string
}

func (c *cluster) controls(text string) []controlJSON {
	c.t.Helper()
	var report struct{ Results []controlJSON }
	c.decode(text, &report)
	if len(report.Results) < 15 {
		c.t.Errorf("%d controls", len(report.Results))
	}
	return report.Results
}

// compliant holds that every control of a host passes.
func (c *cluster) compliant(name string) {
	c.t.Helper()
	for _, x := range c.controls(c.ok(name, "compliance", "run", "--format", "json")) {
		if want := "pass"; x.Outcome != want && !(name != "manager-1" && x.Outcome == "not-applicable") {
			c.t.Errorf("%s: %s %s %q", name, x.Control, x.Outcome, x.Evidence)
		}
	}
}
