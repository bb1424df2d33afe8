package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestExec: a command runs in the container of a task on another node, with its input,
// its output, its code and its terminal, and is over when whoever asked for it is gone.
// Who ran it is on record and the command is not; who may not is refused, who needs
// another's approval waits for it, and where the node says so nobody may.
func TestExec(t *testing.T) {
	t.Parallel()
	c := up(t, "exec", 1, 1)
	const m, image = "manager-1", "redoubt.test/probe:1"
	c.lab("load", checkedImage(t, image, "/probe"))
	c.ok(m, "service", "create", "--name", "web", "--no-healthcheck", image, "wait")

	if got := c.ok(m, "service", "exec", "web.1", "/probe", "echo", "one", "two"); !strings.Contains(got, "one") {
		t.Errorf("output %q", got)
	}
	if r := c.on(m, "service", "exec", "web", "/probe", "exit", "42"); r.code != 42 {
		t.Errorf("exit code %d, %s", r.code, r.stderr)
	}
	if r := c.on(m, "service", "exec", "web", "/probe-not"); r.code != 1 || !strings.Contains(r.stderr, "the image has no program /probe-not") {
		t.Errorf("no program: %d, %s", r.code, r.stderr)
	}
	if r := c.on(m, "service", "exec", "none", "/probe"); r.code != 1 || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("no service: %d, %s", r.code, r.stderr)
	}
	if r := c.onIn(m, []byte("by input\n"), "service", "exec", "-i", "web", "/probe", "mirror"); r.code != 0 || r.stdout != "by input\nend\n" {
		t.Errorf("input: %v", r)
	}
	c.atATerminal(m)
	c.isCutOff(m)
	c.asksForApproval(m)

	c.ok(m, "service", "exec", "web", "/probe", "echo", "hunter2-in-argv")
	got := c.ok(m, "audit", "ls")
	if !strings.Contains(got, "service.exec") || strings.Contains(got, "hunter2") {
		t.Errorf("the audit log:\n%s", got)
	}
	allow(c, "worker-1", "  exec: refused\n")
	eventually(t, time.Minute, func() string {
		r := c.on(m, "service", "exec", "web", "/probe", "echo", "one")
		if r.code != 1 || !strings.Contains(r.stderr, "rund.exec in its configuration says so") {
			return "where the node refuses: " + r.String()
		}
		return ""
	})
}

// atATerminal: its size gets there, and what is typed, with what ends a program.
func (c *cluster) atATerminal(m string) {
	c.t.Helper()
	x := c.atTerminal(m, 80, 24, "service", "exec", "-it", "web", "/probe", "window")
	x.shows("80x24\r\n")
	x.resize(132, 50)
	x.shows("132x50\r\n")
	x.types("\x03")
	if code := x.exits(); code != 130 {
		c.t.Errorf("interrupted at a terminal, it ends with %d", code)
	}
}

// isCutOff: a command ends with whoever asked for it, though it hears no signal.
func (c *cluster) isCutOff(m string) {
	c.t.Helper()
	const mark = "mark-of-who-left"
	cmd := exec.Command(filepath.Join(binDir, "redoubt"), "lab", "exec", "--name", c.name, m, "--", "redoubt", "service", "exec", "web", "/probe", "deaf", mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	buf := make([]byte, 16)
	if _, err := out.Read(buf); err != nil {
		c.t.Fatal(err)
	}
	task := c.serving("web")[0]
	runs := func() bool {
		for pid := range c.processes(c.host(task.Node), task.ID) {
			if b, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); strings.Contains(string(b), mark) {
				return true
			}
		}
		return false
	}
	if !runs() {
		c.t.Error("there is no process of the command")
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait() // it was killed
	eventually(c.t, 20*time.Second, func() string {
		if runs() {
			return "the command runs though nobody is there"
		}
		return ""
	})
}

// asksForApproval: local root is refused by a policy, and then waits for a person.
func (c *cluster) asksForApproval(m string) {
	c.t.Helper()
	command := []string{"service", "exec", "web", "/probe", "echo", "approved"}
	set := func(text string) {
		c.t.Helper()
		if r := c.onIn(m, []byte(text), "auth", "policy", "set", "shells", "-"); r.code != 0 {
			c.t.Fatal(r)
		}
	}
	set(`forbid (principal, action == Redoubt::Action::"service.exec", resource);`)
	c.refused(m, 5, "may not service.exec on service web", nil, command...)

	bob := c.desk("worker-1")
	if r := bob.run(c.ok(m, "person", "invite", "-q", "bob"), "context", "create", "prod", "--use"); r.code != 0 {
		c.t.Fatal(r)
	}
	c.ok(m, "auth", "bind", "operator", "person:bob")
	c.ok(m, "auth", "policy", "rm", "shells")
	if got := bob.ok(command...); !strings.Contains(got, "approved") {
		c.t.Errorf("to a person elsewhere it says %q", got)
	}
	set(`@parties("2") forbid (principal, action == Redoubt::Action::"service.exec", resource);`)
	on := func(args ...string) result { return c.on(m, args...) }
	a := asks(c.t, on, command...)
	bob.ok(grant(bob.ok, a)...)
	if got := c.ok(m, command...); !strings.Contains(got, "approved") {
		c.t.Errorf("what was approved says %q", got)
	}
	if asks(c.t, on, command...) == a {
		c.t.Error("an approval is good twice")
	}
	c.ok(m, "auth", "policy", "rm", "shells")
}
