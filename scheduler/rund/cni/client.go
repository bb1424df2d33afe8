package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni/cnipb"
)

// Client is rund's end: the helper, and what it was asked.
type Client struct {
	conn  *net.UnixConn
	cmd   *exec.Cmd
	write sync.Mutex // held while a frame is written
	done  chan struct{}
	ended error // why there is no helper; set before done is closed

	mu      sync.Mutex
	last    uint64                          // guarded by mu
	waiting map[uint64]chan *cnipb.Response // buffered 1 each; guarded by mu
}

// Launch starts this program once more as the helper, in mount and process
// namespaces of its own. It must be called before the caller gives up the right
// to start programs. args are those of the helper beside Command.
func Launch(args ...string) (*Client, error) {
	if err := mayRun(); err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(fds[1]), "helper")
	defer theirs.Close()
	ours := os.NewFile(uintptr(fds[0]), "rund")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", append([]string{Command}, args...)...)
	cmd.Env = []string{"GOTRACEBACK=single"}
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the process that runs CNI plugins: %w", err)
	}
	c := &Client{conn: conn.(*net.UnixConn), cmd: cmd, done: make(chan struct{}), waiting: map[uint64]chan *cnipb.Response{}}
	go c.read()
	return c, nil
}

// mayRun refuses a start that would only fail at the first plugin.
func mayRun() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for _, c := range profile().Capabilities {
		if data[0].Permitted&(1<<uint(c)) == 0 {
			return fmt.Errorf("rund.cni.plugins pins plugins, but %s is missing to run them: start redoubt-node with --cni, or install the drop-in redoubt-rund-cni.conf", c)
		}
	}
	return nil
}

// Done is closed when the helper ended; Err says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the helper ended.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.ended
	default:
		return nil
	}
}

// Close ends the helper and with it plugins that run, and waits for that.
func (c *Client) Close() {
	c.conn.Close()
	<-c.done
}

// read hands answers to those who wait, until the helper is gone.
func (c *Client) read() {
	defer close(c.done)
	var err error
	for err == nil {
		resp := &cnipb.Response{}
		if err = wire.ReadUpTo(c.conn, resp, maxFrame); err != nil {
			break
		}
		c.mu.Lock()
		ch := c.waiting[resp.GetId()]
		delete(c.waiting, resp.GetId())
		c.mu.Unlock()
		if ch != nil {
			ch <- resp
		}
	}
	c.conn.Close()
	c.ended = fmt.Errorf("the process that runs CNI plugins ended: %w", err)
	if err := c.cmd.Wait(); err != nil {
		c.ended = fmt.Errorf("the process that runs CNI plugins ended: %w", err)
	}
}

// Attach puts a task's sandbox on networks, all or none.
func (c *Client) Attach(ctx context.Context, task string, networks []*cnipb.Network) ([]*cnipb.Attachment, error) {
	resp, err := c.call(ctx, &cnipb.Request{Attach: &cnipb.Attach{TaskId: task, Networks: networks}})
	return resp.GetAttachments(), err
}

// Detach takes a task's sandbox off all of them. After an error it is repeated
// until it succeeds, by this helper or the next one.
func (c *Client) Detach(ctx context.Context, task string) error {
	_, err := c.call(ctx, &cnipb.Request{Detach: &cnipb.Detach{TaskId: task}})
	return err
}

// Keep detaches all but those tasks, and returns where those are.
func (c *Client) Keep(ctx context.Context, tasks []string) ([]*cnipb.Attachment, error) {
	resp, err := c.call(ctx, &cnipb.Request{Keep: &cnipb.Keep{TaskIds: tasks}})
	return resp.GetAttachments(), err
}

// List returns the node's conflists as they are now, by name.
func (c *Client) List(ctx context.Context) ([]*cnipb.Conflist, error) {
	resp, err := c.call(ctx, &cnipb.Request{List: &cnipb.List{}})
	return resp.GetConflists(), err
}

// Release is Detach without waiting.
func (c *Client) Release(task string) {
	_ = c.send(&cnipb.Request{Detach: &cnipb.Detach{TaskId: task}}, nil) // without a helper, its next one's Keep does it
}

func (c *Client) send(req *cnipb.Request, answer chan *cnipb.Response) error {
	c.mu.Lock()
	c.last++
	req.Id = c.last
	if answer != nil {
		c.waiting[req.Id] = answer
	}
	c.mu.Unlock()
	c.write.Lock()
	defer c.write.Unlock()
	return wire.Write(c.conn, req)
}

func (c *Client) call(ctx context.Context, req *cnipb.Request) (*cnipb.Response, error) {
	answer := make(chan *cnipb.Response, 1)
	err := c.send(req, answer)
	defer func() {
		c.mu.Lock()
		delete(c.waiting, req.Id)
		c.mu.Unlock()
	}()
	if err != nil {
		return nil, fmt.Errorf("the process that runs CNI plugins cannot be asked: %w", err)
	}
	select {
	case resp := <-answer:
		switch {
		case resp.GetError() == "":
			return resp, nil
		case resp.GetRefused():
			return nil, refusal{errors.New(resp.GetError())}
		}
		return nil, errors.New(resp.GetError())
	case <-c.done:
		return nil, c.ended
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
