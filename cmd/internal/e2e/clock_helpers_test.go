package e2e

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shiftedEnv names a directory of binaries that clockshift made.
const shiftedEnv = "REDOUBT_SHIFTED_BIN"

// useShifted has the test's labs run daemons whose clocks it can set.
func useShifted(t *testing.T) {
	t.Helper()
	dir := os.Getenv(shiftedEnv)
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "shifted")
		cmd := exec.Command("go", "run", "./cmd/internal/e2e/clockshift", "-bin", binDir, "-o", dir)
		cmd.Dir = filepath.Join("..", "..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the daemons with a clock to set: %v: %s", err, out)
		}
	}
	ordinary := binDir
	binDir = dir
	t.Cleanup(func() { binDir = ordinary })
}

// setClock puts a host's clock off by that much: at once where its daemons
// started with such a clock, and from their next start on otherwise.
func (c *cluster) setClock(h host, ahead time.Duration) {
	c.t.Helper()
	f, err := os.OpenFile(h.DataDir+".clock", os.O_CREATE|os.O_WRONLY, 0o644) // written in place: it is mapped
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Chmod(0o644); err != nil {
		c.t.Fatal(err)
	}
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], uint64(int64(ahead)))
	if _, err := f.WriteAt(b[:], 0); err != nil {
		c.t.Fatal(err)
	}
}

// settableClocks restarts every host: its clock can be set from then on.
func (c *cluster) settableClocks() {
	c.t.Helper()
	for _, h := range c.hosts() {
		c.setClock(h, 0)
		c.lab("stop", h.Name)
	}
	c.bootAll()
}

// bootAll starts every host and unlocks the managers.
func (c *cluster) bootAll() {
	c.t.Helper()
	for _, h := range c.hosts() {
		c.lab("start", h.Name)
	}
	for _, h := range c.hosts() {
		if h.Role == "manager" {
			r := c.onIn(h.Name, c.key(), "unlock")
			if r.code != 0 && !strings.Contains(r.stderr, "majority") && !strings.Contains(r.stderr, "not locked") {
				c.t.Fatal(r)
			}
		}
	}
}
