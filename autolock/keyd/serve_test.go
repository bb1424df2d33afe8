package keyd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/wire"
)

// dial opens a raw connection, to say what no client of ours would.
func (k *instance) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", k.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

func TestMalformedRequestsEndTheConnection(t *testing.T) {
	k := start(t, t.TempDir())
	frame := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	for name, raw := range map[string][]byte{
		"garbage":            frame([]byte("garbage")),
		"unknown field":      frame([]byte{0xf8, 0x07, 1}),
		"too large":          binary.BigEndian.AppendUint32(nil, wire.MaxFrame+1),
		"over our own limit": frame(make([]byte, maxRequest)),
	} {
		conn := k.dial(t)
		conn.Write(raw) // keyd may close before all is written
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
	}
	resp := new(keydpb.Response)
	conn := k.dial(t)
	if err := errors.Join(wire.Write(conn, &keydpb.Request{}), wire.Read(conn, resp)); err != nil || resp.GetError().GetCode() != keydpb.Code_CODE_INVALID {
		t.Errorf("no verb: %v, %v", resp, err)
	}
	if _, err := k.Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Speaking while an answer is awaited is a breach of the protocol.
func TestSpeakingOutOfTurnEndsTheConnection(t *testing.T) {
	c := newCluster(t)
	c.restart(t)
	conn := c.dial(t)
	for range 2 {
		if err := wire.Write(conn, &keydpb.Request{Verb: &keydpb.Request_WaitUnlocked{WaitUnlocked: &keydpb.WaitUnlockedRequest{}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

const otherEnv = "KEYD_TEST_OTHER"

// asOther runs TestOther, in a process of another uid, with the given words.
func asOther(t *testing.T, dir, words string) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "other.test") // where another uid may read it
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestOther$", "-test.v")
	cmd.Dir, cmd.Env = dir, []string{otherEnv + "=" + words}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("all as it should be")) {
		t.Errorf("%s: %v\n%s", words, err, out)
	}
}

// A process of another uid gets no answer, though it can connect.
func TestStrangersGetNoAnswer(t *testing.T) {
	k := start(t, t.TempDir())
	dir := filepath.Dir(k.socket)
	for _, socket := range []string{k.socket, filepath.Join(dir, "unlock")} {
		if err := os.Chmod(socket, 0o777); err != nil {
			t.Fatal(err)
		}
		asOther(t, dir, "connect "+socket)
	}
}

// Where memory can not be locked, keyd says so and does not start.
func TestMemoryLockIsChecked(t *testing.T) {
	dir, err := os.MkdirTemp("", "keyd")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	asOther(t, dir, "lock memory")
}

// TestOther is the other process of the tests above.
func TestOther(t *testing.T) {
	words := os.Getenv(otherEnv)
	if words == "" {
		return // it is not that process
	}
	if socket, ok := strings.CutPrefix(words, "connect "); ok {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		wire.Write(conn, &keydpb.Request{Verb: &keydpb.Request_Status{Status: &keydpb.StatusRequest{}}})
		if err := wire.Read(conn, new(keydpb.Response)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Fatalf("got %v", err)
		}
	} else {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 16 << 10, Max: 16 << 10}); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Dir: t.TempDir(), Section: DefaultSection()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		prepare := &keydpb.Request{Verb: &keydpb.Request_PrepareJoin{PrepareJoin: &keydpb.PrepareJoinRequest{}}}
		forget := &keydpb.Request{Verb: &keydpb.Request_Forget{Forget: &keydpb.ForgetRequest{}}}
		for range 2 { // forgetting gives no memory
			if _, err := s.controlVerb(t.Context(), prepare); err == nil || !strings.Contains(err.Error(), "raise LimitMEMLOCK") {
				t.Fatal(err)
			}
			if _, err := s.controlVerb(t.Context(), forget); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Log("all as it should be")
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"no directory": func(c *Config) { c.Dir = "" },
		"no section":   func(c *Config) { c.Section = Section{} },
	} {
		c := testConfig(t, t.TempDir())
		edit(&c)
		if _, err := New(c); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServeWipesWhenItEnds(t *testing.T) {
	c := newCluster(t)
	s := c.server.secrets
	c.stop()
	if s.keyset.buf.IsAlive() || s.local.buf.IsAlive() || c.server.secrets != nil {
		t.Error("keys are left in memory")
	}
	c2 := newCluster(t)
	if err := c2.Forget(t.Context()); err != nil || c2.server.secrets != nil {
		t.Error("keys are left in memory after Forget", err)
	}
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bucket
		r := rate{burst: 3, every: time.Second}
		use := func() (n int) {
			for b.take(r, time.Now()) {
				n++
			}
			return n
		}
		for i, step := range []struct {
			wait time.Duration
			want int
		}{{0, 3}, {time.Second, 1}, {500 * time.Millisecond, 0}, {500 * time.Millisecond, 1}, {time.Hour, 3}} {
			time.Sleep(step.wait) // of the bubble's clock
			if n := use(); n != step.want {
				t.Errorf("step %d: %d uses, want %d", i, n, step.want)
			}
		}
		var w backoff
		var waits []time.Duration
		for range freeTries + 7 {
			w.fail(time.Now())
			waits = append(waits, max(0, time.Until(w.until)))
		}
		if waits[freeTries-2] != 0 || waits[freeTries-1] != firstBackoff || waits[len(waits)-1] != maxBackoff {
			t.Errorf("waits %v", waits)
		}
		if w.check(time.Now()) == nil {
			t.Error("no wait after many wrong keys")
		}
		time.Sleep(maxBackoff)
		if err := w.check(time.Now()); err != nil {
			t.Error(err)
		}
	})
}

func TestReplaysAreBounded(t *testing.T) {
	var r replays
	key := func(i int) (h [32]byte) { binary.BigEndian.PutUint64(h[:], uint64(i)); return h }
	for i := range maxReplays + 10 {
		if !r.add(key(i)) || r.add(key(i)) {
			t.Fatalf("entry %d", i)
		}
	}
	if len(r.seen) != maxReplays || len(r.ring) != maxReplays {
		t.Errorf("%d are remembered", len(r.seen))
	}
	if r.add(key(maxReplays)) || !r.add(key(0)) {
		t.Error("the oldest must be forgotten, and only the oldest")
	}
}
