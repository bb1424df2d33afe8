package keyd

import (
	"bytes"
	"context"
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

	"github.com/awnumar/memguard"
	"google.golang.org/protobuf/proto"

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

const strangerEnv = "KEYD_TEST_STRANGER"

// A process of another uid gets no answer, though it can connect.
func TestStrangersGetNoAnswer(t *testing.T) {
	k := start(t, t.TempDir())
	dir := filepath.Dir(k.socket)
	for path, mode := range map[string]os.FileMode{dir: 0o755, k.socket: 0o777, filepath.Join(dir, "unlock"): 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "stranger") // where another uid may read it
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{"keyd", "unlock"} {
		cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestStranger$", "-test.v")
		cmd.Dir = dir
		cmd.Env = []string{strangerEnv + "=" + filepath.Join(dir, socket)}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("turned away")) {
			t.Errorf("%s: %v\n%s", socket, err, out)
		}
	}
}

// TestStranger is the other process of TestStrangersGetNoAnswer.
func TestStranger(t *testing.T) {
	socket := os.Getenv(strangerEnv)
	if socket == "" {
		return // it is not that process
	}
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
	t.Log("turned away")
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"no directory": func(c *Config) { c.Dir = "" },
		"no section":   func(c *Config) { c.Section = Section{} },
		"state is a directory": func(c *Config) {
			if err := os.Mkdir(filepath.Join(c.Dir, stateName), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"huge state": func(c *Config) {
			if err := os.WriteFile(filepath.Join(c.Dir, stateName), make([]byte, maxState+1), 0o600); err != nil {
				t.Fatal(err)
			}
		},
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

// FuzzRequest throws requests at an unlocked, an empty and a locked keyd. No
// answer may be a certificate, a keyset, or an internal error.
func FuzzRequest(f *testing.F) {
	add := func(req *keydpb.Request) {
		b, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(&keydpb.Request{})
	add(&keydpb.Request{Verb: &keydpb.Request_Init{Init: &keydpb.InitRequest{Slots: []*keydpb.Slot{nil, {}}}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SignJoin{SignJoin: &keydpb.SignJoinRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SignRenew{SignRenew: &keydpb.SignRenewRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SignOwn{SignOwn: &keydpb.SignOwnRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SealKeyset{}})
	add(&keydpb.Request{Verb: &keydpb.Request_ImportKeyset{ImportKeyset: &keydpb.ImportKeysetRequest{SealedKeyset: []byte("x")}}})
	add(&keydpb.Request{Verb: &keydpb.Request_Reseal{Reseal: &keydpb.ResealRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_OpenStore{OpenStore: &keydpb.OpenStoreRequest{SealedLeaf: []byte("RDTS")}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SealLeaf{SealLeaf: &keydpb.SealLeafRequest{LeafKey: []byte{0x30, 0}}}})
	add(&keydpb.Request{Verb: &keydpb.Request_MintToken{MintToken: &keydpb.MintTokenRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_Unlock{Unlock: &keydpb.UnlockRequest{Seed: make([]byte, 32)}}})

	now := time.Now()
	keys, err := newKeyset(now)
	if err != nil {
		f.Fatal(err)
	}
	p, err := newPrepared()
	if err != nil {
		f.Fatal(err)
	}
	own, err := newLocal(p)
	if err != nil {
		f.Fatal(err)
	}
	opened := &secrets{keys, own}
	f.Cleanup(func() { opened.destroy(); p.destroy() })
	server := func(t *testing.T, file *stateFile, s *secrets) *Server {
		k, err := New(Config{Dir: t.TempDir(), Section: DefaultSection()})
		if err != nil {
			t.Fatal(err)
		}
		k.file, k.secrets = file, s
		t.Cleanup(func() { k.prepared.destroy(); k.journal.close() })
		return k
	}
	set := &keydpb.SlotSet{Epoch: 1, Slots: []*keydpb.Slot{newSlot()}}
	_, raw, err := opened.sealState(newID(), set)
	if err != nil {
		f.Fatal(err)
	}
	file, err := decodeState(raw)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(keydpb.Request)
		framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		if wire.Read(bytes.NewReader(framed), req) != nil || req.GetForget() != nil {
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so that nothing waits
		for _, k := range []*Server{server(t, nil, nil), server(t, file, nil), server(t, file, opened)} {
			for _, verb := range []func(context.Context, *keydpb.Request) (*keydpb.Response, error){k.controlVerb, k.unlockVerb} {
				resp, err := verb(ctx, req)
				if err == nil && (resp.GetSignJoin() != nil || resp.GetSignRenew() != nil || resp.GetSealKeyset() != nil ||
					resp.GetInit() != nil || resp.GetImportKeyset() != nil || resp.GetUnlock() != nil) {
					t.Fatalf("%v was granted", req)
				}
				if err != nil && codeOf(err) == keydpb.Code_CODE_INTERNAL && !errors.Is(err, context.Canceled) {
					t.Fatalf("%v: %v", req, err)
				}
			}
		}
	})
}

// FuzzKeyset reads keysets as another manager may send them.
func FuzzKeyset(f *testing.F) {
	k, err := newKeyset(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	honest := bytes.Clone(k.buf.Bytes())
	k.destroy()
	f.Add(honest)
	f.Add(honest[:len(honest)-1])
	f.Add(append(bytes.Clone(honest), 0))
	f.Add([]byte(keysetMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		k, err := openKeyset(memguard.NewBufferFromBytes(bytes.Clone(b)))
		if err != nil {
			return
		}
		defer k.destroy()
		if err := k.issuing.CheckSignatureFrom(k.root); err != nil {
			t.Fatal("a keyset whose certificates do not belong together was accepted")
		}
	})
}

// FuzzState looks for panics and for states that are read as something that was
// not written.
func FuzzState(f *testing.F) {
	f.Add([]byte(stateMagic))
	f.Add(append([]byte(stateMagic), make([]byte, 80)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if file, err := decodeState(b); err == nil && (file.state == nil || len(file.state.GetSlots().GetSlots()) == 0) {
			t.Fatal("a state without slots was accepted")
		}
		if sum := sha(b); len(b) > len(stateMagic) { // past the digest, into the parser
			decodeState(append(bytes.Clone(b), sum[:]...))
		}
		new(journal).read(b, nil)
	})
}
