package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/tpm/tpmtest"
)

var ekLine = regexp.MustCompile(`(?m)^TPM: +([0-9a-f]{64})$`)

// outWith takes a host out of the cluster and gives it that TPM.
func (c *cluster) outWith(name string, d *tpmtest.Device, measured ...string) {
	c.t.Helper()
	c.ok(name, "leave")
	c.ok("manager-1", "node", "rm", "--force", name)
	c.powerOff(name)
	c.powerOn(name, d, measured...)
	eventually(c.t, time.Minute, func() string {
		if r := c.on(name, "status"); r.code != 0 || !strings.Contains(r.stdout, "in no cluster") {
			return r.String()
		}
		return ""
	})
}

// rebootWith gives a host that is in no cluster another TPM.
func (c *cluster) rebootWith(name string, d *tpmtest.Device, measured ...string) {
	c.t.Helper()
	c.powerOff(name)
	c.powerOn(name, d, measured...)
	eventually(c.t, time.Minute, func() string {
		if r := c.on(name, "status"); r.code != 0 {
			return r.String()
		}
		return ""
	})
}

// ek is the hash of the endorsement key that a host shows.
func (c *cluster) ek(name string) string {
	c.t.Helper()
	out := c.ok(name, "status")
	found := ekLine.FindStringSubmatch(out)
	if found == nil {
		c.t.Fatalf("%s shows no TPM:\n%s", name, out)
	}
	return found[1]
}

// TestAttestedJoin lets machines in that prove their TPM: one on the allow-list
// joins, renews and comes back after a reboot; one with another TPM, with none, or
// started otherwise is refused plainly, and its disk is worth nothing elsewhere. One
// that a maker certified joins where that maker's CA is believed.
func TestAttestedJoin(t *testing.T) {
	t.Parallel()
	c := up(t, "attest", 1, 2)
	good, other := tpmtest.New(t), tpmtest.New(t)
	c.outWith("worker-1", good)
	c.outWith("worker-2", other)
	manager := c.addr2377("manager-1")
	token := func() []byte {
		t.Helper()
		return []byte(c.ok("manager-1", "join-token", "worker", "--attest", "-q"))
	}
	c.refused("manager-1", 1, "none is believed", nil, "admission", "set", "--attest", "on")
	c.refused("manager-1", 1, "none is believed", nil, "join-token", "worker", "--attest")
	c.ok("manager-1", "admission", "set", "--allow", c.ek("worker-1"))

	c.refused("worker-2", 1, "not on the allow-list", token(), "join", manager)
	c.rebootWith("worker-2", nil)
	c.refused("worker-2", 1, "no TPM is configured", token(), "join", manager)

	// The registers: first another value than the machine has, then the machine's.
	extended := sha256.Sum256(append(make([]byte, 32), hash("boot loader")...))
	c.ok("manager-1", "admission", "set", "--pcr", "7="+hex.EncodeToString(extended[:]))
	used := token()
	c.refused("worker-1", 1, "register (PCR) 7", used, "join", manager)
	c.rebootWith("worker-1", good, "boot loader")
	if r := c.onIn("worker-1", used, "join", manager); r.code != 0 { // refused before, it was not used up
		t.Fatalf("join: %v", r)
	}
	eventually(t, time.Minute, func() string { return c.memberReady("worker-1") })
	if out := c.ok("manager-1", "node", "inspect", "worker-1"); !strings.Contains(out, c.ek("worker-1")) {
		t.Errorf("node inspect does not show the TPM:\n%s", out)
	}

	// No key of it lies on the disk in clear.
	leaf, err := os.ReadFile(filepath.Join(c.host("worker-1").DataDir, "control", "leaf"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(leaf), `"key"`) || !strings.Contains(string(leaf), `"tpm"`) {
		t.Errorf("the key of the certificate is not sealed by the TPM: %.300s", leaf)
	}

	// It renews with its TPM's word: its issuer is replaced.
	before := c.leafSerial("worker-1")
	c.ok("manager-1", "ca", "rotate")
	eventually(t, 2*time.Minute, func() string {
		if c.leafSerial("worker-1") == before {
			return "worker-1 has its certificate of before"
		}
		return ""
	})

	// It comes back by itself after a reboot.
	c.powerOff("worker-1")
	c.powerOn("worker-1", good, "boot loader")
	eventually(t, time.Minute, func() string { return c.memberReady("worker-1") })

	// Its disk in another machine.
	c.powerOff("worker-1")
	c.powerOn("worker-1", other)
	eventually(t, time.Minute, func() string {
		if r := c.on("worker-1", "status"); !strings.Contains(r.String(), "sealed by its TPM") {
			return r.String()
		}
		return ""
	})

	// A maker vouches for its TPMs, so that nobody has to list them, and another maker
	// does not.
	ofMaker, ofOther := tpmtest.Certified(t), tpmtest.Certified(t)
	maker := filepath.Join(t.TempDir(), "maker.pem")
	if err := os.WriteFile(maker, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ofMaker.CA.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c.ok("manager-1", "admission", "set", "--ek-ca", maker)
	c.rebootWith("worker-2", ofOther, "boot loader")
	c.refused("worker-2", 1, "of no CA that is trusted for TPMs", token(), "join", manager)
	c.rebootWith("worker-2", ofMaker, "boot loader")
	if r := c.onIn("worker-2", token(), "join", manager); r.code != 0 {
		t.Fatalf("join with a certificate of the maker: %v", r)
	}
	eventually(t, time.Minute, func() string { return c.memberReady("worker-2") })
}

func hash(text string) []byte { h := sha256.Sum256([]byte(text)); return h[:] }

// leafSerial is the serial number of the certificate on a host's disk.
func (c *cluster) leafSerial(name string) string {
	c.t.Helper()
	chain := c.keptChain(filepath.Join(c.host(name).DataDir, "control", "leaf"))
	sum := sha256.Sum256(chain[0])
	return hex.EncodeToString(sum[:])
}

var fingerprint = regexp.MustCompile(`node approve ([A-Z2-7]{4}(-[A-Z2-7]{4}){3})`)

// joins begins a join that waits for an operator, and returns the fingerprint that
// it shows, and how it ends.
func (c *cluster) joins(name string, token []byte, manager string) (string, func() result) {
	c.t.Helper()
	done := make(chan result, 1)
	go func() {
		done <- run(c.t, token, "lab", "exec", "--name", c.name, name, "--", "redoubt", "join", manager)
	}()
	var shown string
	eventually(c.t, time.Minute, func() string {
		select {
		case r := <-done:
			c.t.Fatalf("the join did not wait: %v", r)
		default:
		}
		out := c.ok(name, "status")
		if found := fingerprint.FindStringSubmatch(out); found != nil {
			shown = found[1]
			return ""
		}
		return out
	})
	return shown, func() result {
		select {
		case r := <-done:
			return r
		case <-time.After(time.Minute):
			c.t.Fatal("the join does not end")
			return result{}
		}
	}
}

// TestApprovedManager has a machine with a good token wait until an operator lets it
// be a manager, and one that is denied refused, its token with it.
func TestApprovedManager(t *testing.T) {
	t.Parallel()
	c := up(t, "approve", 1, 1)
	c.ok("worker-1", "leave")
	c.ok("manager-1", "node", "rm", "--force", "worker-1")
	manager := c.addr2377("manager-1")
	c.refused("manager-1", 2, "unknown flag", nil, "join-token", "worker", "--approve")

	token := []byte(c.ok("manager-1", "join-token", "manager", "--approve", "-q"))
	shown, end := c.joins("worker-1", token, manager)
	if out := c.ok("manager-1", "node", "pending"); !strings.Contains(out, shown) || !strings.Contains(out, "worker-1") {
		t.Fatalf("node pending:\n%s", out)
	}
	if told := c.ok("manager-1", "events", "--since", "1h", "--until", "0s", "--filter", "type=node"); strings.Count(told, "node wait worker-1") != 1 || !strings.Contains(told, shown) {
		t.Errorf("events do not tell, once, of who waits:\n%s", told)
	}
	c.refused("manager-1", 1, "no such machine waits", nil, "node", "approve", "AAAA-AAAA-AAAA-AAAA")
	c.ok("manager-1", "node", "deny", shown)
	if r := end(); r.code != 1 || !strings.Contains(r.stderr, "an operator denied this machine") {
		t.Errorf("a denied join: %v", r)
	}
	c.refused("worker-1", 1, "was revoked", token, "join", manager)
	if out := c.ok("manager-1", "node", "ls", "-q"); strings.Count(out, "\n") != 1 {
		t.Errorf("there is another node:\n%s", out)
	}

	// By the cluster's rule, whatever the token says.
	c.ok("manager-1", "admission", "set", "--approve-managers", "on")
	token = []byte(c.ok("manager-1", "join-token", "manager", "-q"))
	shown, end = c.joins("worker-1", token, manager)
	c.ok("manager-1", "node", "approve", strings.ToLower(shown))
	if r := end(); r.code != 0 || !strings.Contains(r.stdout, "as a manager") {
		t.Fatalf("an approved join: %v", r)
	}
	if out := c.ok("manager-1", "node", "pending", "-q"); out != "" {
		t.Errorf("it still waits:\n%s", out)
	}
	told := c.ok("manager-1", "events", "--since", "1h", "--until", "0s", "--filter", "type=node", "--filter", "type=admission")
	for _, want := range []string{"node deny worker-1", "approve-managers=off → on", "node approve worker-1", shown} {
		if !strings.Contains(told, want) {
			t.Errorf("events do not tell of %q:\n%s", want, told)
		}
	}
}
