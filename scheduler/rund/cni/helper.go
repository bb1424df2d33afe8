package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni/cnipb"
)

// Command is the argument that makes redoubt-rund the helper.
const Command = "cni"

// socketFD is where the helper finds its end of the pair.
const socketFD = 3

// profile is what the helper and every plugin may do: links, addresses and rules
// in any network namespace, and starting programs. It mounts nothing any more.
func profile() sandbox.Profile {
	return sandbox.Profile{
		Syscalls: sandbox.Plugins,
		Capabilities: []sandbox.Capability{
			unix.CAP_NET_ADMIN, // links, addresses, routes
			unix.CAP_NET_RAW,   // to tell neighbours of an address
			unix.CAP_SYS_ADMIN, // to enter a network namespace
		},
	}
}

// Helper is the main function of the process that Launch starts. It returns when
// the other end is gone; with the process, all plugins end.
func Helper(o Options) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("redoubt-rund %s is not for people to start: redoubt-rund does", Command)
	}
	p := profile()
	if err := sandbox.KeepByExec(p.Capabilities...); err != nil {
		return err
	}
	conn, err := socket()
	if err != nil {
		return err
	}
	defer conn.Close()
	// What is mounted from now on nobody else sees; sandboxes that rund pins come
	// in. /proc is that of this process namespace.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("own mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := mountBin(o.Bin); err != nil {
		return err
	}
	installed, refused := o.Config.install(o.Bin)
	if err := sealBin(o.Bin); err != nil {
		return err
	}
	for name, err := range refused {
		o.Log.Error("a CNI plugin cannot be used", "plugin", name, "err", err)
	}
	e, err := newEngine(o, installed, refused, &strays{ours: map[int]bool{}})
	if err != nil {
		return err
	}
	if e.run.lock, err = lockState(o.State); err != nil {
		return err
	}
	inForce, err := sandbox.Apply(p)
	if err != nil {
		return err
	}
	o.Log.Info("CNI plugins may run", "plugins", len(installed), "protections", inForce)
	return e.serve(conn)
}

func socket() (*net.UnixConn, error) {
	f := os.NewFile(socketFD, "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("redoubt-rund %s is not for people to start: %w", Command, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("what was passed is no unix socket")
	}
	return u, nil
}

// lockState waits until no plugin of an earlier helper runs.
func lockState(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(2 * endTime); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			f.Close()
			return nil, fmt.Errorf("%s: %w: another redoubt-rund works on it, or a plugin that it started does not end", f.Name(), err)
		}
		_, _ = unix.Poll(nil, 20)
	}
}

// serve answers requests, each in a goroutine of its own, until conn ends.
func (e *Engine) serve(conn *net.UnixConn) error {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel() // first, so that plugins are killed
	running.Go(func() { e.Run(ctx) })
	var write sync.Mutex
	for {
		req := &cnipb.Request{}
		if err := wire.ReadUpTo(conn, req, maxFrame); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		running.Go(func() {
			resp := e.answer(ctx, req)
			write.Lock()
			defer write.Unlock()
			_ = wire.Write(conn, resp) // a broken one ends the loop above
		})
	}
}

func (e *Engine) answer(ctx context.Context, req *cnipb.Request) *cnipb.Response {
	resp := &cnipb.Response{Id: req.GetId()}
	var err error
	switch {
	case req.Attach != nil:
		resp.Attachments, err = e.Attach(ctx, req.Attach.GetTaskId(), req.Attach.GetNetworks())
	case req.Detach != nil:
		err = e.Detach(ctx, req.Detach.GetTaskId())
	case req.Keep != nil:
		resp.Attachments = e.Keep(req.Keep.GetTaskIds())
	case req.List != nil:
		resp.Conflists, err = e.List()
	default:
		err = errors.New("an empty request")
	}
	if err != nil {
		resp.Error, resp.Refused = oneline.Text(err.Error(), maxSaid), Refused(err)
	}
	return resp
}
