package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is one at which a command of redoubt runs, on a host of a lab.
type terminal struct {
	t    *testing.T
	desk *os.File // what stands before the person
	cmd  *exec.Cmd
	said strings.Builder
}

// atTerminal runs `redoubt args…` on a host at a terminal of that size.
func (c *cluster) atTerminal(host string, columns, rows uint16, args ...string) *terminal {
	c.t.Helper()
	fail := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	fail(err)
	fail(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	fail(err)
	other, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	fail(err)
	defer other.Close()
	t := &terminal{t: c.t, desk: os.NewFile(uintptr(fd), "/dev/ptmx")}
	c.t.Cleanup(func() { t.desk.Close() })
	t.resize(columns, rows)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c.t.Cleanup(cancel)
	t.cmd = exec.CommandContext(ctx, filepath.Join(binDir, "redoubt"), append([]string{"lab", "exec", "--name", c.name, host, "--", "redoubt"}, args...)...)
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = other, other, other
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	fail(t.cmd.Start())
	return t
}

func (t *terminal) resize(columns, rows uint16) {
	t.t.Helper()
	if err := unix.IoctlSetWinsize(int(t.fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.t.Fatal(err)
	}
}

func (t *terminal) fd() (fd uintptr) {
	raw, err := t.desk.SyscallConn()
	if err == nil {
		err = raw.Control(func(n uintptr) { fd = n })
	}
	if err != nil {
		t.t.Fatal(err)
	}
	return fd
}

func (t *terminal) types(text string) {
	t.t.Helper()
	if _, err := t.desk.WriteString(text); err != nil {
		t.t.Fatal(err)
	}
}

// shows waits until it has shown that, after what it was waited for before.
func (t *terminal) shows(text string) {
	t.t.Helper()
	_ = t.desk.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 4096)
	for {
		if _, after, found := strings.Cut(t.said.String(), text); found {
			t.said.Reset()
			t.said.WriteString(after)
			return
		}
		n, err := t.desk.Read(buf)
		if t.said.Write(buf[:n]); err != nil {
			t.t.Fatalf("the terminal never showed %q, but %q: %v", text, t.said.String(), err)
		}
	}
}

// exits waits for the command's end, and returns its code.
func (t *terminal) exits() int {
	t.t.Helper()
	_ = t.cmd.Wait() // its code tells
	return t.cmd.ProcessState.ExitCode()
}
