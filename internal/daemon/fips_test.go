package daemon

import (
	"crypto/fips140"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The test binary, started with this variable, enters FIPS mode as a daemon does.
const childVar = "DAEMON_FIPS_CHILD"

func TestMain(m *testing.M) {
	path := os.Getenv(childVar)
	if path == "" {
		os.Exit(m.Run())
	}
	err := enterFIPS(path, len(os.Args) > 1 && os.Args[1] == "--fips")
	name, _ := os.ReadFile("/proc/self/comm")
	fmt.Printf("%v %v %s %v %s", fips140.Enforced(), err, strings.TrimSpace(string(name)), os.Args[1:], os.Getenv("GODEBUG"))
	os.Exit(0)
}

// TestEnterFIPS: flag or configuration alone put a daemon into FIPS mode, with its
// name, arguments and what GODEBUG had besides.
func TestEnterFIPS(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	none, yes := write("node:\n  name: a\n"), write("node:\n  name: a\n  fips: true\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(self)[:min(15, len(filepath.Base(self)))]
	for _, tc := range []struct{ path, set, flag, want string }{
		{none, "", "--other", "false <nil> " + name + " [--other] "},
		{yes, "", "--other", "true <nil> " + name + " [--other] fips140=only"},
		{none, "", "--fips", "true <nil> " + name + " [--fips] fips140=only"},
		{yes, "madvdontneed=1", "--fips", "true <nil> " + name + " [--fips] madvdontneed=1,fips140=only"},
		{yes, "fips140=on", "--fips", "true <nil> " + name + " [--fips] fips140=on,fips140=only"},
		{none, "fips140=only", "--other", "true <nil> " + name + " [--other] fips140=only"},
		{write("node:\n  fips: perhaps\n"), "", "--other", "false configuration"},
		{filepath.Join(t.TempDir(), "none"), "", "--other", "false configuration"},
	} {
		cmd := exec.Command(self, tc.flag)
		cmd.Env = []string{childVar + "=" + tc.path, "GODEBUG=" + tc.set}
		out, err := cmd.Output()
		if err != nil || !strings.HasPrefix(string(out), tc.want) {
			t.Errorf("%+v: %s %v", tc, out, err)
		}
	}
}

// TestFIPSIsNotPretended: a process that should be in FIPS mode and is not says so,
// instead of starting itself for ever.
func TestFIPSIsNotPretended(t *testing.T) {
	t.Setenv("GODEBUG", fipsOnly) // it is read before main
	if err := enterFIPS("", true); err == nil || !strings.Contains(err.Error(), "this binary has no FIPS mode") {
		t.Error(err)
	}
}

// TestModuleThatIsNotFit: binaries built with the first frozen module would make no
// cluster, and say it at the start instead.
func TestModuleThatIsNotFit(t *testing.T) {
	for module, fits := range map[string]bool{"latest": true, "v1.26.0": true, "v1.0.0": false, "v1.0.0-c2097c7c": false} {
		if err := fit(module); (err == nil) != fits {
			t.Errorf("%s: %v", module, err)
		}
	}
}
