package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBreakGlass: while Alice is security-admin, local root of a manager breaks the
// glass: it may mend roles, and neither touch keys nor have anybody else do, until
// Alice says so. Status at every manager, events, logs, the audit log and Alice's own
// commands tell of it, and it ends by the store's clock.
func TestBreakGlass(t *testing.T) {
	t.Parallel()
	c := up(t, "breakglass", 2, 1)
	const m1, m2 = "manager-1", "manager-2"
	c.refused(m2, 1, "local root is, already", nil, "break-glass", "--reason", "to try it")
	alice := c.desk("worker-1")
	if r := alice.run(c.ok(m1, "person", "invite", "-q", "alice"), "context", "create", "prod", "--use"); r.code != 0 {
		t.Fatal(r)
	}
	c.ok(m1, "auth", "bind", "security-admin", "person:alice")
	c.refused(m2, 5, "root:manager-2 may not binding.create", nil, "auth", "bind", "operator", "user:daemon@manager-2")
	// No policy forbids it.
	if r := alice.run(`forbid (principal is Redoubt::LocalRoot, action == Redoubt::Action::"secret.remove", resource);`, "auth", "policy", "set", "hands-off", "-"); r.code != 0 {
		t.Fatal(r)
	}

	if out := c.ok(m2, "break-glass", "--reason", "alice is on a plane", "--for", "1m"); !strings.Contains(out, "one of these acknowledges it: person:alice") {
		t.Error(out)
	}
	began := time.Now()
	for _, m := range []string{m1, m2} {
		if out := c.ok(m, "status"); !strings.Contains(out, "root:manager-2 broke the glass and is security-admin until") || !strings.Contains(out, "alice is on a plane") {
			t.Errorf("%s: status says nothing of it:\n%s", m, out)
		}
	}
	r := alice.run("", "service", "ls")
	if r.code != 0 || !strings.Contains(r.stderr, "redoubt: notice: root:manager-2 broke the glass") || strings.Count(r.stderr, "notice:") != 1 {
		t.Errorf("alice hears %v", r)
	}
	// What it covers, and what not.
	c.ok(m2, "auth", "policy", "rm", "hands-off")
	c.ok(m2, "auth", "bind", "security-admin", "user:daemon@manager-2")
	if out := c.ok(m2, "auth", "explain", "binding.create"); !strings.Contains(out, "permitted by role break-glass") {
		t.Error(out)
	}
	c.refused(m1, 5, "root:manager-1 may not binding.create", nil, "auth", "bind", "operator", "user:daemon@manager-1")
	for _, args := range [][]string{{"ca", "rotate", "--root"}, {"ca", "rotate"}, {"autolock", "off"}, {"unlock-key", "rotate"}} {
		if r := c.on(m2, args...); r.code != 5 || !strings.Contains(r.stderr, "the break-glass of root:manager-2, which nobody acknowledged") {
			t.Errorf("%v: %v", args, r)
		}
	}
	c.refused(m1, 1, "which nobody acknowledged", nil, "auth", "can-i", "--as", "user:daemon@manager-2", "slot.add")
	c.ok(m1, "auth", "can-i", "--as", "person:alice", "slot.add")
	c.refused(m2, 1, "person:alice is the last security-admin of before", nil, "person", "revoke", "alice")
	c.refused(m2, 1, "one of those who are to acknowledge", nil, "person", "invite", "alice")
	c.refused(m2, 5, "was not security-admin before this break-glass", nil, "break-glass", "ack", m2)

	// It ends by itself, and is still to be acknowledged.
	eventually(t, 3*time.Minute, func() string {
		if r := c.on(m2, "auth", "can-i", "binding.create"); r.code == 0 {
			return "it goes on"
		}
		return ""
	})
	if d := time.Since(began); d < time.Minute {
		t.Errorf("it ended after %v", d)
	}
	if out := c.ok(m1, "status"); !strings.Contains(out, "root:manager-2 broke the glass and was security-admin until") {
		t.Errorf("status:\n%s", out)
	}
	c.refused(m2, 1, "no break-glass of this manager's root under way", nil, "break-glass", "end")
	alice.ok("auth", "unbind", "security-admin", "user:daemon@manager-2")
	if out := alice.ok("break-glass", "ls", "--format", "{{.Principal}} {{.Active}} {{.Times}}"); out != "root:manager-2 false 1\n" {
		t.Error(out)
	}
	alice.ok("break-glass", "ack", m2)
	if out := c.ok(m1, "status"); strings.Contains(out, "broke the glass") {
		t.Errorf("status:\n%s", out)
	}
	if r := alice.run("", "service", "ls"); r.code != 0 || strings.Contains(r.stderr, "notice") {
		t.Error(r)
	}

	// Who looks afterwards finds all of it.
	events := c.ok(m1, "events", "--since", "1h", "--until", "0s")
	for _, want := range []string{"break-glass begin manager-2", "break-glass acknowledge manager-2"} {
		if !strings.Contains(events, want) {
			t.Errorf("no %q in the events:\n%s", want, events)
		}
	}
	all := alice.ok("audit", "ls", "--last", "4000", "--format", "{{.Method}} {{.Outcome}} {{.Caller.Name}}")
	for _, want := range []string{"Access/BreakGlass done local root of node " + c.nodeID(m2), "Access/AcknowledgeBreakGlass done person alice", "Access/Bind done local root of node " + c.nodeID(m2)} {
		if !strings.Contains(all, "redoubt.control.v1."+want) {
			t.Errorf("no %q in the audit log:\n%s", want, all)
		}
	}
	for _, m := range []string{m1, m2} {
		log, err := os.ReadFile(filepath.Join(filepath.Dir(c.host(m).DataDir), "redoubt-node.log"))
		if log := string(log); err != nil || !strings.Contains(log, "broke the glass") || !strings.Contains(log, "a break-glass was acknowledged") {
			t.Errorf("the log of %s says nothing of it", m)
		}
	}
}
