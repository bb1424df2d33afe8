package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	approvalID  = regexp.MustCompile(`as approval ([a-z2-7]{26})`)
	approvalSum = regexp.MustCompile(`(?m)^SHA-256: +([0-9a-f]{64})$`)
	rootCA      = regexp.MustCompile(`(?m)^root +[0-9a-f]{12}`)
)

const (
	byPeople = `@people("2") forbid (principal, action in [Redoubt::Action::"ca.rotate-root", Redoubt::Action::"autolock.disable", Redoubt::Action::"role.create",
		Redoubt::Action::"policy.set", Redoubt::Action::"policy.remove", Redoubt::Action::"binding.create", Redoubt::Action::"binding.remove",
		Redoubt::Action::"imagepolicy.set", Redoubt::Action::"imagepolicy.remove", Redoubt::Action::"audit.set-witness", Redoubt::Action::"audit.remove-witness"], resource);`
	byParties = `@parties("2") forbid (principal, action in [Redoubt::Action::"person.invite", Redoubt::Action::"token.create-manager", Redoubt::Action::"backup.create"], resource);`
)

// grant is the command that approves what `approval show` shows.
func grant(show func(args ...string) string, id string) []string {
	got := approvalSum.FindStringSubmatch(show("approval", "show", id))
	if got == nil {
		return []string{"approval", "grant", id, "has no SHA-256"}
	}
	return []string{"approval", "grant", id, got[1]}
}

// asks makes a request that others must approve, and returns the approval's id.
func asks(t *testing.T, do func(args ...string) result, args ...string) string {
	t.Helper()
	r := do(args...)
	got := approvalID.FindStringSubmatch(r.stderr)
	if r.code != 7 || got == nil || strings.Count(r.stderr, "\n") > 1 {
		t.Fatalf("redoubt %v: want exit 7 and the id of an approval, got %v", args, r)
	}
	return got[1]
}

// TestFourEyes has the root replaced by two people on two machines: the one who asks is
// refused until the other has approved exactly that; a third one cannot use the
// approval, nor anybody the same one twice, nor for another request. Nobody takes the
// policy back alone, makes a second person up, or is two people by being root besides.
// The audit log says who was for what.
func TestFourEyes(t *testing.T) {
	t.Parallel()
	c := up(t, "eyes", 3, 2)
	alice, bob, eve := c.desk("worker-1"), c.desk("worker-2"), c.desk("manager-3")
	for name, d := range map[string]*desk{"alice": alice, "bob": bob, "eve": eve} {
		if r := d.run(c.ok("manager-1", "person", "invite", "-q", name), "context", "create", "prod", "--use"); r.code != 0 {
			t.Fatal(r)
		}
	}
	c.ok("manager-1", "auth", "bind", "security-admin", "person:alice")
	alice.ok("auth", "bind", "security-admin", "person:bob") // root is it no more
	alice.ok("auth", "bind", "security-admin", "person:eve")
	by := func(d *desk) func(...string) result {
		return func(args ...string) result { return d.run("", args...) }
	}
	on := func(m string) func(...string) result {
		return func(args ...string) result { return c.on(m, args...) }
	}
	for text, want := range map[string]string{
		strings.Replace(byPeople, "2", "4", 1):                                                              "4 people must be for it",
		`@parties("1") forbid (principal, action == Redoubt::Action::"role.create", resource);`:             "a number from 2 to 9",
		`@parties("2") forbid (principal, action == Redoubt::Action::"slot.rotate", resource);`:             "slot.rotate cannot wait for several people",
		`@parties("2") forbid (principal, action == Redoubt::Action::"service.melt", resource);`:            `there is no verb "service.melt"`,
		`@eyes("4") forbid (principal, action == Redoubt::Action::"role.create", resource);`:                "there is no annotation @eyes",
		`@parties("2") permit (principal, action == Redoubt::Action::"role.create", resource);`:             "before a forbid",
		byPeople + `@people("2") forbid (principal, action == Redoubt::Action::"person.invite", resource);`: "for person.invite count @parties",
	} {
		if r := alice.run(text, "auth", "policy", "set", "watched", "-"); r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %v", text, r)
		}
	}
	if r := alice.run(byPeople+byParties, "auth", "policy", "set", "watched", "-"); r.code != 0 {
		t.Fatal(r)
	}
	if got := bob.ok("auth", "explain", "ca.rotate-root"); !strings.Contains(got, "2 people must be for it") {
		t.Error(got)
	}

	// What would be a way round it waits as well.
	asks(t, by(alice), "auth", "policy", "rm", "watched")
	asks(t, by(alice), "auth", "bind", "security-admin", "root:"+strings.TrimSpace(c.ok("manager-1", "node", "inspect", "manager-1", "--format", "{{.ID}}")))
	asks(t, by(alice), "person", "invite", "alices-other-self")
	asks(t, by(alice), "person", "invite", "bob")
	asks(t, on("manager-1"), "join-token", "manager")
	if r := alice.run(`permit (principal, action, resource);`, "auth", "policy", "set", "watched", "-"); r.code != 7 {
		t.Errorf("the policy is overwritten by one: %v", r)
	}

	// A call that goes on in a stream uses its approval up; so does one that only reads.
	a := asks(t, by(eve), "autolock", "off")
	alice.ok(grant(alice.ok, a)...)
	eve.ok("autolock", "off")
	eve.ok("autolock", "on")
	if asks(t, by(eve), "autolock", "off") == a {
		t.Error("an approval is good twice")
	}
	file := filepath.Join(t.TempDir(), "cluster.rdtb")
	a = asks(t, on("manager-2"), "backup", "create", file)
	c.ok("manager-3", grant(func(args ...string) string { return c.ok("manager-3", args...) }, a)...)
	c.ok("manager-2", "backup", "create", file)
	if asks(t, on("manager-2"), "backup", "create", file+"2") == a {
		t.Error("an approval is good for two backups")
	}
	// An invitation is another one each time: what is approved is for whom.
	invite := []string{"person", "invite", "-q", "carol"}
	a = asks(t, by(alice), invite...)
	bob.ok(grant(bob.ok, a)...)
	asks(t, by(alice), "person", "invite", "-q", "mallory")
	asks(t, by(alice), append(invite, "--lifetime", "24h")...)
	alice.ok(invite...)
	if asks(t, by(alice), invite...) == a {
		t.Error("an approval is good for two invitations")
	}

	// Which images may run, and who outside sees the audit log, is nobody's alone; the
	// text of a policy is what others read.
	images := filepath.Join(t.TempDir(), "images.yaml")
	if err := os.WriteFile(images, []byte("format: 1\nrules:\n  - name: all\n    images: [\"**\"]\n    unsigned: true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	set := []string{"image", "policy", "set", images}
	a = asks(t, by(alice), set...)
	if got := bob.ok("approval", "show", a); !strings.Contains(got, "    rules:\n") || !strings.Contains(got, "name: all") {
		t.Error(got)
	}
	bob.ok(grant(bob.ok, a)...)
	alice.ok(set...)
	asks(t, by(alice), "image", "policy", "rm")
	asks(t, by(alice), "audit", "witness", "set", "https://127.0.0.1:1", "--key", "witness.example/w1+e42b2f2c+BDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop")

	// What one denies comes to nothing.
	create := []string{"auth", "role", "create", "--verb", "node.list", "lister"}
	a = asks(t, by(alice), create...)
	eve.ok("approval", "deny", a)
	bob.refused(1, "was denied already", grant(bob.ok, a)...)
	if asks(t, by(alice), create...) == a {
		t.Error("what was denied can be granted")
	}

	rotate := []string{"ca", "rotate", "--root"}
	roots := func() string { return strings.Join(rootCA.FindAllString(bob.ok("ca", "inspect"), -1), " and ") }
	before := roots()
	a = asks(t, by(alice), rotate...)
	if again := asks(t, by(alice), rotate...); again != a {
		t.Errorf("the same request is approval %s, and then %s", a, again)
	}
	if got := bob.ok("approval", "ls"); !strings.Contains(got, "person:alice") || !strings.Contains(got, "ca.rotate-root") {
		t.Error(got)
	}
	if got := bob.ok("approval", "show", a[:8]); !strings.Contains(got, "root: true") || !strings.Contains(got, "1 of 2 people") {
		t.Error(got)
	}
	alice.refused(5, "person:alice asked for it, and person:alice cannot approve it", grant(alice.ok, a)...)
	c.refused("manager-1", 5, "root:manager-1 is nobody in particular", nil, grant(bob.ok, a)...)
	bob.ok(grant(bob.ok, a)...)
	bob.refused(1, "counts once", grant(bob.ok, a)...)
	if b := asks(t, by(eve), rotate...); b == a {
		t.Error("a third one has the approval of who asked")
	}
	if b := asks(t, by(alice), append(rotate, "--cert-expiry", "12h")...); b == a {
		t.Error("a changed request has the approval of the one that was looked at")
	}
	if got := roots(); got != before || before == "" {
		t.Fatal("the root is being replaced before who asked asked again")
	}
	alice.ok(rotate...)
	if b := asks(t, by(alice), rotate...); b == a {
		t.Error("an approval is good twice")
	}
	if got := bob.ok("approval", "show", a); !strings.Contains(got, "State:       used") {
		t.Error(got)
	}
	eventually(t, 2*time.Minute, func() string {
		if got := roots(); got == "" || strings.Contains(got, before) {
			return "there are " + got
		}
		return ""
	})

	var records []struct {
		Method, Outcome, Approval string
		Caller                    struct{ Person string }
		Verbs                     []string
	}
	if err := json.Unmarshal([]byte(bob.ok("audit", "ls", "--last", "4000", "--format", "json")), &records); err != nil {
		t.Fatal(err)
	}
	said := map[string]int{}
	for _, r := range records {
		if strings.HasPrefix(strings.Join(r.Verbs, " "), "ca.rotate-root") || strings.HasPrefix(r.Method, "redoubt.control.v1.Approvals/Decide") {
			said[r.Caller.Person+" "+strings.Join(r.Verbs, " ")+" "+r.Outcome+map[bool]string{true: " by it"}[r.Approval == a]]++
		}
	}
	if said["alice ca.rotate-root done by it"] != 1 || said["alice ca.rotate-root denied"] == 0 || said["bob approval.grant done"] != 3 || said["eve ca.rotate-root done"] != 0 {
		t.Errorf("the audit log says %v", said)
	}
}
