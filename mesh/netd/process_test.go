package netd_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A daemon is redoubt-netd with the rights it has in production and no more: its
// own user, two capabilities, its sandbox. It runs in a namespace of its own, with
// a /dev/net/tun that is open to all, as Debian's is.
type daemon struct {
	t              *testing.T
	dir, bin, sock string
	passed         []*os.File

	cmd    *exec.Cmd
	logs   *bytes.Buffer
	exited chan error
}

const netdUID = 39127

// built is the program, linked once for all tests.
var built = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "netd")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	to := filepath.Join(dir, "redoubt-netd")
	if out, err := exec.Command("go", "build", "-o", to, "../../cmd/redoubt-netd").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(to)
})

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "netd") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &daemon{t: t, dir: dir, bin: filepath.Join(dir, "redoubt-netd"), sock: filepath.Join(dir, "netd.sock")}
	tun := filepath.Join(dir, "tun")
	if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(filepath.Join(dir, "netns"), 0o711),
		unix.Mknod(tun, unix.S_IFCHR, int(unix.Mkdev(10, 200))), os.Chmod(tun, 0o666)); err != nil {
		t.Fatal(err)
	}
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.yaml")
	if err := errors.Join(os.WriteFile(d.bin, program, 0o755), os.Chmod(d.bin, 0o755), os.WriteFile(config, []byte("netd:\n  allow_link_local: false\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{d.sock, d.wg()} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		d.passed = append(d.passed, f)
	}
	pin(t, d.node(), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return d
}

// wg is where wg is answered.
func (d *daemon) wg() string { return filepath.Join(d.dir, "wg.sock") }

func (d *daemon) node() string { return filepath.Join(d.dir, "node") }

// start runs it; end ends it.
func (d *daemon) start() {
	d.t.Helper()
	d.logs, d.exited = &bytes.Buffer{}, make(chan error, 1)
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, d.bin, "--config", filepath.Join(d.dir, "config.yaml"),
		"--run-dir", d.dir, "--data-dir", d.dir, "--control-user", fmt.Sprint(os.Getuid()))
	cmd.Env = []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=netd:wg"}
	cmd.ExtraFiles = d.passed
	cmd.Stdout, cmd.Stderr = d.logs, d.logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: netdUID, Gid: netdUID},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}}
	d.cmd = cmd
	in(d.t, d.node(), func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount(filepath.Join(d.dir, "tun"), "/dev/net/tun", "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return cmd.Start()
	})
	exited := d.exited
	go func() { exited <- cmd.Wait() }()
	d.t.Cleanup(func() {
		if d.cmd == cmd {
			d.end(syscall.SIGKILL)
		}
	})
}

// end returns how it went.
func (d *daemon) end(by syscall.Signal) error {
	if err := d.cmd.Process.Signal(by); err != nil {
		return err
	}
	d.cmd = nil
	return <-d.exited
}
