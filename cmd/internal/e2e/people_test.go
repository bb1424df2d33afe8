package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// desk is a person's machine: a directory of its own in the network of a host, or of
// this machine where host is empty.
type desk struct {
	c    *cluster
	host string
	dir  string
}

func (c *cluster) desk(host string) *desk {
	c.t.Helper()
	d := &desk{c, host, c.t.TempDir()}
	d.write("pass", "six words that nobody else knows\n")
	return d
}

func (d *desk) write(name, text string) string {
	d.c.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.c.t.Fatal(err)
	}
	return path
}

func (d *desk) context(name string) string {
	return filepath.Join(d.dir, "redoubt", "contexts", name+".context")
}

// run runs `redoubt args…` there, without a node of its own.
func (d *desk) run(stdin string, args ...string) result {
	d.c.t.Helper()
	env := []string{"env", "-u", "REDOUBT_HOST", "XDG_CONFIG_HOME=" + d.dir, "REDOUBT_PASSPHRASE_FILE=" + filepath.Join(d.dir, "pass"), filepath.Join(binDir, "redoubt")}
	return run(d.c.t, []byte(stdin), append(append([]string{"lab", "exec", "--name", d.c.name, d.host, "--"}, env...), args...)...)
}

func (d *desk) ok(args ...string) string {
	d.c.t.Helper()
	r := d.run("", args...)
	if r.code != 0 {
		d.c.t.Fatalf("redoubt %v: %v", args, r)
	}
	return r.stdout
}

func (d *desk) refused(code int, want string, args ...string) {
	d.c.t.Helper()
	r := d.run("", args...)
	if r.code != code || !strings.Contains(r.stderr, want) || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
		d.c.t.Errorf("redoubt %v: want exit %d and one line with %q, got %v", args, code, want, r)
	}
}

// renewsOnce makes carol, whose certificates live as short as any, and returns what has
// several commands at once find it due: they renew once. That returns the context of before.
func (d *desk) renewsOnce() func() []byte {
	d.c.t.Helper()
	const life = 2 * time.Minute
	var taken time.Time
	take := func(more ...string) {
		d.c.t.Helper()
		invitation := d.c.ok("manager-2", "person", "invite", "-q", "carol", "--lifetime", life.String())
		if r := d.run(invitation, append([]string{"context", "create", "prod", "--use"}, more...)...); r.code != 0 {
			d.c.t.Fatal(r)
		}
		taken = time.Now()
	}
	take()
	return func() []byte {
		d.c.t.Helper()
		if time.Since(taken) > life*9/10 { // too late to find it due
			take("--replace")
		}
		ends := func() string { return d.ok("context", "show", "--format", "{{.CertificateEnds}}") }
		before := ends()
		old, err := os.ReadFile(d.context("prod"))
		if err != nil {
			d.c.t.Fatal(err)
		}
		time.Sleep(time.Until(taken.Add(life*2/3 + 2*time.Second))) // nothing shows that it is due but its time
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if r := d.run("", "whoami", "--format", "{{.Person}}"); r.code != 0 || r.stderr != "" || r.stdout != "carol\n" {
					d.c.t.Errorf("a command with a renewal: %v", r)
				}
			})
		}
		wg.Wait()
		if ends() == before {
			d.c.t.Error("the certificate did not renew itself")
		}
		return old
	}
}

// TestPeople: two people on two machines come in by contexts, through a manager that
// does not lead, each as who they are; they may do nothing that no role lets them, and
// the audit log has what they do and are refused; renewals, another machine, a leader
// that goes, and being revoked while at work.
func TestPeople(t *testing.T) {
	t.Parallel()
	c := up(t, "people", 3, 2)
	alice, bob := c.desk("worker-1"), c.desk("worker-2")
	invitation := c.ok("manager-2", "person", "invite", "-q", "alice")
	if r := alice.run(invitation, "context", "create", "prod", "--use"); r.code != 0 || !strings.Contains(r.stdout, "person alice of cluster") {
		t.Fatal(r)
	}
	carol := c.desk("worker-1")
	renews := carol.renewsOnce()
	if r := bob.run(invitation, "context", "create", "prod"); r.code != 1 && r.code != 5 || !strings.Contains(r.stderr, "the invitation is not accepted") {
		t.Errorf("the invitation a second time: %v", r)
	}
	if r := bob.run(c.ok("manager-3", "person", "invite", "-q", "bob"), "context", "create", "prod", "--use"); r.code != 0 {
		t.Fatal(r)
	}
	for _, d := range []*desk{alice, bob} {
		raw, err := os.ReadFile(d.context("prod"))
		if fi, e := os.Stat(d.context("prod")); err != nil || e != nil || fi.Mode().Perm() != 0o600 || !strings.HasPrefix(string(raw), "RDTX1\n") {
			t.Errorf("the context's file: %v, %v", err, e)
		}
	}

	// Each is who they are, whichever manager is asked; and that is all they may.
	who := func(d *desk, name string) {
		t.Helper()
		if said := strings.TrimSpace(d.ok("whoami", "--format", "{{.Person}} from {{.Source}}")); said != name+" from "+c.host(d.host).Address {
			t.Errorf("%s is %s", name, said)
		}
	}
	who(alice, "alice")
	who(bob, "bob")
	for _, args := range [][]string{{"status"}, {"service", "ls"}, {"node", "ls"}, {"secret", "ls"}, {"person", "ls"}, {"person", "invite", "mallory"}, {"person", "revoke", "bob"},
		{"join-token", "manager"}, {"ca", "rotate"}, {"service", "create", "--detach", image}, {"events", "--since", "1h"}} {
		alice.refused(5, "person:alice may not ", args...)
	}
	alice.refused(2, "context prod is in use", "unlock")
	if out := c.ok("manager-1", "person", "ls", "--format", "{{.Name}} {{.State}}"); out != "alice active\nbob active\ncarol active\n" {
		t.Errorf("people: %s", out)
	}
	if out := c.ok("manager-1", "whoami", "--format", "{{.Caller}}"); !strings.HasPrefix(out, "local root of node") {
		t.Errorf("root on a manager is %s", out)
	}

	// A role lets Alice do what it is for, and nobody else.
	c.ok("manager-1", "auth", "bind", "deployer", "person:alice")
	alice.ok("network", "create", "--driver", "bridge", "hers")
	alice.refused(5, "person:alice may not node.remove on node worker-2", "node", "rm", "--force", "worker-2")
	bob.refused(5, "person:bob may not network.remove on network hers", "network", "rm", "hers")
	recorded := func(want, person string, filter ...string) {
		t.Helper()
		eventually(t, 2*time.Minute, func() string { // a refusal beyond the first of a minute
			all := c.ok("manager-2", append([]string{"audit", "ls", "--last", "4000", "--filter", "person=" + person,
				"--format", "{{.Method}} {{.Outcome}} {{.Caller.Name}} {{.Caller.Address}} {{index . \"reason\"}}"}, filter...)...)
			if !strings.Contains(all, want) {
				return "no " + want + " in " + all
			}
			return ""
		})
	}
	recorded("redoubt.control.v1.Control/CreateNetwork done person alice "+c.host("worker-1").Address+":", "alice")
	recorded("redoubt.control.v1.Control/RemoveNode denied person alice "+c.host("worker-1").Address+":", "alice", "--filter", "outcome=denied")
	recorded("redoubt.control.v1.Control/RemoveNetwork denied person bob", "bob")

	// The leader goes; a manager that was locked says so, the others answer.
	leads := c.leader("manager-1")
	c.lab("stop", leads)
	eventually(t, time.Minute, func() string {
		if r := bob.run("", "whoami"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	c.lab("start", "--unlock", leads)

	old := renews()
	recorded("redoubt.pki.v1.PersonRenewal/RenewPerson done person carol", "carol")

	// Another machine takes Carol's place; a copy of before is worth nothing.
	if r := bob.run(c.ok("manager-1", "person", "invite", "-q", "carol"), "context", "create", "hers"); r.code != 0 {
		t.Fatal(r)
	}
	carol.refused(5, "person carol has a newer certificate than this one", "whoami")
	if err := os.WriteFile(carol.context("prod"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := carol.run("", "whoami"); r.code != 5 {
		t.Errorf("a copy of an old context: %v", r)
	}
	who(alice, "alice")

	c.ok("manager-1", "person", "revoke", "bob")
	bob.refused(5, "person bob was revoked", "whoami")
	recorded("person bob was revoked", "bob", "--filter", "outcome=denied")
	c.refused("manager-1", 1, "person bob was revoked", nil, "person", "invite", "bob")
	c.ok("manager-1", "person", "rm", "bob")
	bob.refused(5, "knows no person bob", "whoami")
	if said := bob.ok("--context", "hers", "whoami", "--format", "{{.Person}}"); strings.TrimSpace(said) != "carol" {
		t.Errorf("another person after bob was removed: %s", said)
	}
}
