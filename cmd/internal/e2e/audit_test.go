package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestAudit does things on two managers and looks for them in the audit log, by who
// did them; both have the same log, and no secret is in it.
func TestAudit(t *testing.T) {
	t.Parallel()
	c := up(t, "audit", 2, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--detach", "--name", "web", "--replicas", "0", "--env", "PASSWORD=hunter2", image, "--password", "swordfish")
	c.ok("manager-2", "node", "update", "worker-1", "--label-add", "zone=a")
	c.ok("manager-1", "unlock-key", "slot", "ls")
	token := strings.TrimSpace(c.ok("manager-2", "join-token", "worker", "-q"))
	all := c.ok("manager-2", "audit", "ls", "--last", "4000", "--format", "json")
	var records []struct {
		Method string
		Caller struct{ Node, Name string }
		Verbs  []string
	}
	if err := json.Unmarshal([]byte(all), &records); err != nil {
		t.Fatal(err)
	}
	self := strings.TrimSpace(c.ok("manager-2", "node", "inspect", "manager-2", "--format", "{{.ID}}"))
	for _, want := range []string{"service.create", "node.update", "token.create-worker", "redoubt.pki.v1.Join/"} {
		found := false
		for _, r := range records {
			for _, v := range append(r.Verbs, r.Method) {
				found = found || strings.HasPrefix(v, want) && (want != "node.update" || r.Caller.Node == self)
			}
		}
		if !found {
			t.Errorf("no record of %s by who did it: %s", want, all)
		}
	}
	if strings.Contains(all, "hunter2") || strings.Contains(all, "swordfish") || strings.Contains(all, token) {
		t.Error("the audit log tells a secret")
	}
	if out := c.ok("manager-1", "audit", "verify"); strings.Count(out, " same ") != 2 {
		t.Errorf("verify says %q", out)
	}
	c.ok("manager-2", "audit", "prove", "3")
}
