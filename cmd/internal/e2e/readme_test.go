package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestReadmeTour types the README's tour, line by line, with the built
// binaries on the PATH. A line ends with exit code 0 unless it says otherwise
// in a comment ("# exits 4"), and then with that.
func TestReadmeTour(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	lines := tour(string(text))
	if len(lines) < 10 {
		t.Fatalf("the tour has %d lines: %q", len(lines), lines)
	}
	// The tour uses the default name: a lab that somebody is using stays.
	if _, err := os.Lstat("/var/lib/redoubt-lab/lab"); err == nil {
		t.Fatal("there is a lab called \"lab\": remove it with `redoubt lab down`, then run this test again")
	}
	t.Cleanup(func() {
		if t.Failed() {
			(&cluster{t, "lab"}).dump()
		}
		if r := run(t, nil, "lab", "down"); r.code != 0 {
			t.Errorf("lab down: %v", r)
		}
	})
	dir := t.TempDir()
	want := regexp.MustCompile(`# exits (\d+)$`)
	for _, line := range lines {
		code := 0
		if m := want.FindStringSubmatch(line); m != nil {
			code, _ = strconv.Atoi(m[1])
		}
		out, got := shell(t, dir, line)
		t.Logf("$ %s\n%s", line, out)
		if got != code {
			t.Fatalf("%q ended with exit code %d, want %d", line, got, code)
		}
	}
}

// tour gives the lines of the fenced blocks that follow the marker.
func tour(text string) (lines []string) {
	block := regexp.MustCompile("(?m)^<!-- tour -->\n```\n((?s:.*?))^```$")
	for _, m := range block.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(m[1]) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// shell runs one line as a user would, in dir.
func shell(t *testing.T, dir, line string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+binDir+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", line, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
