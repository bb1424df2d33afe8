package e2e

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/tpm/tpmtest"
)

var tpmLine = regexp.MustCompile(`(?m)^keyd:\n  tpm: .*\n`)

// plugIn makes d the TPM of a host from its next start on; nil: it has none.
func (c *cluster) plugIn(name string, d *tpmtest.Device) {
	c.t.Helper()
	path := filepath.Join(filepath.Dir(c.host(name).DataDir), "config.yaml")
	config, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	config = tpmLine.ReplaceAll(config, nil)
	if d != nil {
		config = append(config, "keyd:\n  tpm: "+d.Socket+"\n"...)
		letIn(c.t, d)
	}
	if err := os.WriteFile(path, config, 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// letIn lets the user of a keyd at a TPM's socket, as udev does at a device.
func letIn(t *testing.T, d *tpmtest.Device) {
	t.Helper()
	for path, mode := range map[string]os.FileMode{filepath.Dir(d.Socket): 0o711, d.Socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cluster) powerOff(name string) { c.t.Helper(); c.lab("kill", "--containers", name) }

// powerOn starts a machine with its TPM, whose registers begin anew.
func (c *cluster) powerOn(name string, d *tpmtest.Device, measured ...string) {
	c.t.Helper()
	if d != nil {
		d.Stop()
		d.Start()
		for _, m := range measured {
			d.Extend(7, sha256.Sum256([]byte(m)))
		}
	}
	c.plugIn(name, d)
	c.lab("start", name)
}

// wantStatus waits until `status` on a host ends with that code.
func (c *cluster) wantStatus(name string, code int) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		if r := c.on(name, "status"); r.code != code {
			return r.String()
		}
		return ""
	})
}

// TestTPMSlot has managers open themselves by their TPMs: rebooted, nobody is asked;
// the disk in another machine, a machine that was started otherwise, and one whose
// slot was removed stay locked, and say why.
func TestTPMSlot(t *testing.T) {
	t.Parallel()
	c := up(t, "tpmslot", 3, 0)
	one, two, foreign := tpmtest.New(t), tpmtest.New(t), tpmtest.New(t)
	for name, d := range map[string]*tpmtest.Device{"manager-1": one, "manager-2": two} {
		c.powerOff(name)
		c.powerOn(name, d)
		c.unlock(name)
	}
	r := c.on("manager-1", "unlock-key", "slot", "add", "tpm", "--pcrs", "0,7")
	if r.code != 3 || !strings.Contains(r.stderr, "manager-3 cannot open itself: no TPM is configured") {
		t.Fatalf("slot add: %v", r)
	}
	if out := c.ok("manager-3", "unlock-key", "slot", "test", "tpm", "--help"); out == "" {
		t.Error("no help")
	}
	c.refused("manager-3", 4, "no TPM is configured", nil, "unlock-key", "slot", "test", "tpm")
	if out := c.ok("manager-2", "unlock-key", "slot", "test", "tpm"); !strings.Contains(out, "tpm (PCR 0,7), opens this manager by itself") {
		t.Error(out)
	}
	eventually(t, time.Minute, func() string {
		if out := c.ok("manager-2", "unlock-key", "slot", "ls"); !strings.Contains(out, "does not open by tpm: no TPM is configured") {
			return out
		}
		return ""
	})

	c.powerOff("manager-1")
	began := time.Now()
	c.powerOn("manager-1", one)
	c.wantStatus("manager-1", 0)
	t.Logf("a manager was open %v after it had power again", time.Since(began).Round(10*time.Millisecond))

	// The disk in another machine.
	c.powerOff("manager-2")
	c.powerOn("manager-2", foreign)
	c.wantStatus("manager-2", 4)
	c.refused("manager-2", 4, "sealed by another", nil, "unlock-key", "slot", "test", "tpm")
	c.powerOff("manager-2")
	c.powerOn("manager-2", nil)
	c.wantStatus("manager-2", 4)

	// Its own machine, but with another boot loader; and as it was.
	c.powerOff("manager-2")
	c.powerOn("manager-2", two, "another boot loader")
	c.wantStatus("manager-2", 4)
	c.refused("manager-2", 4, "firmware, boot loader or settings changed", nil, "unlock-key", "slot", "test", "tpm")
	c.unlock("manager-2")
	c.wantStatus("manager-2", 0)
	c.powerOff("manager-2")
	c.powerOn("manager-2", two)
	c.wantStatus("manager-2", 0)

	eventually(t, time.Minute, func() string {
		if r := c.on("manager-1", "unlock-key", "slot", "rm", "tpm"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	c.powerOff("manager-2")
	c.powerOn("manager-2", two)
	c.wantStatus("manager-2", 4)
	c.unlock("manager-2")
}
