package main

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRefusedAtStart: whose configuration is refused by a daemon that nobody
// else would hear hears it from the supervisor, which ends; where redoubtd
// refuses it, or a daemon only crashes, the others go on.
func TestRefusedAtStart(t *testing.T) {
	for _, tc := range []struct{ refuses, says string }{
		{"redoubt-keyd", "redoubt-keyd"},
		{"redoubt-netd", "redoubt-netd"},
		{"redoubt-rund", "redoubt-rund"},
		{"redoubtd", ""},
		{"redoubt-netd crashes", ""},
	} {
		t.Run(tc.refuses, func(t *testing.T) {
			run, args := supervisor(t)
			if err := os.WriteFile(filepath.Join(filepath.Dir(run), "refuses"), []byte(tc.refuses), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe", args...)
			log, err := os.Create(filepath.Join(filepath.Dir(run), "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			cmd.Stderr = log
			logged := func() string {
				b, err := os.ReadFile(log.Name())
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			kill := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
			defer kill.Stop()
			if tc.says == "" {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for deadline := time.Now().Add(20 * time.Second); strings.Count(logged(), "ended (exit code 2)") < 2; <-tick.C { // it is tried again
					if time.Now().After(deadline) {
						t.Fatal(logged())
					}
				}
				field(t, ask(t, filepath.Join(run, "keyd.sock")), "Pid:")
				cmd.Process.Signal(syscall.SIGTERM)
			}
			err = cmd.Wait()
			lines := strings.Split(strings.TrimSpace(logged()), "\n")
			last := lines[len(lines)-1]
			if tc.says == "" {
				if err != nil {
					t.Errorf("%v: %s", err, logged())
				}
			} else if code := cmd.ProcessState.ExitCode(); code != refusedCode || !strings.HasPrefix(last, "redoubt-node: "+tc.says+": line 3: unknown [2J key (") {
				t.Errorf("exit %d (%v): %q", code, err, last)
			}
		})
	}
}

// TestRefusedLater: once any daemon was steady, a refusal is told to the log
// alone.
func TestRefusedLater(t *testing.T) {
	for _, tc := range []struct {
		script  string
		other   time.Duration // that another daemon has lived
		settled bool
		refused string
	}{
		{"echo why >&3; exit 2", 0, false, "d: why (all daemons are stopped; containers go on)"},
		{"echo why >&3; exit 2", steady, true, ""},
		{"echo why >&3; exit 1", 0, false, ""},
		{"exit 2", 0, false, ""},
	} {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGCHLD)
		words, theirs, err := newWords()
		if err != nil {
			t.Fatal(err)
		}
		p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", tc.script}, &os.ProcAttr{Files: []*os.File{nil, nil, nil, theirs}})
		if err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		now := time.Now()
		c := &child{daemon: &daemon{path: "/d"}, pid: p.Pid, started: now, words: words}
		children := []*child{c, {daemon: &daemon{path: "/other"}, pid: os.Getpid(), started: now.Add(-tc.other)}}
		settled := false
		var refused *refusedError
		for c.pid != 0 {
			<-signals
			if r := reap(children, &settled); r != nil {
				refused = r
			}
		}
		signal.Stop(signals)
		if settled != tc.settled {
			t.Errorf("%q after %v: settled %v", tc.script, tc.other, settled)
		}
		got := ""
		if refused != nil {
			got = refused.Error()
		}
		if got != tc.refused {
			t.Errorf("%q: %q, want %q", tc.script, got, tc.refused)
		}
	}
}
