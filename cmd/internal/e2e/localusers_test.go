package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// asUser runs `redoubt args…` on a host as a user of this machine, with these groups
// beside the user's own, at the socket for users.
func (c *cluster) asUser(host string, uid int, groups []int, args ...string) result {
	c.t.Helper()
	list := "--clear-groups"
	if len(groups) > 0 {
		var words []string
		for _, g := range groups {
			words = append(words, strconv.Itoa(g))
		}
		list = "--groups=" + strings.Join(words, ",")
	}
	argv := []string{"lab", "exec", "--name", c.name, host, "--", "setpriv", "--reuid=" + strconv.Itoa(uid), "--regid=" + strconv.Itoa(uid), list,
		"env", "REDOUBT_HOST=unix://" + filepath.Join(c.host(host).RunDir, "users.sock"), filepath.Join(binDir, "redoubt")}
	return run(c.t, nil, append(argv, args...)...)
}

// TestLocalUsers: users of a manager's machine who are in the group of redoubtd reach
// the operator API at a socket of their own, each by name and machine, at whichever
// manager; they may what a role gives them there and nothing else, and the audit log
// has them. Nobody else gets in there, and a worker's users are nobody.
func TestLocalUsers(t *testing.T) {
	t.Parallel()
	c := up(t, "localusers", 2, 1)
	const daemon, bin, nameless = 1, 2, 4242421 // two names of every Debian's user database, and none
	group := func(host string) []int {
		t.Helper()
		fi, err := os.Stat(filepath.Join(c.host(host).RunDir, "users.sock"))
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		if st.Uid != 0 || st.Gid == 0 || fi.Mode().Perm() != 0o660 {
			t.Errorf("the socket of %s has owner %d:%d and mode %o", host, st.Uid, st.Gid, fi.Mode().Perm())
		}
		return []int{5, int(st.Gid)}
	}
	refused := func(r result, code int, want string) {
		t.Helper()
		if r.code != code || !strings.Contains(r.stderr, want) || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
			t.Errorf("want exit %d and one line with %q, got %v", code, want, r)
		}
	}
	ok := func(r result) string {
		t.Helper()
		if r.code != 0 {
			t.Error(r)
		}
		return r.stdout
	}
	managers := []string{"manager-1", "manager-2"} // one of them leads

	// Nobody has a role to begin with.
	for _, m := range managers {
		for _, args := range [][]string{{"status"}, {"service", "ls"}, {"auth", "bind", "operator", "user:daemon@" + m}, {"secret", "ls"}, {"join-token", "manager"}} {
			refused(c.asUser(m, daemon, group(m), args...), 5, "user:daemon@"+m+" may not ")
		}
		if out := ok(c.asUser(m, daemon, group(m), "whoami", "--format", "{{.Caller}}")); out != "user daemon of node "+c.nodeID(m)+"\n" {
			t.Errorf("%s: %s", m, out)
		}
		refused(c.asUser(m, daemon, group(m), "auth", "can-i", "network.create"), 1, "no role there and no policy permits it")
		// What is this machine's own is root's.
		refused(c.asUser(m, daemon, group(m), "leave", "--force"), 5, "")
		// Who is not in the group, has no name, or is root has no business here.
		refused(c.asUser(m, daemon, []int{5}, "status"), 5, "this user may not use")
		refused(c.asUser(m, nameless, group(m), "status"), 5, "the node refused this user")
		refused(c.asUser(m, 0, nil, "status"), 5, "is for users who are not root")
	}
	refused(c.asUser("worker-1", daemon, group("worker-1"), "service", "ls"), 5, "this node is a worker")

	// A role is of one name on one machine.
	c.ok("manager-2", "auth", "bind", "deployer", "user:daemon@manager-1")
	ok(c.asUser("manager-1", daemon, group("manager-1"), "network", "create", "--driver", "bridge", "mine"))
	if out := ok(c.asUser("manager-1", daemon, group("manager-1"), "auth", "explain", "network.remove", "network:mine")); !strings.Contains(out, "permitted by role deployer") {
		t.Error(out)
	}
	c.ok("manager-1", "auth", "can-i", "--as", "user:daemon@manager-1", "network.remove", "network:mine")
	c.refused("manager-1", 1, "no role there", nil, "auth", "can-i", "--as", "user:daemon@manager-2", "network.remove", "network:mine")
	refused(c.asUser("manager-2", daemon, group("manager-2"), "network", "rm", "mine"), 5, "user:daemon@manager-2 may not network.remove on network mine")
	refused(c.asUser("manager-1", bin, group("manager-1"), "network", "rm", "mine"), 5, "user:bin@manager-1 may not network.remove on network mine")
	refused(c.asUser("manager-1", daemon, group("manager-1"), "auth", "bind", "security-admin", "user:daemon@manager-1"), 5, "may not binding.create")
	refused(c.asUser("manager-1", daemon, group("manager-1"), "node", "rm", "--force", "worker-1"), 5, "may not node.remove")
	c.ok("manager-1", "auth", "unbind", "deployer", "user:daemon@manager-1")
	refused(c.asUser("manager-1", daemon, group("manager-1"), "network", "rm", "mine"), 5, "user:daemon@manager-1 may not network.remove on network mine")

	// The log has who did it and who did not.
	id := c.nodeID("manager-1")
	for _, want := range []string{"CreateNetwork done user daemon of node " + id, "RemoveNetwork denied user bin of node " + id} {
		all := c.ok("manager-2", "audit", "ls", "--last", "4000", "--format", "{{.Method}} {{.Outcome}} {{.Caller.Name}}")
		if !strings.Contains(all, "redoubt.control.v1.Control/"+want) {
			t.Errorf("no %q in the log:\n%s", want, all)
		}
	}
}
