//go:build interop

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInteropWitness: a real litewitness, behind TLS, cosigns the audit log of a cluster
// as it grows; before it knows log and key it refuses, and `audit witness ls` says what
// it lacks.
func TestInteropWitness(t *testing.T) {
	t.Parallel()
	binary := os.Getenv("REDOUBT_WITNESS")
	if binary == "" {
		t.Fatal("REDOUBT_WITNESS names no litewitness: make test-interop builds one")
	}
	c := up(t, "litewitness", 1, 0)
	const m = "manager-1"
	origin, key := c.logKey(m)
	w := startLitewitness(t, binary)
	out := newOutsideServer(c)
	out.serve(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: w.addr}))
	c.ok(m, "audit", "witness", "set", out.url(), "--key", w.vkey, "--ca", out.ca)
	says := func(want string) {
		t.Helper()
		eventually(t, 2*time.Minute, func() string {
			if out := c.ok(m, "audit", "witness", "ls", "--no-trunc"); !strings.Contains(out, want) {
				return out
			}
			return ""
		})
	}
	says("does not know this log (404)")
	// What its own witnessctl does.
	w.run("sqlite3", w.db, fmt.Sprintf("INSERT INTO log VALUES ('%s', 0, '%s'); INSERT INTO key VALUES ('%s', '%s');", origin, emptyTree, origin, key))
	says(" cosigns ")
	kept := filepath.Join(t.TempDir(), "kept")
	c.write(kept, c.ok(m, "audit", "checkpoint", "--witness", witnessName))
	if r := c.on(m, "audit", "verify", "--checkpoint", kept, "--witness-key", w.vkey); r.code != 0 || !strings.Contains(r.stderr, "witness "+witnessName+" cosigned it on ") {
		t.Error(r)
	}
	// From where it is, with a proof.
	first := c.ok(m, "audit", "witness", "ls", "--format", "{{.Name}} {{.Records}}")
	c.ok(m, "node", "update", m, "--label-add", "more=1")
	eventually(t, 2*time.Minute, func() string {
		if out := c.ok(m, "audit", "witness", "ls", "--format", "{{.Name}} {{.Records}}"); out == first || c.witnessed(m) != "pass" {
			return out + c.ok(m, "audit", "witness", "ls")
		}
		return ""
	})
	says(" cosigns ")
}

// emptyTree is the root of a log without records.
const emptyTree = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

// litewitness is one that runs, with an ssh-agent that has its key.
type litewitness struct {
	t              *testing.T
	db, addr, vkey string
}

func startLitewitness(t *testing.T, binary string) *litewitness {
	t.Helper()
	dir := t.TempDir()
	w := &litewitness{t: t, db: filepath.Join(dir, "db")}
	sock, key := filepath.Join(dir, "agent"), filepath.Join(dir, "key")
	w.start(exec.Command("ssh-agent", "-D", "-a", sock), new(bytes.Buffer))
	eventually(t, 10*time.Second, func() string {
		if _, err := os.Stat(sock); err != nil {
			return err.Error()
		}
		return ""
	})
	w.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	add := exec.Command("ssh-add", "-q", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v: %s", err, out)
	}
	print := strings.Fields(w.run("ssh-keygen", "-l", "-f", key+".pub"))[1]
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	l.Close()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	w.start(exec.Command(binary, "-name", witnessName, "-db", w.db, "-ssh-agent", sock, "-key", print, "-listen", w.addr), log)
	eventually(t, 20*time.Second, func() string {
		b, _ := os.ReadFile(log.Name())
		found := regexp.MustCompile(`vkey="?(` + witnessName + `\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+)`).FindSubmatch(b)
		if found == nil {
			return "it did not say its key: " + string(b)
		}
		w.vkey = string(found[1])
		return ""
	})
	return w
}

// start runs a program until the end of the test.
func (w *litewitness) start(cmd *exec.Cmd, out interface{ Write([]byte) (int, error) }) {
	w.t.Helper()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
	})
}

func (w *litewitness) run(name string, args ...string) string {
	w.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}
