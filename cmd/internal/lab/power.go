package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// boot starts what is not running of h: namespaces, containerd, daemons.
func (l *Lab) boot(ctx context.Context, h Host) error {
	if _, err := os.Lstat(l.mntns(h)); errors.Is(err, os.ErrNotExist) {
		// Half of it may be left by a crash; a host is off or has all three.
		if err := l.removeNamespaces(h); err != nil {
			return err
		}
		if err := l.makeNamespaces(h); err != nil {
			return err
		}
		if err := l.connect(h); err != nil {
			return err
		}
	}
	if !l.pidFile(h, containerdProcess).alive() {
		if err := l.startContainerd(ctx, h); err != nil {
			return err
		}
	}
	if l.pidFile(h, nodeProcess).alive() {
		return nil
	}
	uid := l.uid(h)
	args := []string{filepath.Join(l.binDir(), "redoubt-node"),
		"--config", l.configFile(h), "--data-dir", l.DataDir(h), "--run-dir", l.HostRunDir(h), "--bin-dir", l.binDir(),
		"--control-user", strconv.Itoa(uid), "--keyd-user", strconv.Itoa(uid + 1), "--netd-user", strconv.Itoa(uid + 2), "--named-user", strconv.Itoa(uid + 3)}
	if l.CNI {
		args = append(args, "--cni")
	}
	if l.FIPS {
		args = append(args, "--fips")
	}
	if err := l.spawn(h, nodeProcess, args...); err != nil {
		return err
	}
	return await(ctx, bootWait, h.Name+" does not answer (see "+l.LogFile(h, nodeProcess)+")", func(ctx context.Context) error {
		if !l.pidFile(h, nodeProcess).alive() {
			return &finalError{fmt.Errorf("redoubt-node ended: %s", l.lastWords(h))}
		}
		_, err := l.phase(ctx, h)
		if refused := new(apiclient.RefusedConfigError); errors.As(err, &refused) {
			return &finalError{err}
		}
		return err
	})
}

func (l *Lab) startContainerd(ctx context.Context, h Host) error {
	bin, err := exec.LookPath("containerd")
	if err != nil {
		return err
	}
	if err := l.spawn(h, containerdProcess, bin, "--config", filepath.Join(l.hostDir(h), "containerd.toml")); err != nil {
		return err
	}
	return await(ctx, bootWait, "containerd of "+h.Name, func(ctx context.Context) error {
		if !l.pidFile(h, containerdProcess).alive() {
			return fmt.Errorf("it ended: see %s", l.LogFile(h, containerdProcess))
		}
		return l.inside(h, func() error {
			// The dial must happen on this very thread.
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Connect(fd, &unix.SockaddrUnix{Name: "/run/containerd/containerd.sock"})
		})
	})
}

// lastWords is the last line of what h's redoubt-node wrote.
func (l *Lab) lastWords(h Host) string {
	f, err := os.Open(l.LogFile(h, nodeProcess))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	end := make([]byte, min(fi.Size(), maxLastWords))
	if _, err := f.ReadAt(end, fi.Size()-int64(len(end))); err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(end)), "\n")
	return lines[len(lines)-1]
}

// phase asks h's node for its state.
func (l *Lab) phase(ctx context.Context, h Host) (*controlpb.LocalStatusResponse, error) {
	c, err := apiclient.Dial(ctx, l.APISocket(h))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
	return st, apiclient.Err(err)
}

// Start turns a host on again. A manager comes up locked; with unlock it is
// opened with the lab's operator key.
func (l *Lab) Start(ctx context.Context, h Host, unlock bool) (*controlpb.LocalStatusResponse, error) {
	if err := l.makeBridge(); err != nil {
		return nil, err
	}
	if err := l.boot(ctx, h); err != nil {
		return nil, err
	}
	// Starting is over when the node knows what it is.
	var st *controlpb.LocalStatusResponse
	err := await(ctx, bootWait, h.Name, func(ctx context.Context) (err error) {
		if st, err = l.phase(ctx, h); err == nil && (st.Phase == controlpb.NodePhase_NODE_PHASE_UNSPECIFIED || st.Phase == controlpb.NodePhase_NODE_PHASE_STARTING) {
			err = errors.New("still starting: " + st.Message)
		}
		return err
	})
	if err != nil || !unlock || st.Phase != controlpb.NodePhase_NODE_PHASE_LOCKED {
		return st, err
	}
	if err := l.Unlock(ctx, h); err != nil {
		return st, err
	}
	err = await(ctx, bootWait, h.Name, func(ctx context.Context) (err error) {
		if st, err = l.phase(ctx, h); err == nil && st.Phase != controlpb.NodePhase_NODE_PHASE_ACTIVE {
			err = errors.New("not active yet: " + st.Message)
		}
		return err
	})
	return st, err
}

// Unlock opens h with the lab's operator key.
func (l *Lab) Unlock(ctx context.Context, h Host) error {
	text, err := atomicfile.ReadBounded(l.KeyFile(), 1<<10)
	if err != nil {
		return err
	}
	defer clear(text)
	key, err := autolock.ParseOperatorKey(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	defer key.Wipe()
	k := apiclient.NewKeyd(filepath.Join(l.HostRunDir(h), apiclient.UnlockSocket))
	defer k.Close()
	ctx, cancel := context.WithTimeout(ctx, bootWait)
	defer cancel()
	err = k.Unlock(ctx, &key)
	if errors.Is(err, apiclient.ErrWrongKey) {
		// The lab sees a rotation's new key as little as anybody else does.
		return fmt.Errorf("%s holds a key that no longer opens %s: if `redoubt unlock-key rotate` was run, write the key it showed into that file", l.KeyFile(), h.Name)
	}
	return err
}

// Stop ends h's daemons in good order; containers and containerd stay.
func (l *Lab) Stop(h Host) error {
	return l.pidFile(h, nodeProcess).end(unix.SIGTERM, stopWait)
}

// Kill ends h's daemons as a crash would; containers and containerd stay. With
// containers it is the machine that loses its power: nothing of it is left
// but its disk.
func (l *Lab) Kill(ctx context.Context, h Host, containers bool) error {
	if containers {
		return l.powerOff(ctx, h)
	}
	fd, pid, err := l.pidFile(h, nodeProcess).open()
	if err != nil {
		return err
	}
	if fd < 0 {
		return fmt.Errorf("%s is not running: start it with `redoubt lab start %[1]s`", h.Name)
	}
	defer unix.Close(fd)
	children, err := descendants(pid)
	if err != nil {
		return err
	}
	defer closeAll(children)
	for _, p := range append([]int{fd}, children...) {
		if err := signalFD(p, unix.SIGKILL); err != nil {
			return err
		}
	}
	for _, p := range append([]int{fd}, children...) {
		if !waitGone(p, stopWait) {
			return fmt.Errorf("a daemon of %s does not end", h.Name)
		}
	}
	return nil
}

// powerOff ends every process of h and drops all that a machine loses with its
// power: namespaces, /run, cgroups.
func (l *Lab) powerOff(ctx context.Context, h Host) error {
	if err := l.killAll(ctx, h); err != nil {
		return err
	}
	// The outer end of the pair lives as long as the namespace, which may take
	// the kernel a moment: it is removed by name, so that a start can reuse it.
	err := errors.Join(l.removeNamespaces(h), l.removeLink(l.veth(h)))
	err = errors.Join(err, await(ctx, downWait, "cgroups of "+h.Name, func(context.Context) error { return removeCgroups(l.CgroupOf(h)) }))
	if err != nil {
		return err
	}
	if err := removeTree(l.HostRunDir(h)); err != nil {
		return err
	}
	return l.writeHost(h)
}

// killAll kills every process in h's cgroup or namespaces until none is left.
// Each is opened before it is looked at, so that only a process of the host is
// ever signalled.
func (l *Lab) killAll(ctx context.Context, h Host) error {
	return await(ctx, downWait, "processes of "+h.Name, func(context.Context) error {
		fds, err := l.processes(h)
		if err != nil {
			return err
		}
		defer closeAll(fds)
		for _, fd := range fds {
			if err := signalFD(fd, unix.SIGKILL); err != nil {
				return err
			}
		}
		for _, fd := range fds {
			waitGone(fd, time.Second)
		}
		if len(fds) > 0 {
			return fmt.Errorf("%d processes are left", len(fds))
		}
		return nil
	})
}
