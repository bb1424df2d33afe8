package e2e

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
)

// TestStolenDisk is the story of a manager's disk in the wrong hands, and of
// hostile users on its machine.
func TestStolenDisk(t *testing.T) {
	t.Parallel()
	c := up(t, "disk", 1, 1)
	c.load()
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster)
	}{
		{"no secret is in any file, log or argument", secretsStayOut},
		{"no other user reaches a daemon", hostileUser},
		{"a daemon that crashes leaves no core, and keyd's end locks the manager", keydCrashes},
		{"redoubtd comes back unlocked", redoubtdRestarts},
		{"the disk is worth nothing without the key", diskAlone},
		{"every damage is named", damages},
		{"no secret is in the segments of the other log store", otherLogStore},
	} {
		if !t.Run(story.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			story.tell(t, &sub)
		}) {
			return
		}
	}
}

var (
	keyText   = regexp.MustCompile(`RDTKEY-[A-Z2-7-]+`)
	tokenText = regexp.MustCompile(`RDT1\.([a-z2-7]+)\.([a-z2-7]+)\.[a-z2-7]+\.[a-z2-7]+`)
)

// forms are a secret as it might stand in a file.
func forms(secret []byte) (out [][]byte) {
	b32 := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)
	for _, s := range []string{string(secret), hex.EncodeToString(secret), b32[:40], strings.ToLower(b32)[:40],
		base64.StdEncoding.EncodeToString(secret)[:32]} {
		out = append(out, []byte(s))
	}
	return out
}

func secretsStayOut(t *testing.T, c *cluster) {
	const env, service = "canary-value-2b71d0c4", "canary-on-the-disk"
	c.ok("manager-1", "service", "create", "--detach", "--name", service, "--replicas", "1", "--env", "CANARY="+env, image)
	token := tokenText.FindSubmatch([]byte(c.ok("manager-1", "join-token", "worker")))
	if token == nil {
		t.Fatal("no join token was shown")
	}
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(string(token[2])))
	if err != nil {
		t.Fatal(err)
	}
	key, err := autolock.ParseOperatorKey(string(c.key()))
	if err != nil {
		t.Fatal(err)
	}
	secrets := append(forms(seed), forms(key.Seed())...)
	secrets = append(secrets, bytes.TrimSpace(c.key()), []byte(env))
	var everything []string
	for _, h := range c.hosts() {
		everything = append(everything, h.DataDir, h.RunDir, filepath.Join(filepath.Dir(h.DataDir), "redoubt-node.log"))
	}
	if found := c.filesWith(secrets, everything...); len(found) > 0 {
		t.Errorf("a secret stands in %v", found)
	}
	// What a manager keeps names neither what it runs nor who else is there.
	if found := c.filesWith([][]byte{[]byte(service), []byte(image), []byte("worker-1")}, c.host("manager-1").DataDir); len(found) > 0 {
		t.Errorf("a service's, an image's or another node's name stands in %v", found)
	}
	for _, file := range []string{"cmdline", "environ"} {
		all, _ := filepath.Glob("/proc/[0-9]*/" + file)
		for _, path := range all {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // it ended
			}
			for _, s := range secrets[:len(secrets)-1] { // a container has its environment
				if bytes.Contains(b, s) {
					t.Errorf("%s holds a secret", path)
				}
			}
		}
	}
	c.ok("manager-1", "service", "rm", service)
}

func diskAlone(t *testing.T, c *cluster) {
	old := c.key()
	fresh := c.rotate("manager-1")
	c.ok("manager-1", "service", "create", "--detach", "--name", "what-the-thief-wants", "--replicas", "0", image)
	const secret = "what-the-secret-holds-5a90"
	if r := c.onIn("manager-1", []byte(secret), "secret", "create", "password", "-"); r.code != 0 {
		t.Fatal(r)
	}
	c.lab("stop", "manager-1")
	th := steal(t, c.host("manager-1"))

	// Daemons by themselves do nothing.
	for name, who := range map[string]string{"redoubtd": "redoubt-node", "redoubt-keyd": "redoubt-node", "redoubt-netd": "redoubt-node",
		"redoubt-named": "redoubt-node", "redoubt-rund": "redoubt-node", "redoubt-proxy": "redoubt-rund does"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(binDir, name), "--data-dir", th.path("data"), "--run-dir", th.dir, "--control-user", "0")
		if name == "redoubt-named" {
			cmd.Args = append(cmd.Args, "--netd-user", "1")
		}
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), who) {
			t.Errorf("%s on the copy: %v, %s", name, err, out)
		}
	}
	th.start()
	eventually(t, 30*time.Second, func() string {
		if r := th.redoubt(nil, "service", "ls"); r.code != 4 {
			return r.String()
		}
		return ""
	})
	taken := filepath.Join(t.TempDir(), "taken.rdtb")
	for _, args := range [][]string{{"service", "ls"}, {"service", "inspect", "what-the-thief-wants"}, {"node", "ls"}, {"join-token", "worker"},
		{"join-token", "ls"}, {"unlock-key", "rotate"}, {"unlock-key", "slot", "ls"}, {"init"},
		{"service", "logs", "what-the-thief-wants"}, {"events", "--since", "1h", "--until", "0s"}, {"identity", "ls"}, {"network", "ls"}, {"policy", "ls"},
		{"recover", "--force-new-cluster"}, {"backup", "create", taken}, {"ca", "inspect"}, {"ca", "crl"}, {"ca", "rotate", "--root"},
		{"secret", "ls"}, {"secret", "inspect", "password"}, {"secret", "grants", "password"}, {"secret", "create", "mine", "-"}, {"secret", "update", "password", "-"},
		{"config", "ls"}, {"config", "inspect", "site"}, {"autolock", "off"}, {"unlock-key", "slot", "add", "operator", "--name", "mine"},
		{"unlock-key", "slot", "add", "shamir", "--shares", "3", "--threshold", "2"}, {"unlock-key", "slot", "rm", "operator"}, {"unlock-key", "slot", "test"},
		{"store", "ls"}, {"store", "rotate-key"}, {"node", "promote", "worker-1"}, {"node", "revoke", "worker-1"}, {"admission", "set", "--attest", "off"}, {"leave"}} {
		want := 4
		if args[0] == "init" || args[0] == "leave" {
			want = 1 // refused for another reason
		}
		if r := th.redoubt([]byte(secret), args...); r.code != want || keyText.MatchString(r.stdout) || shareText.MatchString(r.stdout) || strings.Contains(r.stdout+r.stderr, "wants") && args[0] != "service" {
			t.Errorf("redoubt %v on the copy: %v", args, r)
		}
	}
	if _, err := os.Stat(taken); err == nil {
		t.Error("a locked copy gives a backup")
	}
	// What needs no daemon tells how many records there are, and nothing of what they hold.
	if r := th.redoubt(nil, "store", "scan", th.path("data", "control", "raft")); r.code != 0 || strings.Contains(r.stdout, "wants") {
		t.Errorf("store scan of the copy: %v", r)
	}
	if found := c.filesWith([][]byte{[]byte("what-the-thief-wants"), []byte(secret)}, th.path("data")); len(found) > 0 {
		t.Errorf("in clear on the copy: %v", found)
	}
	for name, key := range map[string]string{"another cluster's key": newKey(t), "the key before the rotation": string(old)} {
		for _, args := range [][]string{{"unlock"}, {"recover", "--force-new-cluster"}} {
			eventually(t, time.Minute, func() string { // after some keyd wants a pause
				r := th.redoubt([]byte(key), args...)
				if r.code != 4 || !strings.Contains(r.stderr, "does not open") && !strings.Contains(r.stderr, "too many wrong keys") {
					t.Fatalf("%s, redoubt %v: %v", name, args, r)
				}
				if strings.Contains(r.stderr, "too many wrong keys") {
					return r.stderr
				}
				return ""
			})
		}
	}
	if r := th.redoubt(nil, "service", "ls"); r.code != 4 {
		t.Errorf("after wrong keys: %v", r)
	}
	// With the key it is the manager: that is what the key is.
	eventually(t, time.Minute, func() string {
		switch r := th.redoubt([]byte(fresh), "unlock"); {
		case strings.Contains(r.stderr, "too many wrong keys"):
			return r.stderr
		case r.code != 0:
			t.Fatalf("the right key: %v\n%s", r, th.logs())
		}
		return ""
	})
	if r := th.redoubt(nil, "service", "ls"); r.code != 0 || !strings.Contains(r.stdout, "what-the-thief-wants") {
		t.Errorf("with the right key: %v", r)
	}
	th.stop()
}
