package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// A daemon that lived this long starts again at once.
	steady = 30 * time.Second
	// Pause before a restart: doubles from the first to the second. The second
	// is short, as callers wait for the next start, if only to hear what a daemon
	// refuses, and as the pause is what a node lacks after a bad half minute.
	firstPause, longestPause = 100 * time.Millisecond, 2 * time.Second
	// How a daemon ends that refused its flags or configuration.
	refusedCode = 2
	// How long daemons may take to stop before they are killed.
	stopGrace = 20 * time.Second
)

// child is a daemon's running, or awaited, process.
type child struct {
	*daemon
	pid     int // 0 while it does not run
	started time.Time
	pause   time.Duration
	due     time.Time // when to start it, while pid is 0
	words   words     // where it says what it refuses
}

// supervise owns every child from here to the end: all of its state lives in
// this goroutine, which stays on the main thread. It returns after a SIGTERM,
// or a refusal of what this process was started with, when all children are gone.
func supervise(daemons []daemon, signals <-chan os.Signal) error {
	children := make([]*child, len(daemons))
	for i := range daemons {
		children[i] = &child{daemon: &daemons[i]}
	}
	// Once a daemon was steady, a configuration that is refused is one that
	// somebody has changed since: the node goes on as well as it can.
	settled := false
	timer := time.NewTimer(0)
	for {
		select {
		case <-timer.C:
		case s := <-signals:
			if s != syscall.SIGCHLD {
				return stop(children, signals)
			}
			if refused := reap(children, &settled); refused != nil {
				if err := stop(children, signals); err != nil {
					return err
				}
				return refused
			}
		}
		timer.Reset(startDue(children))
	}
}

// startDue starts what is due and returns how long nothing else will be.
func startDue(children []*child) time.Duration {
	wait := time.Hour
	now := time.Now()
	for _, c := range children {
		if c.pid != 0 {
			continue
		}
		if !c.due.After(now) {
			if err := c.start(); err != nil {
				logf("%s: cannot start: %v", c.name(), err)
				c.postpone(now)
			} else {
				continue
			}
		}
		wait = min(wait, c.due.Sub(now))
	}
	return wait
}

func (c *child) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var caps []string
	for _, n := range c.caps {
		caps = append(caps, strconv.Itoa(n))
	}
	args := []string{"redoubt-node", launchVerb, "--uid", strconv.Itoa(c.account.UID), "--gid", strconv.Itoa(c.account.GID),
		"--parent", strconv.Itoa(os.Getpid()), "--caps", strings.Join(caps, ","), "--sockets", c.socketNames(),
		"--refusals", strconv.Itoa(3 + len(c.files)), "--memlock", strconv.FormatUint(c.memlock, 10), "--nice", strconv.Itoa(c.nice), "--traceback", c.traceback}
	if c.ownMountsBut != "" {
		args = append(args, "--own-mounts-but", c.ownMountsBut)
	}
	args = append(append(args, "--", c.path), c.args...)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	words, theirs, err := newWords()
	if err != nil {
		return err
	}
	defer theirs.Close()
	files := append(append([]*os.File{null, os.Stderr, os.Stderr}, c.files...), theirs)
	p, err := os.StartProcess(self, args, &os.ProcAttr{Files: files, Env: []string{}, Dir: "/"})
	if err != nil {
		words.close()
		return err
	}
	c.pid, c.started, c.words = p.Pid, time.Now(), words
	return p.Release()
}

// reap collects every child that ended and plans its next start. It sets settled
// where a child has lived long enough, and until then returns the first refusal of
// one that has no callers of its own to tell (redoubtd has: they wait for it).
func reap(children []*child, settled *bool) (refused *refusedError) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return refused
		}
		now := time.Now()
		for _, c := range children {
			if c.pid != 0 && now.Sub(c.started) >= steady {
				*settled, c.pause = true, 0
			}
		}
		for _, c := range children {
			if c.pid != pid {
				continue
			}
			c.pid = 0
			said := c.words.read()
			c.words.close()
			c.postpone(now)
			if status.Exited() && status.ExitStatus() == refusedCode && said != "" && !c.tells && !*settled && refused == nil {
				refused = &refusedError{c.name(), said}
			}
			logf("%s: ended (%s)", c.name(), describe(status))
		}
	}
}

func (c *child) postpone(now time.Time) {
	c.pause = min(max(2*c.pause, firstPause), longestPause)
	c.due = now.Add(c.pause)
}

// stop ends the children in reverse order of start, all at once to be quick:
// redoubtd needs the helpers only to answer calls it no longer takes.
func stop(children []*child, signals <-chan os.Signal) error {
	deadline := time.NewTimer(stopGrace)
	defer deadline.Stop()
	for i := len(children) - 1; i >= 0; i-- {
		if children[i].pid != 0 {
			syscall.Kill(children[i].pid, syscall.SIGTERM)
		}
	}
	for running(children) {
		select {
		case s := <-signals:
			if s == syscall.SIGCHLD {
				_ = reap(children, new(bool)) // it is all over
			}
		case <-deadline.C:
			for _, c := range children {
				if c.pid != 0 {
					logf("%s: did not stop within %v, killed", c.name(), stopGrace)
					syscall.Kill(c.pid, syscall.SIGKILL)
				}
			}
		}
	}
	return nil
}

func running(children []*child) bool {
	for _, c := range children {
		if c.pid != 0 {
			return true
		}
	}
	return false
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + s.Signal().String()
	}
	return "exit code " + strconv.Itoa(s.ExitStatus())
}

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "{\"time\":%q,\"level\":\"INFO\",\"daemon\":\"redoubt-node\",\"msg\":%q}\n",
		time.Now().Format(time.RFC3339Nano), fmt.Sprintf(format, args...))
}
