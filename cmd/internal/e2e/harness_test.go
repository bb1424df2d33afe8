package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	binDir  string // of the binaries
	archive string // of the demo image
)

const image = "redoubt.lab/demo:1"

func TestMain(m *testing.M) {
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func setUp(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("stories need root")
	}
	tmp, err := os.MkdirTemp("", "redoubt-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	if binDir = os.Getenv("REDOUBT_BIN"); binDir == "" {
		binDir = filepath.Join(tmp, "bin")
		cmd := exec.Command("make", "build", "BIN="+binDir)
		cmd.Dir, cmd.Stderr = filepath.Join("..", "..", ".."), os.Stderr
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("build the binaries: %w", err)
		}
	}
	archive = filepath.Join(tmp, "demo.tar")
	if out, err := exec.Command(filepath.Join(binDir, "redoubt"), "lab", "image", archive).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("make the image: %w: %s", err, out)
	}
	return m.Run(), nil
}

// cluster is a running lab.
type cluster struct {
	t    *testing.T
	name string
}

type host struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Address string `json:"address"`
	DataDir string `json:"data_dir"`
	RunDir  string `json:"run_dir"`
	Running bool   `json:"running"`
}

// result is what a command did.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
}

// labName is a lab's name of this process alone, so that two runs on one machine
// leave each other's labs in peace.
func labName(base string) string { return fmt.Sprintf("%s-%d", base, os.Getpid()) }

// up makes a lab and takes it down at the end of the test.
func up(t *testing.T, base string, managers, workers int, more ...string) *cluster {
	t.Helper()
	name := labName(base)
	c := &cluster{t, name}
	t.Cleanup(func() {
		if t.Failed() {
			c.dump()
		}
		if r := run(t, nil, "lab", "down", "--name", name); r.code != 0 {
			t.Errorf("lab down: %v", r)
		}
	})
	start := time.Now()
	c.must(append([]string{"lab", "up", "--name", name, "--managers", strconv.Itoa(managers), "--workers", strconv.Itoa(workers)}, more...)...)
	t.Logf("lab of %d+%d ready after %v", managers, workers, time.Since(start).Round(100*time.Millisecond))
	return c
}

// run runs the CLI with input on stdin.
func run(t *testing.T, stdin []byte, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "redoubt"), args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("redoubt %v: %v", args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// must runs `redoubt args…` and fails the test where it fails.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	r := run(c.t, nil, args...)
	if r.code != 0 {
		c.t.Fatalf("redoubt %v: %v", args, r)
	}
	return r.stdout
}

// on runs `redoubt args…` on a host.
func (c *cluster) on(host string, args ...string) result {
	c.t.Helper()
	return c.onIn(host, nil, args...)
}

func (c *cluster) onIn(host string, stdin []byte, args ...string) result {
	c.t.Helper()
	return run(c.t, stdin, append([]string{"lab", "exec", "--name", c.name, host, "--", "redoubt"}, args...)...)
}

// ok is on for commands that must succeed.
func (c *cluster) ok(host string, args ...string) string {
	c.t.Helper()
	r := c.on(host, args...)
	if r.code != 0 {
		c.t.Fatalf("%s: redoubt %v: %v", host, args, r)
	}
	return r.stdout
}

// refused is on for commands that must fail with that code, on one line, saying
// want.
func (c *cluster) refused(host string, code int, want string, stdin []byte, args ...string) {
	c.t.Helper()
	r := c.onIn(host, stdin, args...)
	line := strings.TrimSpace(r.stderr)
	if r.code != code || !strings.Contains(strings.ToLower(line), strings.ToLower(want)) || strings.Count(line, "\n") > 0 {
		c.t.Errorf("%s: redoubt %v: want exit %d and one line with %q, got %v", host, args, code, want, r)
	}
}

func (c *cluster) lab(verb string, args ...string) string {
	c.t.Helper()
	return c.must(append([]string{"lab", verb, "--name", c.name}, args...)...)
}

func (c *cluster) load() { c.t.Helper(); c.lab("load", archive) }

func (c *cluster) hosts() (out []host) {
	c.t.Helper()
	c.decode(c.lab("ls", "--format", "json"), &out)
	return out
}

func (c *cluster) host(name string) host {
	c.t.Helper()
	all := c.hosts()
	i := slices.IndexFunc(all, func(h host) bool { return h.Name == name })
	if i < 0 {
		c.t.Fatalf("the lab has no host %s", name)
	}
	return all[i]
}

func (c *cluster) decode(text string, v any) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		c.t.Fatalf("not JSON: %v\n%s", err, text)
	}
}

// key is the lab's operator key.
func (c *cluster) key() []byte {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join("/var/lib/redoubt-lab", c.name, "operator.key"))
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// eventually polls f, which says what is still missing, until it says nothing.
func eventually(t *testing.T, within time.Duration, f func() string) {
	t.Helper()
	begun := time.Now()
	for {
		missing := f()
		if missing == "" {
			return
		}
		waited := time.Since(begun)
		if waited > within {
			t.Fatalf("after %v: %s", within, missing)
		}
		<-time.After(min(max(200*time.Millisecond, waited/8), time.Second)) // the other stories need the processors, too
	}
}
