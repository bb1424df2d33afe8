package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Each case runs in a child of its own: a sandbox cannot be taken off again.
func TestMain(m *testing.M) {
	switch c := os.Getenv("SANDBOX_CASE"); c {
	case "":
		os.Exit(m.Run())
	default:
		if err := child(c, os.Getenv("SANDBOX_DIR")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func child(name, dir string) error {
	dropAll := func(keep uint32) error {
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		d := [2]unix.CapUserData{{Permitted: keep, Effective: keep}}
		return unix.Capset(&h, &d[0])
	}
	denied := func(what string, err error) error {
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%s: %v, want a refusal", what, err)
		}
		return nil
	}
	exec := func() error { return denied("exec", syscall.Exec("/bin/true", []string{"true"}, nil)) }
	switch name {
	case "minimal":
		if err := dropAll(0); err != nil {
			return err
		}
		if _, err := Apply(Profile{Files: &Files{ReadWrite: []string{dir}}}); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
			return fmt.Errorf("own directory: %w", err)
		}
		_, rerr := os.ReadFile("/etc/passwd")
		_, nerr := net.Dial("tcp", "127.0.0.1:1")
		return errors.Join(denied("read elsewhere", rerr), denied("socket", nerr), exec(), denied("unshare", unix.Unshare(unix.CLONE_NEWUSER)))
	case "network":
		if err := dropAll(0); err != nil {
			return err
		}
		if _, err := Apply(Profile{Syscalls: Network, Files: &Files{ReadOnly: []string{"/etc"}, BindTCP: []uint16{0}, Connect: true}}); err != nil {
			return err
		}
		if _, err := os.ReadFile("/etc/passwd"); err != nil {
			return fmt.Errorf("read-only directory: %w", err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("allowed port: %w", err)
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		c.Close()
		l.Close()
		_, berr := net.Listen("tcp", "127.0.0.1:2378")
		werr := os.WriteFile("/etc/redoubt-sandbox-test", nil, 0o600)
		return errors.Join(denied("other port", berr), denied("write", werr), exec(), denied("setns", unix.Setns(0, unix.CLONE_NEWNET)), denied("ptrace", unix.PtraceAttach(1)))
	case "netadmin":
		if _, err := Apply(Profile{Syscalls: NetworkAdmin, Capabilities: all()}); err != nil {
			return err
		}
		ns, err := os.Open("/proc/self/ns/net")
		if err != nil {
			return err
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns(CLONE_NEWNET): %w", err)
		}
		return errors.Join(denied("setns(0)", unix.Setns(int(ns.Fd()), 0)), denied("mount", unix.Mount("x", dir, "tmpfs", 0, "")), exec())
	case "capability":
		_, err := Apply(Profile{Syscalls: Network})
		if err == nil || !strings.Contains(err.Error(), "must not hold") {
			return fmt.Errorf("started with every capability: %v", err)
		}
		return nil
	}
	return fmt.Errorf("no case %q", name)
}

func all() (cs []Capability) {
	for c := range Capability(64) {
		cs = append(cs, c)
	}
	return cs
}

func TestApply(t *testing.T) {
	for _, name := range []string{"minimal", "network", "netadmin", "capability"} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = []string{"SANDBOX_CASE=" + name, "SANDBOX_DIR=" + t.TempDir()}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}
