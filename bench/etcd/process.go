package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// This file is the same in the runners of peers; see load.go.

// process is a member: this program again, in a process of its own, which ends
// with the one that started it.
type process struct {
	cmd *exec.Cmd
	log string
}

func spawn(dir, name string, args ...string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(exe, args...), log: filepath.Join(dir, name+".log")}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p, p.cmd.Start()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends it as a crash would, and waits for the end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// freePorts finds n ports on loopback that nobody listens on now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // only when all are chosen
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// await asks until ok says nil, for a minute.
func await(ctx context.Context, what string, ok func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		tctx, stop := context.WithTimeout(ctx, 2*time.Second)
		err := ok(tctx)
		stop()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(err, ctx.Err()))
		}
	}
}

// workDir makes a directory on the disk that labs use, too.
func workDir(name string) (string, error) {
	return os.MkdirTemp("/var/lib", "redoubt-bench-"+name+"-")
}
