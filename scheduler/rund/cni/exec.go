package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// runner executes plugins for libcni. Each is the leader of a process group of
// its own; whatever it started ends with it.
type runner struct {
	version.PluginDecoder
	bin       string // holds the plugins that may run, and nothing else
	installed map[string]bool
	refused   map[string]error
	strays    *strays // nil: this process is not the parent of orphans
	// lock is held open by every plugin, so that nobody else works on the same
	// records before the last one has ended.
	lock *os.File
}

// FindInPath takes the place of a search: there is one directory.
func (r *runner) FindInPath(plugin string, _ []string) (string, error) {
	if r.installed[plugin] && validName(plugin) {
		return filepath.Join(r.bin, plugin), nil
	}
	if err := r.refused[plugin]; err != nil {
		return "", refuse("plugin %s: %w", plugin, err)
	}
	return "", refuse("plugin %.80q is not pinned: add its SHA-256 to rund.cni.plugins of this node's configuration", plugin)
}

// ExecPlugin runs one call.
func (r *runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	name := filepath.Base(path)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, errs := &bounded{over: cancel}, &bounded{over: cancel}
	cmd := exec.Command(path)
	cmd.Env = r.environ(environ)
	cmd.Dir = r.bin // read-only: a relative path leads nowhere
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), out, errs
	if r.lock != nil {
		cmd.ExtraFiles = []*os.File{r.lock}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = endTime // its children may hold its output

	// The signal comes when the thread ends that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := r.strays.start(cmd); err != nil {
		return nil, fmt.Errorf("plugin %s does not start: %w", name, err)
	}
	group := -cmd.Process.Pid
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(group, unix.SIGKILL) })
	err := cmd.Wait()
	stop()
	r.strays.ended(cmd)
	switch {
	case out.exceeded() || errs.exceeded():
		return nil, fmt.Errorf("plugin %s wrote more than %d bytes and was ended", name, maxOutput)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("plugin %s did not end in time and was killed: %w", name, context.Cause(ctx))
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, fmt.Errorf("plugin %s: %w", name, said(err, out.bytes(), errs.bytes()))
	}
	return out.bytes(), nil
}

// environ is CNI's own, and a PATH that leads only to plugins.
func (r *runner) environ(from []string) []string {
	env := []string{"PATH=" + r.bin}
	for _, e := range from {
		name, _, _ := strings.Cut(e, "=")
		switch name {
		case "CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS":
			env = append(env, e)
		}
	}
	return append(env, "CNI_PATH="+r.bin)
}

// said is what a plugin that failed wanted to say, as one line.
func said(err error, out, errs []byte) error {
	var e types.Error
	text := ""
	if json.Unmarshal(out, &e) == nil && e.Msg != "" {
		text = e.Msg
		if e.Details != "" {
			text += "; " + e.Details
		}
	}
	for _, b := range [][]byte{errs, out} {
		if text == "" {
			text = string(b)
		}
	}
	text = oneline.Text(text, maxMessage)
	if text == "" {
		return err
	}
	return errors.New(text)
}

// bounded keeps what a plugin writes, up to a limit at which it is over.
type bounded struct {
	over func()

	mu   sync.Mutex
	buf  bytes.Buffer
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len()+len(p) > maxOutput {
		b.full = true
		b.over()
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}

func (b *bounded) exceeded() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.full }
func (b *bounded) bytes() []byte  { b.mu.Lock(); defer b.mu.Unlock(); return bytes.Clone(b.buf.Bytes()) }

// callContext bounds a call of a whole conflist.
func (e *Engine) callContext(ctx context.Context) (context.Context, context.CancelFunc) {
	d := e.o.CallTime
	if d == 0 {
		d = callTime
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("it had %s", d.Round(time.Millisecond)))
}
