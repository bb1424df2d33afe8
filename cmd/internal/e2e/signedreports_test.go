package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSignedReports: three managers sign one chain of reports, whoever leads, by hand
// and as the schedule asks, each of what a run tells of cluster and nodes; who kept the
// keys checks each of them without asking anybody, and finds what was changed or left out.
func TestSignedReports(t *testing.T) {
	t.Parallel()
	c := up(t, "reports", 3, 0)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	sign := func(host, name string) {
		t.Helper()
		eventually(t, 3*time.Minute, func() string { // who leads may just change
			r := c.on(host, "compliance", "run", "--sign", "--format", "json", "--out", at(name))
			if !strings.Contains(r.stderr, "signed as report ") {
				return r.String()
			}
			return ""
		})
	}
	outcomes := func(text string) map[string]string {
		said := map[string]string{}
		for _, x := range c.controls(text) {
			said[x.Control+" of "+x.Target.Kind+" "+x.Target.Name] = x.Outcome
		}
		return said
	}
	var told map[string]string
	eventually(t, time.Minute, func() string { // until all nodes have come to the leader
		r := c.on("manager-1", "compliance", "run", "--scope", "cluster", "--format", "json")
		if strings.Contains(r.stdout, `"outcome": "error"`) || !strings.Contains(r.stdout, `"manager-3"`) {
			return r.String()
		}
		told = outcomes(r.stdout)
		return ""
	})
	sign("manager-1", "one.json")
	text, err := os.ReadFile(at("one.json"))
	if err != nil {
		t.Fatal(err)
	}
	if signed := outcomes(string(text)); !maps.Equal(told, signed) || signed["files-own of node manager-2"] != "pass" {
		t.Errorf("a run tells %v, and signed is %v", told, signed)
	}
	c.write(at("keys"), c.ok("manager-1", "audit", "checkpoint", "--keys"))
	c.write(at("checkpoint"), c.ok("manager-1", "audit", "checkpoint"))
	led := c.leader("manager-1")
	c.takeLead("", "manager-1")
	if c.leader("manager-1") == led {
		t.Log("the same manager leads again")
	}
	sign("manager-2", "two.json")

	verify := func(args ...string) []string {
		return append([]string{"compliance", "verify", "--host", "unix:///nowhere/api.sock", "--keys", at("keys")}, args...)
	}
	if out := c.ok("manager-3", verify(at("one.json"))...); !strings.Contains(out, "is report 1 of cluster ") || !strings.Contains(out, "It is the first.") {
		t.Errorf("the first: %s", out)
	}
	if out := c.ok("manager-3", verify(at("two.json"), "--previous", at("one.json"), "--checkpoint", at("checkpoint"))...); !strings.Contains(out, "is report 2 of cluster ") {
		t.Errorf("the second: %s", out)
	}
	statement, err := os.ReadFile(at("one.json.dsse"))
	if err != nil {
		t.Fatal(err)
	}
	c.write(at("forged.json"), strings.ReplaceAll(string(text), `"fail"`, `"pass"`)+" ")
	c.write(at("forged.json.dsse"), string(statement))
	c.refused("manager-1", 1, "the report was changed", nil, verify(at("forged.json"))...)

	// The report that is due is made once, though who led when it became due is gone.
	c.ok("manager-1", "compliance", "schedule", "--every", "10m", "--keep", "2")
	c.takeLead("", "manager-1")
	eventually(t, 3*time.Minute, func() string {
		if out := c.ok("manager-1", "compliance", "ls"); !strings.Contains(out, "\n3 ") || !strings.Contains(out, "schedule") || strings.Contains(out, "\n1 ") {
			return "no report by the schedule: " + out
		}
		return ""
	})
	if out := c.ok("manager-1", "compliance", "ls", "--format", "{{.AskedBy}}"); strings.Count(out, "schedule") != 1 {
		t.Errorf("due was one report: %s", out)
	}
	c.ok("manager-3", "compliance", "get", "3", "--out", at("three.json"))
	c.ok("manager-3", verify(at("three.json"), "--previous", at("two.json"))...)
	c.refused("manager-3", 1, "the chain of reports is broken: report 3 comes after report 2, and this is 1", nil, verify(at("three.json"), "--previous", at("one.json"))...)
	c.refused("manager-3", 1, "there is no signed report 1", nil, "compliance", "get", "1")

	var records []struct {
		Method, Outcome string
		Changes         []struct{ Table string }
	}
	if err := json.Unmarshal([]byte(c.ok("manager-1", "audit", "ls", "--last", "4000", "--format", "json")), &records); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, r := range records {
		for _, x := range r.Changes {
			if x.Table == "signed_reports" {
				found[r.Method]++
			}
		}
	}
	if found["redoubt.control.v1.Compliance/SignCompliance"] != 2 || found["compliance report"] == 0 {
		t.Errorf("the audit log has of signed reports %v", found)
	}
	eventually(t, time.Minute, func() string {
		n := 0
		for _, m := range []string{"manager-1", "manager-2", "manager-3"} {
			n += len(c.imported(c.nodeID(m), "sign-report", "done"))
		}
		if n < 3 {
			return "keyds' journals tell of fewer than three reports"
		}
		return ""
	})
}
