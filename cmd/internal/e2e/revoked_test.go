package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// onLists has openssl verify a node's certificate against the revocation lists that
// the cluster publishes. file is the node's leaf as it is kept.
func (c *cluster) onLists(file, when string, revoked bool) {
	c.t.Helper()
	c.verified(c.keptChain(file), when, revoked)
}

// verified is onLists for a chain: leaf, the CA that issued it, root.
func (c *cluster) verified(chain [][]byte, when string, revoked bool) {
	c.t.Helper()
	if len(chain) < 3 {
		c.t.Fatalf("%s, a chain of %d", when, len(chain))
	}
	dir := c.t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			c.t.Fatal(err)
		}
		return path
	}
	var paths []string
	for i, name := range []string{"leaf.pem", "issuing.pem", "root.pem"} {
		paths = append(paths, write(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[i]})))
	}
	lists := c.ok("manager-1", "ca", "crl")
	if n := strings.Count(lists, "BEGIN X509 CRL"); n < 3 {
		c.t.Fatalf("%d lists are published", n)
	}
	out, err := exec.Command("openssl", "verify", "-crl_check_all", "-CAfile", paths[2], "-untrusted", paths[1],
		"-CRLfile", write("lists.pem", []byte(lists)), paths[0]).CombinedOutput()
	said := strings.Contains(string(out), "certificate revoked")
	if said != revoked || (err == nil) == revoked {
		c.t.Errorf("%s, openssl says (%v): %s", when, err, out)
	}
}

// TestOldDisks: copies of a manager's and a worker's disk of before their removal,
// the operator key of that day, and the network. Swarm's users are warned that an old
// manager which rejoins decrypts everything; here it is told that it was removed,
// opens what it held that day and nothing of after, and a worker's disk nothing at
// all. A token that was used up stays so.
func TestOldDisks(t *testing.T) {
	t.Parallel()
	c := up(t, "olddisks", 3, 1)
	oldKey := c.key()
	eventually(t, time.Minute, func() string {
		if leads := c.leader("manager-1"); leads == "manager-3" {
			c.lab("stop", leads)
			c.lab("start", "--unlock", leads)
			return "manager-3 leads"
		}
		return c.threeVote("manager-1")
	})
	used, _ := c.token("worker")
	c.onIn("manager-1", []byte("what was known\n"), "config", "create", "before", "-")
	if r := c.onIn("manager-1", []byte("the first password\n"), "secret", "create", "password", "-"); r.code != 0 {
		t.Fatal(r)
	}
	// currentSecret is the version that a manager says is current, and how many it has.
	currentSecret := func(on string) string {
		return strings.TrimSpace(c.ok(on, "secret", "ls", "--format", "{{.Name}} {{.Current}} of {{.Versions}}"))
	}
	made := c.metric("manager-1", "redoubt_secrets_oldest_change_seconds")
	copies := t.TempDir()
	for _, name := range []string{"manager-3", "worker-1"} {
		c.lab("stop", name)
		cp(t, c.host(name).DataDir, filepath.Join(copies, name))
		c.lab("start", name)
		if name == "manager-3" {
			if r := c.onIn(name, oldKey, "unlock"); r.code != 0 {
				t.Fatal(r)
			}
		}
	}
	// The token's one use.
	c.ok("worker-1", "leave")
	c.ok("manager-1", "node", "rm", "--force", "worker-1")
	if r := c.onIn("worker-1", []byte(used), "join", c.addr2377("manager-1")); r.code != 0 {
		t.Fatal(r)
	}
	eventually(t, time.Minute, func() string { return c.threeVote("manager-1") })
	issuing, err := x509.ParseCertificate(c.keptChain(filepath.Join(c.host("manager-1").DataDir, "control", "leaf"))[1])
	if err != nil {
		t.Fatal(err)
	}
	c.takeOut("node", "revoke", "manager-3")
	c.onIn("manager-1", []byte("what is secret now\n"), "config", "create", "after", "-")
	if r := c.onIn("manager-1", []byte("the second password\n"), "secret", "update", "password", "-"); r.code != 0 {
		t.Fatal(r)
	}
	if said := currentSecret("manager-1"); said != "password 2 of 2" {
		t.Fatalf("the secret is %s", said)
	}
	if changed := c.metric("manager-1", "redoubt_secrets_oldest_change_seconds"); changed <= made || made == 0 {
		t.Errorf("the oldest secret was changed at %f, after %f", changed, made)
	}
	if !c.listed(issuing.SerialNumber) {
		t.Error("the issuing CA whose key manager-3 took along is on no list")
	}

	for _, name := range []string{"manager-3", "worker-1"} {
		c.lab("stop", name)
	}
	restore := func(name string) {
		data := c.host(name).DataDir
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
		cp(t, filepath.Join(copies, name), data)
	}

	// Without the network: what the thief of disk and key had that day, and no more.
	restore("manager-3")
	c.lab("cut", "manager-3")
	c.lab("start", "manager-3")
	c.refused("manager-3", 4, "does not open this manager", c.key(), "unlock") // the key of today
	for _, args := range [][]string{{"node", "ls"}, {"config", "ls"}, {"config", "inspect", "before"}, {"secret", "ls"}, {"secret", "inspect", "password"}, {"service", "ls"}, {"ca", "crl"}, {"backup", "create", "/tmp/never"}} {
		if r := c.on("manager-3", args...); r.code == 0 {
			t.Errorf("a locked old disk answers %v: %v", args, r)
		}
	}
	if r := c.onIn("manager-3", oldKey, "recover", "--force-new-cluster", "--key-file", "-"); r.code == 0 {
		out := c.on("manager-3", "config", "ls").String()
		if !strings.Contains(out, "before") {
			t.Errorf("the disk and the key of that day open less than that day: %s", out)
		}
		if strings.Contains(out, "after") {
			t.Errorf("the disk of before knows of what was made later: %s", out)
		}
		if said := currentSecret("manager-3"); said != "password 1 of 1" {
			t.Errorf("the disk of before has the secret as %s", said)
		}
	} else {
		t.Logf("alone it opens nothing, also with its key: %v", r)
	}
	c.lab("stop", "manager-3")

	// With the network, and with the key of its day.
	restore("manager-3")
	c.lab("heal", "manager-3")
	c.lab("start", "manager-3")
	c.onIn("manager-3", oldKey, "unlock", "--timeout", "5s")
	restored := time.Now()
	eventually(t, time.Minute, func() string {
		for _, args := range [][]string{{"config", "inspect", "after"}, {"config", "ls"}, {"secret", "ls"}, {"secret", "inspect", "password"}, {"secret", "rollback", "password"}, {"node", "ls"}, {"ca", "crl"}, {"join-token", "worker", "-q"}} {
			if r := c.on("manager-3", args...); r.code == 0 {
				t.Errorf("the old disk answers %v: %v", args, r)
			}
		}
		if r := c.on("manager-3", "status"); r.code != 5 || !strings.Contains(r.stdout, "removed from cluster") {
			return r.String()
		}
		return ""
	})
	t.Logf("an old manager's disk was told %v after it was started", time.Since(restored).Round(100*time.Millisecond))
	if said := currentSecret("manager-1"); said != "password 2 of 2" {
		t.Errorf("after the old disk was there the secret is %s", said)
	}
	if names, all := c.voters("manager-1"); len(names) != 2 {
		t.Errorf("%v vote: %s", names, all)
	}
	// A worker's image of before: its old identity is removed.
	restore("worker-1")
	c.lab("start", "worker-1")
	eventually(t, time.Minute, func() string {
		if r := c.on("worker-1", "status"); r.code != 5 || !strings.Contains(r.stdout, "removed from cluster") || strings.Contains(r.stdout, "being ended") {
			return r.String()
		}
		return ""
	})
	// And the token that was used is void, by use and by the rotation; a new one makes
	// a new node.
	if r := c.onIn("worker-1", []byte(used), "join", c.addr2377("manager-1")); r.code == 0 {
		t.Errorf("a token that was used up joins again: %v", r)
	}
	fresh, _ := c.token("worker")
	if r := c.onIn("worker-1", []byte(fresh), "join", c.addr2377("manager-1")); r.code != 0 {
		t.Errorf("a removed machine with a new token: %v", r)
	}
	if r := c.onIn("worker-1", []byte(fresh), "join", c.addr2377("manager-1")); r.code == 0 {
		t.Errorf("it joined twice: %v", r)
	}
	for _, text := range []string{"what is secret now", "the second password", "the first password"} {
		if found := grepTree(t, c.host("manager-3").DataDir, text); found != "" {
			t.Errorf("%q stands in %s", text, found)
		}
	}
}

// listed reports whether a certificate stands on one of the lists.
func (c *cluster) listed(serial *big.Int) bool {
	c.t.Helper()
	rest := []byte(c.ok("manager-1", "ca", "crl"))
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(serial) == 0 {
				return true
			}
		}
	}
}

// keptChain is a node's chain, which lies in clear beside its key.
func (c *cluster) keptChain(file string) [][]byte {
	c.t.Helper()
	var kept struct{ Chain [][]byte }
	if readFile(c.t, file, &kept); len(kept.Chain) < 3 {
		c.t.Fatalf("%s holds no chain up to the root", file)
	}
	return kept.Chain
}

// grepTree names a file below dir that holds text.
func grepTree(t *testing.T, dir, text string) string {
	out, err := exec.Command("grep", "-rlaF", "-e", text, dir).CombinedOutput()
	if err == nil {
		return fmt.Sprintf("%.200s", out)
	}
	return ""
}
