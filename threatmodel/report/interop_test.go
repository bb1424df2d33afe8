//go:build interop

package report

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestInteropXCCDF: OpenSCAP finds it valid, and would not find another thing so.
func TestInteropXCCDF(t *testing.T) {
	oscap, err := exec.LookPath("oscap")
	if err != nil {
		t.Fatal("oscap is not there: make test-interop installs openscap-scanner")
	}
	validate := func(text []byte) (string, error) {
		path := filepath.Join(t.TempDir(), "xccdf.xml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), oscap, "xccdf", "validate", path).CombinedOutput()
		return string(out), err
	}
	for _, r := range []*Report{sample(t), empty(t), waived(t, waiver("w1", "lock", of("n1"), begun.Add(time.Hour)))} {
		text := written(t, r, "xccdf")
		if out, err := validate(text); err != nil {
			t.Errorf("%v: %s\n%s", err, out, text)
		}
	}
	if _, err := validate([]byte(`<?xml version="1.0"?><Benchmark xmlns="http://checklists.nist.gov/xccdf/1.2" id="x"/>`)); err == nil {
		t.Error("oscap takes anything")
	}
}
