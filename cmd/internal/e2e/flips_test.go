package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// refusing is how a daemon speaks of a file that it does not take.
var refusing = regexp.MustCompile(`raftstore: |damaged|does not open|cannot be (opened|read|completed)|newer version|was lost|under another name|has no entry`)

// flippedFiles flips a byte of each file of a stopped manager and starts the
// manager with it, and so for a worker: what the file says is refused in words,
// or nothing was lost. REDOUBT_FLIPS is how many bytes of each file a long run
// takes, each at random. The manager holds the service web.
func flippedFiles(t *testing.T, c *cluster, manager host) {
	flips := 1
	if n, err := strconv.Atoi(os.Getenv("REDOUBT_FLIPS")); err == nil && n > 0 {
		flips = n
	}
	worker := c.host("worker-1")
	key := c.key()
	var refused, harmless atomic.Int64
	t.Run("flipped", func(t *testing.T) {
		for _, h := range []host{manager, worker} {
			for _, name := range filesOf(t, h) {
				t.Run(h.Name+" "+strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
					t.Parallel()
					th := steal(t, h)
					for range flips {
						if th.survives(name, h.Role == "manager", key) {
							harmless.Add(1)
						} else {
							refused.Add(1)
						}
						th.stop()
						th.restore()
					}
				})
			}
		}
	})
	t.Logf("flipped bytes: refused=%d harmless=%d swallowed=0", refused.Load(), harmless.Load())
	if refused.Load() == 0 {
		t.Error("no flip was refused")
	}
}

// filesOf are the files below a host's data directory.
func filesOf(t *testing.T, h host) (names []string) {
	t.Helper()
	err := filepath.WalkDir(h.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
			rel, _ := filepath.Rel(h.DataDir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("%s holds %v, %v", h.DataDir, names, err)
	}
	return names
}

// survives flips a byte, starts the node and reports whether it is what it was;
// otherwise it says what is wrong. Anything else fails the test.
func (th *thief) survives(name string, manager bool, key []byte) (whole bool) {
	t := th.t
	t.Helper()
	path := th.path("data", name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(b, "\x00"))
	at, x := rand.IntN(max(used, 1)), byte(1+rand.IntN(255))
	b[at] ^= x
	what := fmt.Sprintf("byte %d of %d of %s ^ %#x", at, used, name, x)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b[at:at+1], int64(at))
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	th.start()
	var opened result
	if manager {
		opened = th.redoubt(key, "unlock", "--timeout", "2s")
		if strings.Count(strings.TrimSpace(opened.stderr), "\n") > 0 || strings.Contains(opened.stderr, "the key does not open") {
			t.Errorf("%s: unlock: want one line, and never a wrong key: %v", what, opened)
		}
	}
	eventually(t, 40*time.Second, func() string {
		st := th.redoubt(nil, "status")
		said := opened.stderr + st.stdout + st.stderr + th.logs()
		if strings.Contains(said, "goroutine ") || strings.Contains(said, "panic: ") {
			t.Errorf("%s: a daemon crashed: %s", what, said)
			return ""
		}
		if manager {
			if r := th.redoubt(nil, "service", "ls"); r.code == 0 {
				if !strings.Contains(r.stdout, "web") {
					t.Errorf("%s: it was swallowed: %s", what, r)
				}
				whole = true
				return ""
			}
		} else if strings.Contains(st.stdout, th.h.Name) && strings.Contains(st.stdout, "no session with a manager") {
			whole = true // a worker that looks for its managers, which are not there
			return ""
		}
		if line := slices.IndexFunc(strings.Split(said, "\n"), refusing.MatchString); line >= 0 && opened.code != 4 {
			t.Logf("%s: %.200s", what, strings.Split(said, "\n")[line])
			return ""
		}
		return fmt.Sprintf("%s: neither refused nor whole: unlock %v, status %v\n%s", what, opened, st, th.logs())
	})
	return whole
}
