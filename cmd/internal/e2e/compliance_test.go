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
	good := c.ok("manager-1", "compliance", "run", "--scope", "node", "--format", "json")

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
	r := c.on("manager-1", "compliance", "run", "--scope", "node", "--format", "json")
	if r.code != 2 || strings.Contains(r.stdout+r.stderr, "SECRET") {
		t.Errorf("spoilt: %v", r)
	}
	for _, x := range c.controls(r.stdout) {
		evidence, bad := spoilt[x.Control]
		if want := map[bool]string{true: "fail", false: "pass"}[bad]; x.Outcome != want || !strings.Contains(strings.Join(x.Evidence, "\n"), evidence) {
			t.Errorf("%s: %s %q, want %s with %q", x.Control, x.Outcome, x.Evidence, want, evidence)
		}
	}
	c.refused("manager-1", 2, fmt.Sprintf("%d failed and 0 could not be evaluated", len(spoilt)), nil, "compliance", "run", "--scope", "node")
	for id := range maps.Keys(spoilt) {
		if out := c.ok("manager-1", "compliance", "show", id); !strings.Contains(out, "Remedy:") {
			t.Errorf("%s: %s", id, out)
		}
	}

	c.reports("manager-1", good, r.stdout)
	waiver := c.waives("manager-1", len(spoilt))

	do(os.Remove(note), os.Chmod(boot, 0o600), os.Chmod(socket, 0o600), os.Chmod(config, 0o644))
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-1", "autolock", "on"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	c.refused("manager-1", 2, "of 16 results 1 failed", nil, "compliance", "run", "--scope", "node")
	if out := c.on("manager-1", "compliance", "run", "--scope", "node").stdout; !strings.Contains(out, waiver+": autolock-on of node/manager-1") || !strings.Contains(out, "does not fail") {
		t.Errorf("a waiver that nothing needs: %s", out)
	}
	c.ok("manager-1", "compliance", "waiver", "rm", waiver)
	c.compliant("manager-1")

	c.lab("stop", "worker-1")
	c.refused("worker-1", 1, "no redoubtd runs", nil, "compliance", "run")
}

// TestComplianceOfCluster: three managers that have a backup comply, and what is done
// to the cluster is found by its own control, with what was done as evidence, on
// whichever manager one asks; what is done about it, as the control says, ends it. A
// worker has its own alone, and where nobody leads nothing passes.
func TestComplianceOfCluster(t *testing.T) {
	t.Parallel()
	c := up(t, "complc", 3, 1)
	c.load()
	file := filepath.Join(t.TempDir(), "backup")
	c.judged("manager-2", map[string]string{"backup-recent": "no backup was made"})
	c.ok("manager-1", "backup", "create", file)
	c.judged("manager-2", nil)

	// Every node answers for itself, whoever asks, and what is spoilt on one of them
	// is found there.
	boot := filepath.Join(c.host("worker-1").DataDir, "control")
	if err := os.Chmod(boot, 0o755); err != nil {
		t.Fatal(err)
	}
	r := c.on("manager-3", "compliance", "run", "--scope", "cluster", "--format", "json")
	of := map[string]int{}
	for _, x := range c.controls(r.stdout) {
		of[x.Target.Kind+" "+x.Target.Name]++
		if want := map[bool]string{true: "fail", false: "pass"}[x.Control == "files-own" && x.Target.Name == "worker-1"]; x.Outcome != want && x.Outcome != "not-applicable" {
			t.Errorf("%s of %s: %s %q", x.Control, x.Target.Name, x.Outcome, x.Evidence)
		}
	}
	if r.code != 2 || len(of) != 5 || of["node worker-1"] != 22 || of["node manager-1"] != 22 {
		t.Errorf("%v of %v", r, of)
	}
	if err := os.Chmod(boot, 0o700); err != nil {
		t.Fatal(err)
	}
	c.judged("manager-2", nil)

	c.ok("manager-1", "autolock", "off")
	_, token := c.token("worker", "--long-lived")
	c.ok("manager-1", "node", "update", "--label-add", "zone=cellar", "manager-2")
	c.ok("manager-1", "node", "update", "--label-add", "zone=cellar", "manager-3")
	c.ok("manager-1", "network", "create", "front")
	for _, name := range []string{"one", "two"} {
		c.ok("manager-1", "service", "create", "--name", name, "--network", "front", "--read-only", "--limit-memory", "64M", "--limit-cpu", "0.5", image)
	}
	c.judged("manager-3", map[string]string{"slots-no-file": "autolock is off", "autolock-on": "auto-", "join-tokens-bounded": token,
		"managers-spread": "manager-2, manager-3 share zone cellar", "networks-deny": "2 services on network front"})

	c.ok("manager-1", "autolock", "on")
	c.ok("manager-1", "join-token", "revoke", token)
	c.ok("manager-1", "node", "update", "--label-add", "zone=attic", "manager-3")
	c.ok("manager-1", "service", "rm", "two")
	c.judged("manager-1", nil)
	if out := c.ok("manager-1", "audit", "ls", "--last", "1000", "--filter", "verb=compliance.run"); strings.Count(out, " read") < 4 {
		t.Errorf("the audit log does not say who asked: %s", out)
	}

	for _, x := range c.controls(c.ok("worker-1", "compliance", "run", "--format", "json")) {
		if x.Target.Kind != "node" {
			t.Errorf("%s on a worker", x.Control)
		}
	}
	c.refused("worker-1", 1, "", nil, "compliance", "run", "--scope", "cluster")
	c.lab("stop", "manager-2")
	eventually(t, time.Minute, func() string {
		r := c.on("manager-1", "compliance", "run", "--scope", "cluster")
		if r.code == 2 && strings.Contains(r.stdout, "manager manager-2 is down") {
			return ""
		}
		return r.String()
	})
	c.lab("stop", "manager-3")
	eventually(t, time.Minute, func() string {
		r := c.on("manager-1", "compliance", "run", "--format", "json")
		if r.code != 2 {
			return r.String()
		}
		for _, x := range c.controls(r.stdout) {
			if x.Outcome == "pass" && x.Target.Kind == "cluster" {
				return x.Control + " passes without a leader"
			}
		}
		return ""
	})
}

// judged holds that of all that a manager's run says exactly the controls in fails
// fail, with that in their evidence; it waits for what nodes have to tell first.
func (c *cluster) judged(name string, fails map[string]string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		r := c.on(name, "compliance", "run", "--format", "json")
		if want := map[bool]int{true: 0, false: 2}[len(fails) == 0]; r.code != want {
			return r.String()
		}
		seen := map[string]bool{}
		for _, x := range c.controls(r.stdout) {
			evidence, bad := fails[x.Control]
			switch {
			case bad && x.Outcome == "fail" && strings.Contains(strings.Join(x.Evidence, "\n"), evidence):
				seen[x.Control] = true
			case bad && x.Target.Kind == "node" && x.Outcome == "not-applicable": // a worker
			case bad || x.Outcome != "pass" && x.Outcome != "not-applicable":
				return fmt.Sprintf("%s %s of %s: %s %q, want %q", name, x.Control, x.Target.Name, x.Outcome, x.Evidence, evidence)
			}
		}
		if len(seen) != len(fails) {
			return fmt.Sprintf("%s: only %v fail", name, seen)
		}
		return ""
	})
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
		if r := c.on(name, "compliance", "run", "--scope", "node", "--format", format, "--out", path); r.code != 2 || r.stdout != "" {
			c.t.Errorf("%s: %v", format, r)
		}
		text, err := os.ReadFile(path)
		fi, _ := os.Stat(path)
		if err != nil || fi.Mode().Perm() != 0o600 || !strings.Contains(string(text), "files-own") || strings.Contains(string(text), "SECRET") {
			c.t.Errorf("%s: %v, %s", format, err, text)
		}
	}
	page := filepath.Join(dir, "since.html")
	c.refused(name, 2, "failed", nil, "compliance", "run", "--scope", "node", "--format", "html", "--previous", before, "--out", page)
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "9 of 12 requirements were met; now 4 of 12 are") {
		c.t.Errorf("since before: %v, %s", err, text)
	}
	c.refused(name, 2, "requirements have no control yet", nil, "compliance", "run", "--profile", "cis-docker-1.6")
}

// waives has one of the controls that fail waived by root and Bob, and returns the
// waiver: until Bob has approved it, it is none, and nobody else can.
func (c *cluster) waives(name string, failing int) string {
	c.t.Helper()
	bob := c.desk("worker-1")
	if r := bob.run(c.ok(name, "person", "invite", "-q", "bob"), "context", "create", "prod", "--use"); r.code != 0 {
		c.t.Fatal(r)
	}
	seen := filepath.Join(c.t.TempDir(), "seen.json")
	c.refused(name, 2, "failed", nil, "compliance", "run", "--scope", "node", "--format", "json", "--out", seen)
	waive := func(approver string) []string {
		return []string{"compliance", "waive", "autolock-on", "--scope", "node/" + name, "--report", seen, "--reason", "it moves", "--expires", "1d", "--approved-by", approver}
	}
	c.refused(name, 1, "no person", nil, waive("carol")...)
	c.refused(name, 1, "person:bob may not waiver.approve", nil, waive("bob")...)
	c.ok(name, "auth", "role", "create", "--verb", "waiver.approve", "--verb", "waiver.list", "approver")
	c.ok(name, "auth", "bind", "approver", "person:bob")
	waiver, _, _ := strings.Cut(c.ok(name, waive("bob")...), "\n")
	c.refused(name, 2, fmt.Sprintf("%d failed", failing), nil, "compliance", "run", "--scope", "node")
	c.refused(name, 5, "", nil, "compliance", "waiver", "approve", waiver)
	bob.ok("compliance", "waiver", "approve", waiver)
	c.refused(name, 2, fmt.Sprintf("%d failed and 0 could not be evaluated, 1 waived", failing-1), nil, "compliance", "run", "--scope", "node")
	if out := c.on(name, "compliance", "run", "--scope", "node").stdout; !strings.Contains(out, "by person:bob: it moves; ") {
		c.t.Errorf("what is waived: %s", out)
	}
	if all := c.ok(name, "audit", "ls", "--last", "4000", "--filter", "person=bob", "--format", "{{.Method}} {{.Outcome}}"); !strings.Contains(all, "Waivers/ApproveWaiver done") {
		c.t.Errorf("the approval has no record: %s", all)
	}
	return waiver
}

type controlJSON struct {
	Control, Outcome string
	Target           struct{ Kind, Name string }
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

// compliant holds that every control of a host's own passes.
func (c *cluster) compliant(name string) {
	c.t.Helper()
	for _, x := range c.controls(c.ok(name, "compliance", "run", "--scope", "node", "--format", "json")) {
		if want := "pass"; x.Outcome != want && !(name != "manager-1" && x.Outcome == "not-applicable") {
			c.t.Errorf("%s: %s %s %q", name, x.Control, x.Outcome, x.Evidence)
		}
	}
}
