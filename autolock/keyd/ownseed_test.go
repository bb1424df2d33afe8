package keyd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// autolockOff has c open by itself, and returns the set with it and the one after
// that, without it.
func autolockOff(t *testing.T, c *cluster) (off, on *keydpb.SlotSet) {
	t.Helper()
	file := &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_FILE, Name: "autolock-off"}
	off = &keydpb.SlotSet{Epoch: 2, Slots: append(slices.Clone(c.init.Slots.Slots), file)}
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: off}); err != nil {
		t.Fatal(err)
	}
	return off, &keydpb.SlotSet{Epoch: 3, Slots: c.init.Slots.Slots}
}

func (c *cluster) status(t *testing.T) *keydpb.StatusResponse {
	t.Helper()
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (c *cluster) wantState(t *testing.T, want keydpb.LockState) {
	t.Helper()
	if st, err := c.Status(t.Context()); err != nil || st.State != want {
		t.Errorf("state %v (%v), want %v", st.GetState(), err, want)
	}
}

func seedFiles(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, autoPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestAutolockOffAndOn(t *testing.T) {
	c := newCluster(t)
	_, on := autolockOff(t, c)
	files := seedFiles(t, c.dir)
	if len(files) != 1 {
		t.Fatal(files)
	}
	if fi, err := os.Stat(files[0]); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi, err)
	}
	before, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	c.restart(t)
	c.wantState(t, keydpb.LockState_LOCK_STATE_UNLOCKED)
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: on}); err != nil {
		t.Fatal(err)
	}
	if files := seedFiles(t, c.dir); len(files) != 0 {
		t.Error("autolock is on, and a seed is left:", files)
	}
	c.restart(t)
	c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
	// The seed of before opens nothing, wherever somebody kept it.
	if err := os.WriteFile(files[0], before, 0o600); err != nil {
		t.Fatal(err)
	}
	c.restart(t)
	c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
	if _, err := os.Stat(files[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a seed that is of no slot stays:", err)
	}
	c.unlock(t)
}

// Whatever the file is, people's slots open the manager.
func TestASeedFileThatIsNoUse(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"gone":     os.Remove,
		"damaged":  func(p string) error { return os.WriteFile(p, []byte("RDTN"), 0o600) },
		"readable": func(p string) error { return os.Chmod(p, 0o644) },
		"another's": func(p string) error {
			return os.WriteFile(p, nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			autolockOff(t, c)
			c.stop()
			if err := spoil(seedFiles(t, c.dir)[0]); err != nil {
				t.Fatal(err)
			}
			c.instance = start(t, c.dir)
			c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
			c.unlock(t)
		})
	}
}

// A change of slots that is cut short before any write or removal leaves a manager
// that opens as the state that counts says, and that goes on to the new set.
func TestChangeOfSlotsCutShort(t *testing.T) {
	crash := errors.New("the machine stopped")
	for cut := range 2 { // the seed's file, the state
		c := newCluster(t)
		n := 0
		write := c.server.write
		c.server.write = func(path string, data []byte) error {
			if n++; n == cut+1 {
				return crash
			}
			return write(path, data)
		}
		file := &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_FILE, Name: "autolock-off"}
		off := &keydpb.SlotSet{Epoch: 2, Slots: append(slices.Clone(c.init.Slots.Slots), file)}
		if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: off}); err == nil {
			t.Fatal("a write failed, and nobody was told")
		}
		c.restart(t)
		c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
		if files := seedFiles(t, c.dir); len(files) != 0 {
			t.Errorf("cut %d: %v is left", cut, files)
		}
		c.unlock(t)
		if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: off}); err != nil {
			t.Fatal(err)
		}
		c.restart(t)
		c.wantState(t, keydpb.LockState_LOCK_STATE_UNLOCKED)
		// And back: the state is written, the seed's removal is not reached.
		seed, err := os.ReadFile(seedFiles(t, c.dir)[0])
		if err != nil {
			t.Fatal(err)
		}
		path := seedFiles(t, c.dir)[0]
		if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: &keydpb.SlotSet{Epoch: 3, Slots: c.init.Slots.Slots}}); err != nil {
			t.Fatal(err)
		}
		c.stop()
		if err := os.WriteFile(path, seed, 0o600); err != nil {
			t.Fatal(err)
		}
		c.instance = start(t, c.dir)
		c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
		if files := seedFiles(t, c.dir); len(files) != 0 {
			t.Error("the next start leaves", files)
		}
	}
}
