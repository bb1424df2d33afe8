package rund

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/ocispec"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// relayProgram is the file of redoubt-proxy on the host, beside rund's own.
func relayProgram() (string, error) {
	self, err := executable()
	return filepath.Join(filepath.Dir(self), "redoubt-proxy"), err
}

// relaySource pins the program for a container in which it may be started. A node
// without it says so when it is to be: nobody else needs it.
func (s *Server) relaySource(id string) (string, error) {
	f, err := os.Open(s.proxy)
	if errors.Is(err, os.ErrNotExist) {
		s.log.Error("there is no redoubt-proxy: published ports have no PROXY protocol here", "path", s.proxy)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	return s.netns.PinSource(id, maxMounts, f)
}

// relayProcess is what is started: as a user of the container's range that no image
// has, without a capability, and with the filters that the container has.
func (s *Server) relayProcess(r *rundpb.Relay, most int) *specs.Process {
	user := s.config.UserNS.Size - relayUser
	args := []string{ocispec.RelayProgram, "-at", strings.Join(r.GetAddresses(), ","), "-listen", strconv.Itoa(int(r.GetListen())),
		"-published", strconv.Itoa(int(r.GetPublished())), "-target", strconv.Itoa(int(r.GetTarget())),
		"-most", strconv.Itoa(most)}
	if r.GetHost() != "" {
		args = append(args, "-host", r.GetHost())
	}
	return &specs.Process{User: specs.User{UID: user, GID: user}, Args: args, Env: []string{"GOTRACEBACK=none"}, Cwd: filepath.Dir(ocispec.RelayProgram),
		NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}}
}

// relayPlaces is how many connections each of so many relays may hold: who asks must
// not be able to have the kernel end the program for what the relay remembers of him.
func relayPlaces(limit int64, relays int) int {
	if limit <= 0 {
		return relayMost
	}
	most := limit / relayShare / int64(max(relays, 1)) / relayMemory
	return int(min(max(most, relayLeast), relayMost))
}

// startRelay returns when it listens.
func (w *worker) startRelay(ctx context.Context, name string, l *relay) error {
	leave, err := w.s.place(ctx)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	word, err := newRelayWord(filepath.Join(string(w.s.taskDir(w.id)), "relay"))
	if err != nil {
		return err
	}
	defer word.close()
	p, err := execAnew(ctx, w.task, name, w.s.relayProcess(l.want, relayPlaces(w.made.GetSpec().GetLimits().GetMemoryBytes(), len(w.relays.wanted.GetRelays()))), word.creator)
	if err != nil {
		return relayError(err)
	}
	if err = w.followRelay(l, p); err == nil {
		err = p.Start(ctx)
	}
	if err == nil {
		err = w.s.bound(w.id, int(p.Pid()), nil)
		if errors.Is(err, unix.ESRCH) {
			err = nil
		}
	}
	if err == nil {
		err = word.wait(ctx, l.ended)
	}
	if err != nil {
		if derr := w.endRelay(context.WithoutCancel(ctx), p); derr != nil {
			w.log.Warn("cannot end a relay", "err", derr)
		}
		return relayError(err)
	}
	l.process, l.since, l.failed = p, time.Now(), ""
	return nil
}

// relayError says what to do of a container that has not the program.
func relayError(err error) error {
	if s := err.Error(); strings.Contains(s, ocispec.RelayProgram) && strings.Contains(s, "no such file") {
		return errors.New("the container was made without redoubt-proxy: put that beside redoubt-rund, and replace the task with service update --force")
	}
	return err
}

// execAnew starts a process under a name; one that an earlier rund left under it
// is ended.
func execAnew(ctx context.Context, task containerd.Task, name string, process *specs.Process, creator cio.Creator) (containerd.Process, error) {
	p, err := task.Exec(ctx, name, process, creator)
	if !errdefs.IsAlreadyExists(err) {
		return p, err
	}
	left, err := task.LoadProcess(ctx, name, nil)
	if err == nil {
		err = endProcess(ctx, left)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("end an earlier process: %w", err)
	}
	return task.Exec(ctx, name, process, creator)
}

// endProcess kills a process and removes what is left of it in containerd.
// WithProcessKill would not do: it does not kill one that an earlier rund started,
// whose pid the client does not know.
func endProcess(ctx context.Context, p containerd.Process) error {
	exit, err := p.Wait(ctx)
	if err == nil {
		err = p.Kill(ctx, unix.SIGKILL)
	}
	if err == nil {
		select {
		case <-exit:
		case <-ctx.Done():
			return ctx.Err()
		}
	} else if transient(err) {
		return err
	}
	// It may have ended before, or never begun.
	if _, err := p.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// relayWord is a named pipe for the one line that a relay says.
type relayWord struct {
	path string
	pipe *os.File
}

func newRelayWord(path string) (*relayWord, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("output of a relay: %w", err)
	}
	// Both ways, so that it has no end while nobody writes.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &relayWord{path, f}, nil
}

func (o *relayWord) creator(string) (cio.IO, error) {
	return &checkIO{cio.Config{Stdout: o.path, Stderr: o.path}}, nil
}

// relayListens is what a relay says once it takes connections (mesh/proxy, which
// rund does not import).
const relayListens = "listening\n"

// wait returns nil once the relay says that it listens.
func (o *relayWord) wait(ctx context.Context, ended <-chan struct{}) error {
	read := make(chan struct{})
	defer func() { <-read }()
	done := make(chan struct{})
	defer close(done)
	go func() {
		defer close(read)
		select {
		case <-ended: // its last word may be on its way
			_ = o.pipe.SetReadDeadline(time.Now().Add(checkOutputWait))
		case <-ctx.Done():
			_ = o.pipe.SetReadDeadline(time.Now())
		case <-done:
		}
	}()
	line, err := bufio.NewReader(io.LimitReader(o.pipe, maxRelayWord)).ReadString('\n')
	switch {
	case line == relayListens:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case strings.TrimSpace(line) != "":
		return errors.New(oneline.Text(line, maxRelayWord))
	}
	return fmt.Errorf("it ended without a word: %w", err)
}

func (o *relayWord) close() {
	_ = o.pipe.Close()
	_ = os.Remove(o.path)
}
