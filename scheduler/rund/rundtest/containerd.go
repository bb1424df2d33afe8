// Package rundtest starts a private containerd: its own root, state and socket
// in one directory, without the CRI plugin. Tests use it; whoever runs several
// nodes on one machine may, too.
//
// containerd's shims keep their sockets in /run/containerd whatever is
// configured; the namespace and the socket's path keep two instances apart.
package rundtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
	pollEvery    = 10 * time.Millisecond
)

// Containerd is a private containerd.
type Containerd struct {
	// Dir holds everything: root, state, config, log.
	Dir string
	// Socket is its gRPC socket.
	Socket string

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been waited for
}

const config = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "100ms"
`

// Start runs containerd below the existing dir, which must be short: the path of a unix
// socket has 107 characters at most.
func Start(ctx context.Context, dir string) (*Containerd, error) {
	c := &Containerd{Dir: dir, Socket: filepath.Join(dir, "c.sock")}
	// A user namespace's root must pass the parents of container file systems.
	for p := dir; p != "/"; p = filepath.Dir(p) {
		fi, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if fi.Mode()&0o001 == 0 {
			return nil, fmt.Errorf("%s cannot be passed by other users: chmod 0711 it", p)
		}
	}
	text := fmt.Sprintf(config, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.Socket)
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	return c, c.Restart(ctx)
}

// Restart starts containerd again after Kill.
func (c *Containerd) Restart(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(c.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd = exec.Command("containerd", "--config", filepath.Join(c.Dir, "config.toml"))
	// A file, not a pipe: shims and runc inherit it and outlive containerd.
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	c.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { // ends with the process
		_ = cmd.Wait()
		close(done)
	}(c.cmd, c.done)
	return c.await(ctx)
}

// await returns when the socket answers.
func (c *Containerd) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", c.Socket); err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-c.done:
			return fmt.Errorf("containerd ended at once: see %s", filepath.Join(c.Dir, "log"))
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer on %s: %w", c.Socket, ctx.Err())
		}
	}
}

// Kill ends containerd at once; containers and their shims go on.
func (c *Containerd) Kill() error {
	err := c.cmd.Process.Kill()
	<-c.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Stop ends containerd and whatever it still runs, and unmounts what is left
// below its directory.
func (c *Containerd) Stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(stopTimeout):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	errs := []error{c.killShims()}
	for range 2 { // rootfs mounts, then anything below them
		errs = append(errs, c.unmount())
	}
	return errors.Join(errs...)
}

// killShims ends shims of this instance, found by the socket in their
// arguments, and the containers below them.
func (c *Containerd) killShims() error {
	deadline := time.Now().Add(stopTimeout)
	for {
		pids, err := c.shims()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			for _, child := range children(pid) {
				_ = unix.Kill(child, unix.SIGKILL)
			}
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("shims %v do not end", pids)
		}
		<-time.After(pollEvery)
	}
}

func (c *Containerd) shims() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(b), "\x00")
		if strings.HasSuffix(args[0], "containerd-shim-runc-v2") && slices.Contains(args, c.Socket) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func children(pid int) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, s := range strings.Fields(string(b)) {
			var n int
			if _, err := fmt.Sscan(s, &n); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

func (c *Containerd) unmount() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	lines := strings.Split(string(b), "\n")
	slices.Reverse(lines)
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) > 4 && strings.HasPrefix(f[4], c.Dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, &fs.PathError{Op: "unmount", Path: f[4], Err: err})
			}
		}
	}
	return errors.Join(errs...)
}
