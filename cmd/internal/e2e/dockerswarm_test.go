package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDockerSwarm: a cluster is made, its keys and tokens are rotated, it is locked and
// opened, and left, by the docker command.
func TestDockerSwarm(t *testing.T) {
	t.Parallel()
	c := up(t, "dockerswarm", 1, 1)
	d := newDockerStory(t, c)
	const m = "manager-1"
	for _, h := range []string{"worker-1", m} {
		d.saysOn(h, "", "swarm leave --force", "^Node left the swarm.\n$")
		d.saysOn(h, "", "info --format '{{.Swarm.LocalNodeState}}'", "^inactive\n$")
	}
	d.refuses("node ls", `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join"`)
	d.refuses("swarm init", "docker swarm init --autolock")
	d.refuses("swarm init --autolock --force-new-cluster", "redoubt recover")
	out := d.says("swarm init --autolock --advertise-addr "+c.host(m).Address, `(?s)Swarm initialized: current node \([a-z2-7]{26}\) is now a manager.*docker swarm join --token RDT1\..*:2377.*provide the following key:\s+RDTKEY-`)
	key := regexp.MustCompile(`RDTKEY-[A-Z2-7-]+`).FindString(out)
	token := regexp.MustCompile(`RDT1\.[a-z2-7.]+`).FindString(out)
	d.refuses("swarm init --autolock", "This node is already part of a swarm")
	d.refuses("swarm unlock-key", "an unlock key is shown once")
	d.saysOn("worker-1", "", "swarm join --token "+token+" "+c.host(m).Address+":2377", "^This node joined a swarm as a worker.\n$")
	d.says("node ls --format '{{.Hostname}} {{.ManagerStatus}}'", "^manager-1 Leader\nworker-1 \n$")

	// A token is shown to who made it, and takes the ones of before back.
	d.says("swarm join-token manager", "a token is shown once: make one by `docker swarm join-token --rotate manager`")
	first := strings.TrimSpace(d.says("swarm join-token -q --rotate manager", `^RDT1\.`))
	d.says("swarm join-token --rotate manager", `(?s)^Successfully rotated manager join token.*docker swarm join --token RDT1\.`)
	if out := c.ok(m, "join-token", "ls", "--format", "json"); !strings.Contains(out, "revoked") {
		t.Errorf("the token %.12s is good still: %s", first, out)
	}

	// The key opens the manager, and another one does after it was rotated.
	rotated := regexp.MustCompile(`RDTKEY-[A-Z2-7-]+`).FindString(d.says("swarm unlock-key --rotate", `^Successfully rotated manager unlock key.`))
	d.refuses("swarm unlock-key -q", "an unlock key is shown once")
	if key == "" || rotated == "" || rotated == key {
		t.Fatalf("keys %q and %q", key, rotated)
	}
	c.lab("stop", m)
	c.lab("start", m)
	eventually(t, 20*time.Second, func() string {
		if r := d.in(m, "", "info", "--format", "{{.Swarm.LocalNodeState}}"); r.stdout != "locked\n" {
			return r.String()
		}
		return ""
	})
	d.refuses("node ls", "Swarm is encrypted and needs to be unlocked before it can be used.")
	if r := d.in(m, rotated+"\n", "swarm", "unlock"); r.code != 1 || !strings.Contains(r.stderr, "run `redoubt unlock` on this machine") {
		t.Errorf("swarm unlock: %v", r)
	}
	c.refused(m, 4, "does not open this manager", []byte(key+"\n"), "unlock")
	if r := c.onIn(m, []byte(rotated+"\n"), "unlock"); r.code != 0 {
		t.Fatal(r)
	}

	d.says("swarm update --autolock=false", "^Swarm updated.\n$")
	d.says("info --format '{{.Swarm.Cluster.Spec.EncryptionConfig.AutoLockManagers}}'", "^false\n$")
	d.refuses("swarm unlock-key --rotate", "cannot rotate because autolock is not turned on")
	d.says("swarm update --autolock=true", `(?s)^Swarm updated.*RDTKEY-`)
	d.says("swarm update --cert-expiry 12h", "^Swarm updated.\n$")
	before := d.says("swarm ca", "^-----BEGIN CERTIFICATE-----\n")
	if after := d.says("swarm ca --rotate --quiet", ""); strings.Contains(after, before) {
		t.Error("the root is the one of before")
	}
	eventually(t, 30*time.Second, func() string {
		if d.says("swarm ca", "BEGIN CERTIFICATE") == before {
			return "the root is the one of before"
		}
		return ""
	})
	d.refuses("swarm leave", "")
	d.says("swarm leave --force", "^Node left the swarm.\n$")
}

// TestDockerUsers: who calls by docker.sock is the user that the machine knows, may what
// that user's roles permit, and is in the audit log by name, as on the native socket.
func TestDockerUsers(t *testing.T) {
	t.Parallel()
	c := up(t, "dockerusers", 2, 0)
	d := newDockerStory(t, c)
	as := func(host string, uid int, groups ...int) func(args ...string) result {
		list := "--clear-groups"
		for i, g := range groups {
			list = map[bool]string{true: "--groups=", false: list + ","}[i == 0] + strconv.Itoa(g)
		}
		return func(args ...string) result {
			return run(t, nil, append([]string{"lab", "exec", "--name", c.name, host, "--", "setpriv", "--reuid=" + strconv.Itoa(uid), "--regid=" + strconv.Itoa(uid), list,
				"env", "HOME=/nonexistent", d.docker}, args...)...)
		}
	}
	group := func(host string) int {
		fi, err := os.Stat(filepath.Join(c.host(host).RunDir, "docker.sock"))
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		if st.Uid != 0 || st.Gid == 0 || fi.Mode().Perm() != 0o660 {
			t.Errorf("the socket of %s has owner %d:%d and mode %o", host, st.Uid, st.Gid, fi.Mode().Perm())
		}
		return int(st.Gid)
	}
	refused := func(r result, want string) {
		t.Helper()
		if r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("want %q, got %v", want, r)
		}
	}
	for _, m := range []string{"manager-1", "manager-2"} { // one of them leads
		daemon := as(m, 1, group(m))
		refused(daemon("node", "ls"), "user:daemon@"+m+" may not node.list")
		refused(daemon("network", "create", "--driver", "bridge", "mine"), "user:daemon@"+m+" may not network.create")
		refused(daemon("swarm", "leave", "--force"), "only root of this machine")
		refused(daemon("swarm", "unlock-key"), "an unlock key is shown once")
		refused(as(m, 1)("node", "ls"), "permission denied")
		refused(as(m, 4242421, group(m))("node", "ls"), "")
	}
	c.ok("manager-2", "auth", "bind", "deployer", "user:daemon@manager-1")
	daemon := as("manager-1", 1, group("manager-1"))
	if r := daemon("network", "create", "--driver", "bridge", "mine"); r.code != 0 {
		t.Error(r)
	}
	refused(as("manager-1", 2, group("manager-1"))("network", "rm", "mine"), "user:bin@manager-1 may not network.remove on network mine")
	refused(daemon("swarm", "unlock-key", "--rotate"), "may not")
	refused(daemon("node", "update", "--availability", "drain", "manager-2"), "may not")
	// What root is given to fetch is root's.
	if r := d.in("manager-1", "", "swarm", "join-token", "-q", "--rotate", "worker"); r.code != 0 {
		t.Fatal(r)
	}
	if r := daemon("swarm", "join-token", "-q", "worker"); strings.Contains(r.stdout, "RDT1.") {
		t.Errorf("another's token is shown: %v", r)
	}
	id := c.nodeID("manager-1")
	all := c.ok("manager-2", "audit", "ls", "--last", "4000", "--format", "{{.Method}} {{.Outcome}} {{.Caller.Name}}")
	for _, want := range []string{"CreateNetwork done user daemon of node " + id, "RemoveNetwork denied user bin of node " + id} {
		if !strings.Contains(all, "redoubt.control.v1.Control/"+want) {
			t.Errorf("no %q in the log:\n%s", want, all)
		}
	}
	var info struct {
		Swarm struct{ LocalNodeState string }
	}
	if r := daemon("info", "--format", "json"); r.code != 0 || json.Unmarshal([]byte(r.stdout), &info) != nil || info.Swarm.LocalNodeState != "active" {
		t.Errorf("%v", r)
	}
}
