package e2e

import (
	"strings"
	"testing"
)

// TestRoles: what policies say of local root holds at every manager's socket at once,
// is refused in one line that names verb, resource and principal, and leaves nobody
// locked out.
func TestRoles(t *testing.T) {
	t.Parallel()
	c := up(t, "roles", 2, 0)
	const m1, m2 = "manager-1", "manager-2"
	if got := c.ok(m2, "status"); !strings.Contains(got, "operator, security-admin (as long as no person is)") {
		t.Errorf("status says nothing of local root:\n%s", got)
	}
	for _, m := range []string{m1, m2} {
		if got := c.ok(m, "auth", "can-i", "ca.rotate-root"); got != "yes\n" {
			t.Errorf("%s: %s", m, got)
		}
	}
	c.ok(m1, "auth", "can-i", "--as", "root:"+m2, "network.remove", "network:kept")
	c.ok(m1, "network", "create", "--driver", "bridge", "--label", "env=prod", "kept")
	c.ok(m1, "network", "create", "--driver", "bridge", "spare")
	set := func(name, text string) result {
		return c.onIn(m2, []byte(text), "auth", "policy", "set", name, "-")
	}
	if r := set("hands-off", `forbid (principal is Redoubt::LocalRoot, action == Redoubt::Action::"network.remove", resource is Redoubt::Network)
when { resource.hasTag("env") && resource.getTag("env") == "prod" };`); r.code != 0 {
		t.Fatal(r)
	}
	for _, m := range []string{m1, m2} {
		c.refused(m, 5, "root:"+m+" may not network.remove on network kept: forbidden by policy hands-off, statement 1", nil, "network", "rm", "kept")
		c.refused(m, 1, "forbidden by policy hands-off", nil, "auth", "can-i", "network.remove", "network:kept")
		if got := c.ok(m, "auth", "explain", "network.remove", "network:spare"); !strings.Contains(got, "permitted by role operator") {
			t.Error(got)
		}
	}
	c.ok(m2, "network", "rm", "spare")
	for text, want := range map[string]string{
		`forbid (principal, action, resource);`:                                    "nobody could change roles and policies",
		`permit (principal, action == Redoubt::Action::"network.melt", resource);`: `there is no verb "network.melt"`,
		`permit (principal in Redoubt::Role::"emperor", action, resource);`:        `there is no role "emperor"`,
		`permit (principal, action, resource)`:                                     "does not parse",
	} {
		if r := set("bad", text); r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %v", text, r)
		}
	}
	c.refused(m1, 1, "there is no person:nobody", nil, "auth", "bind", "security-admin", "person:nobody")
	c.ok(m1, "auth", "policy", "rm", "hands-off")
	c.ok(m2, "network", "rm", "kept")
}
