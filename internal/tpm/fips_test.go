package tpm

import (
	"crypto/fips140"
	"errors"
	"os"
	"os/exec"
	"testing"
)

// TestNoTPMInFIPS: what would end the process, as Go panics at a mode of a cipher
// that is not in its module, is an error. A joiner must not end a manager's keyd.
func TestNoTPMInFIPS(t *testing.T) {
	if !fips140.Enforced() {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestNoTPMInFIPS$", "-test.v")
		cmd.Env = append(cmd.Environ(), "GODEBUG=fips140=only")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if _, err := Open("/dev/null"); !errors.Is(err, ErrFIPS) {
		t.Errorf("open: %v", err)
	}
	if _, err := MakeCredential(nil, nil, nil); !errors.Is(err, ErrFIPS) {
		t.Errorf("challenge: %v", err)
	}
}
