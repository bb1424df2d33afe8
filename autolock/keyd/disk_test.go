package keyd

import (
	"bytes"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

var errCrash = errors.New("crash")

// crashes are the instants at which a write of the state file may end: before
// anything, with a temporary file left behind, and after the rename.
var crashes = map[string]func(path string, data []byte) error{
	"before the write": func(string, []byte) error { return errCrash },
	"half written": func(path string, data []byte) error {
		os.WriteFile(filepath.Join(filepath.Dir(path), ".state.tmp-123"), data[:len(data)/2], 0o600)
		return errCrash
	},
	"after the rename": func(path string, data []byte) error {
		return errors.Join(atomicfile.Write(path, data), errCrash)
	},
}

func TestCrashInInitLeavesNothingOrAll(t *testing.T) {
	for name, write := range crashes {
		t.Run(name, func(t *testing.T) {
			k := start(t, t.TempDir())
			k.server.write = write
			key := autolock.NewOperatorKey()
			keydKey, err := k.PrepareJoin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = k.Init(t.Context(), &keydpb.InitRequest{
				NodeId: ident.New(), ManagerCsr: newCSR(t, newKey(t), keydKey), BootCsr: newCSR(t, newKey(t), nil),
				Slots: []*keydpb.Slot{key.Slot()},
			})
			wantCode(t, err, keydpb.Code_CODE_INTERNAL)
			wholeOrNothing(t, k.restart(t), name == "after the rename", key)
		})
	}
}

func TestCrashInImportLeavesNothingOrAll(t *testing.T) {
	c := newCluster(t)
	for name, write := range crashes {
		t.Run(name, func(t *testing.T) {
			k, req := c.second(t)
			k.server.write = write
			_, err := k.ImportKeyset(t.Context(), req)
			wantCode(t, err, keydpb.Code_CODE_INTERNAL)
			wholeOrNothing(t, k.restart(t), name == "after the rename", c.key)
		})
	}
}

func wholeOrNothing(t *testing.T, k *instance, whole bool, key autolock.OperatorKey) {
	t.Helper()
	st, err := k.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !whole {
		if st.State != keydpb.LockState_LOCK_STATE_EMPTY {
			t.Fatalf("the keyd is %v", st.State)
		}
		if left, _ := filepath.Glob(filepath.Join(k.dir, ".*")); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
		return
	}
	if st.State != keydpb.LockState_LOCK_STATE_LOCKED {
		t.Fatalf("the keyd is %v", st.State)
	}
	if _, err := k.root.Unlock(t.Context(), key.Seed()); err != nil {
		t.Fatal(err)
	}
}

func TestCrashInResealLeavesTheOldOrTheNew(t *testing.T) {
	for name, write := range crashes {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			next := autolock.NewOperatorKey()
			c.server.write = write
			_, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: &keydpb.SlotSet{Epoch: 2, Slots: []*keydpb.Slot{next.Slot()}}})
			wantCode(t, err, keydpb.Code_CODE_INTERNAL)
			c.restart(t)
			right, wrong := c.key, next
			if name == "after the rename" {
				right, wrong = next, c.key
			}
			_, err = c.root.Unlock(t.Context(), wrong.Seed())
			wantCode(t, err, keydpb.Code_CODE_WRONG_KEY)
			if _, err := c.root.Unlock(t.Context(), right.Seed()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEveryFlippedBitOfTheStateIsFound(t *testing.T) {
	c := newCluster(t)
	c.stop()
	raw, err := os.ReadFile(filepath.Join(c.dir, stateName))
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] ^= 1 << (i % 8)
		if _, err := decodeState(raw); !errors.Is(err, errStateDamaged) {
			t.Fatalf("byte %d: %v", i, err)
		}
		raw[i] ^= 1 << (i % 8)
	}
	for n := range raw {
		if _, err := decodeState(raw[:n]); err == nil {
			t.Fatalf("the first %d bytes were accepted", n)
		}
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(filepath.Join(c.dir, stateName), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A keyd that cannot use what it finds says so, on both sockets and for every
// verb, and can still be told to forget.
func TestUnusableDirectoryIsTold(t *testing.T) {
	for name, edit := range map[string]struct {
		do   func(dir string) error
		says string
	}{
		"flipped bit": {func(dir string) error {
			return rewrite(dir, func(raw []byte) []byte { raw[len(raw)/2] ^= 1; return raw })
		}, "damaged"},
		"cut off": {func(dir string) error { return rewrite(dir, func(raw []byte) []byte { return raw[:len(raw)-1] }) }, "damaged"},
		"emptied": {func(dir string) error { return rewrite(dir, func([]byte) []byte { return nil }) }, "damaged"},
		"huge":    {func(dir string) error { return rewrite(dir, func([]byte) []byte { return make([]byte, maxState+1) }) }, "larger than"},
		"a directory": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, stateName)), os.Mkdir(filepath.Join(dir, stateName), 0o700))
		}, "is a directory"},
		"newer format": {func(dir string) error {
			return rewrite(dir, func(raw []byte) []byte { raw[len(stateMagic)-1]++; return digested(raw) })
		}, "newer version"},
		"unknown field": {func(dir string) error {
			return rewrite(dir, func(raw []byte) []byte {
				body := raw[len(stateMagic)+4 : len(raw)-2*32]
				body = append(bytes.Clone(body), 0xf8, 0x07, 1) // field 127, varint
				return digested(append(lp.Append([]byte(stateMagic), body), make([]byte, 2*32)...))
			})
		}, "newer version"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.stop()
			if err := edit.do(c.dir); err != nil {
				t.Fatal(err)
			}
			c.restart(t)
			k := c.instance
			check := func(verb string, err error) {
				t.Helper()
				wantCode(t, err, keydpb.Code_CODE_DAMAGED)
				if err == nil || !strings.Contains(err.Error(), edit.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: %v", verb, err)
				}
			}
			_, err := k.Status(t.Context())
			check("status", err)
			_, err = k.root.Status(t.Context())
			check("status for root", err)
			_, err = k.root.Unlock(t.Context(), c.key.Seed())
			check("unlock", err)
			check("wait", k.WaitUnlocked(t.Context()))
			_, err = k.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
			check("open store", err)
			_, err = k.PrepareJoin(t.Context())
			check("prepare", err)
			if name == "a directory" {
				return // which keyd does not remove
			}
			if err := k.Forget(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st, err := k.Status(t.Context()); err != nil || st.State != keydpb.LockState_LOCK_STATE_EMPTY {
				t.Errorf("after forgetting: %v, %v", st, err)
			}
			if _, err := k.PrepareJoin(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func rewrite(dir string, edit func([]byte) []byte) error {
	path := filepath.Join(dir, stateName)
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, edit(raw), 0o600)
}

// digested renews the digest at the end of a state file.
func digested(raw []byte) []byte {
	sum := sha(raw[:len(raw)-32])
	return append(bytes.Clone(raw[:len(raw)-32]), sum[:]...)
}

// Somebody with the disk may recompute the digest; the MAC and the seals tell.
func TestForgedStateIsFoundAtUnlock(t *testing.T) {
	c := newCluster(t)
	c.stop()
	honest, err := readState(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, forge := range map[string]func(f *stateFile){
		"node id":       func(f *stateFile) { f.state.NodeId = ident.New() },
		"cluster id":    func(f *stateFile) { f.state.ClusterId = ident.New() },
		"slot epoch":    func(f *stateFile) { f.state.Slots.Epoch++ },
		"slot's time":   func(f *stateFile) { f.state.Slots.Slots[0].CreatedAt++ },
		"sealed KEK":    func(f *stateFile) { f.state.Keks[0].Sealed[20] ^= 1 },
		"sealed keyset": func(f *stateFile) { f.state.SealedKeyset[90] ^= 1 },
		"sealed local":  func(f *stateFile) { f.state.SealedLocal[90] ^= 1 },
		"swapped seals": func(f *stateFile) {
			f.state.SealedLocal, f.state.SealedKeyset = f.state.SealedKeyset, f.state.SealedLocal
		},
	} {
		f, err := decodeState(append(bytes.Clone(honest.body), digestOf(honest)...))
		if err != nil {
			t.Fatal(err)
		}
		forge(f)
		raw, err := encodeState(f.state, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		forged, err := decodeState(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, _, err := forged.open(keydpb.SlotKind_SLOT_KIND_OPERATOR, c.key.Seed()); !errors.Is(err, errStateDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func digestOf(f *stateFile) []byte {
	raw := append(bytes.Clone(f.body), f.mac[:]...)
	sum := sha(raw)
	return append(f.mac[:], sum[:]...)
}

// No key is in any file, in any of the usual encodings; all files are private.
func TestNoKeyOnDisk(t *testing.T) {
	c := newCluster(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(c.leafKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.SealLeaf(t.Context(), &keydpb.SealLeafRequest{LeafKey: bytes.Clone(pkcs8)}); err != nil {
		t.Fatal(err)
	}
	c.mint(t, worker, nil)
	c.mint(t, manager, nil)
	next := autolock.NewOperatorKey()
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: &keydpb.SlotSet{Epoch: 2, Slots: []*keydpb.Slot{next.Slot()}}}); err != nil {
		t.Fatal(err)
	}
	s := c.server.secrets
	canaries := map[string][]byte{
		"operator key": c.key.Seed(), "new operator key": next.Seed(), "leaf key": pkcs8,
		"root key": s.keyset.rootKey, "issuing key": s.keyset.issuingKey, "record seed": s.keyset.recordSeed,
		"master": s.keyset.master.key, "workload key": s.keyset.workloadKey, "token key": s.keyset.tokenKey, "audit key": s.keyset.audit, "DEK": s.local.dek,
		"leaf sealing key": s.local.leafKey, "journal key": s.local.journal, "keyd key": s.local.keydSeed,
	}
	for name, b := range canaries {
		canaries[name] = bytes.Clone(b)
	}
	c.restart(t)
	c.root.Unlock(t.Context(), c.key.Seed()) // a wrong key, which must not be kept either
	files := 0
	err = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", d.Name(), info.Mode().Perm())
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lower := strings.ToLower(string(data))
		for name, key := range canaries {
			for _, form := range []string{hex.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key)[:20], strings.ToLower(base32.StdEncoding.EncodeToString(key)[:24])} {
				if strings.Contains(lower, strings.ToLower(form)) {
					t.Errorf("%s holds the %s encoded", d.Name(), name)
				}
			}
			if bytes.Contains(data, key) || bytes.Contains(data, key[:16]) && name != "leaf key" {
				t.Errorf("%s holds the %s", d.Name(), name)
			}
		}
		return nil
	})
	if err != nil || files < 2 {
		t.Errorf("%d files searched, %v", files, err)
	}
}
