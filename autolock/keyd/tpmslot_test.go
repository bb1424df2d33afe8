package keyd

import (
	"context"
	"crypto/sha256"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/tpm"
	"github.com/redoubt-cluster/redoubt/internal/tpm/tpmtest"
)

// onMachine restarts c's keyd on a machine with that TPM; nil: without one.
func (c *cluster) onMachine(t *testing.T, d *tpmtest.Device) {
	t.Helper()
	c.stop()
	c.instance = startOn(t, c.dir, d)
}

func startOn(t *testing.T, dir string, d *tpmtest.Device) *instance {
	t.Helper()
	cfg := testConfig(t, dir)
	if d != nil {
		dev, err := tpm.Open(d.Socket)
		if err != nil {
			t.Fatal(err)
		}
		cfg.TPM, cfg.Section.TPM = dev, d.Socket
		k := startWith(t, cfg)
		stop := k.stop
		k.stop = func() { stop(); dev.Close() }
		t.Cleanup(k.stop)
		return k
	}
	return startWith(t, cfg)
}

func (c *cluster) addTPMSlot(t *testing.T, epoch uint64, pcrs ...uint32) *keydpb.Slot {
	t.Helper()
	slot := &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_TPM, Name: "tpm", Pcrs: pcrs}
	set := &keydpb.SlotSet{Epoch: epoch, Slots: append(slices.Clone(c.init.Slots.Slots), slot)}
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: set}); err != nil {
		t.Fatal(err)
	}
	return slot
}

// wantLack fails unless the status says why the slot does not open the manager;
// "": it opens it.
func (c *cluster) wantLack(t *testing.T, slot *keydpb.Slot, want string) {
	t.Helper()
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, found := st.Lacks[slot.Id]
	if found != (want != "") || !strings.Contains(got, want) {
		t.Errorf("the status says %q, want %q", got, want)
	}
	_, err = c.root.TestSlot(t.Context(), &keydpb.TestSlotRequest{Slot: "tpm"})
	switch {
	case want == "" && err != nil:
		t.Errorf("test: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("test: %v, want %q", err, want)
	}
}

func TestTPMSlot(t *testing.T) {
	c, machine, other := newCluster(t), tpmtest.New(t), tpmtest.New(t)
	c.onMachine(t, machine)
	c.unlock(t)
	slot := c.addTPMSlot(t, 2, 0, 7)
	c.wantLack(t, slot, "")

	c.onMachine(t, machine)
	c.wantState(t, keydpb.LockState_LOCK_STATE_UNLOCKED)
	c.wantLack(t, slot, "")

	// The disk in another machine, and in one without a TPM.
	c.onMachine(t, other)
	c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
	c.wantLack(t, slot, "sealed by another")
	c.onMachine(t, nil)
	c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
	c.wantLack(t, slot, "no TPM is configured")
	c.unlock(t) // people open it anywhere

	// The same machine, started otherwise.
	c.stop()
	machine.Extend(7, sha256.Sum256([]byte("another boot loader")))
	c.instance = startOn(t, c.dir, machine)
	c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
	c.wantLack(t, slot, "PCR")
	c.unlock(t)
	c.wantLack(t, slot, "PCR")

	// Removed and added, it is sealed to what is there now.
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: &keydpb.SlotSet{Epoch: 3, Slots: c.init.Slots.Slots}}); err != nil {
		t.Fatal(err)
	}
	slot = c.addTPMSlot(t, 4, 0, 7)
	c.wantLack(t, slot, "")
	c.onMachine(t, machine)
	c.wantState(t, keydpb.LockState_LOCK_STATE_UNLOCKED)
}

// What a removed slot left on a disk opens nothing.
func TestTPMSlotRemoved(t *testing.T) {
	c, machine := newCluster(t), tpmtest.New(t)
	c.onMachine(t, machine)
	c.unlock(t)
	c.addTPMSlot(t, 2)
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: &keydpb.SlotSet{Epoch: 3, Slots: c.init.Slots.Slots}}); err != nil {
		t.Fatal(err)
	}
	c.onMachine(t, machine)
	c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
}

// A manager without a TPM takes over the slots, lacks that one, and says so; the
// seed lies nowhere in clear.
func TestTPMSlotWithoutATPM(t *testing.T) {
	c := newCluster(t)
	slot := c.addTPMSlot(t, 2)
	c.wantLack(t, slot, "no TPM is configured")
	c.restart(t)
	c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
	c.wantLack(t, slot, "no TPM is configured")
	c.onMachine(t, tpmtest.New(t))
	c.wantLack(t, slot, "had no TPM when the slot was added")
	c.unlock(t)
	if files, err := os.ReadDir(c.dir); err != nil || len(files) != 2 { // state, journal
		t.Errorf("%v %v", files, err)
	}
}

// A TPM that hangs keeps those waiting who need it, and not for ever; nobody else.
func TestTPMHangs(t *testing.T) {
	c, machine := newCluster(t), tpmtest.New(t)
	c.onMachine(t, machine)
	c.unlock(t)
	slot := c.addTPMSlot(t, 2)
	set := proto.CloneOf(c.status(t).Slots)
	set.Epoch++
	set.Slots = append(set.Slots, &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_TPM, Name: "second"})

	machine.Pause()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := make(chan error, 3)
	go func() { _, err := c.Reseal(ctx, &keydpb.ResealRequest{Slots: set}); waiting <- err }()
	go func() {
		_, err := c.root.TestSlot(ctx, &keydpb.TestSlotRequest{Slot: slot.Name})
		waiting <- err
	}()
	other := keydclient.New(c.socket)
	defer other.Close()
	go func() {
		_, err := other.SignOwn(ctx, &keydpb.SignOwnRequest{Csr: newCSR(t, newKey(t), c.keydKey), BootCsr: newCSR(t, newKey(t), nil), Attested: true})
		waiting <- err
	}()
	for range 20 { // by the same client, between those that wait
		c.mint(t, worker, nil)
	}
	if st, err := c.root.Status(t.Context()); err != nil || st.State != keydpb.LockState_LOCK_STATE_UNLOCKED {
		t.Errorf("%v %v", st, err)
	}
	select {
	case err := <-waiting:
		t.Errorf("something did not wait for the TPM: %v", err)
	default:
	}
	machine.Resume()
	for range 3 {
		if err := <-waiting; err != nil {
			t.Error(err)
		}
	}
	if lacks := c.status(t).Lacks; len(lacks) != 0 {
		t.Errorf("%v", lacks)
	}
}

// keyd starts, and takes keys from people, where its TPM hangs. The slot it went
// without says so, also when others are added.
func TestTPMHangsAtTheStart(t *testing.T) {
	c, machine := newCluster(t), tpmtest.New(t)
	c.onMachine(t, machine)
	c.unlock(t)
	slot := c.addTPMSlot(t, 2)
	c.stop()
	cfg := testConfig(t, c.dir)
	dev, err := tpm.Open(machine.Socket)
	if err != nil {
		t.Fatal(err)
	}
	cfg.TPM, cfg.TPMTime = dev, 50*time.Millisecond
	machine.Pause()
	t.Cleanup(func() { machine.Resume(); dev.Close() })
	c.instance = startWith(t, cfg)
	c.wantState(t, keydpb.LockState_LOCK_STATE_LOCKED)
	c.wantLack(t, slot, "does not answer in time")
	c.unlock(t)
	set := proto.CloneOf(c.status(t).Slots)
	set.Epoch++
	late := &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_TPM, Name: "late"}
	set.Slots = append(set.Slots, late)
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: set}); err != nil {
		t.Fatal(err)
	}
	if why := c.status(t).Lacks[late.Id]; !strings.Contains(why, "does not answer in time") {
		t.Errorf("the slot that could not be made: %q", why)
	}
}

// What managers open for each other is not this machine's, nor people's.
func TestSlotTestOfRelease(t *testing.T) {
	c := newCluster(t)
	slot := &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_RELEASE, Name: "release", Release: &keydpb.ReleasePolicy{}}
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: &keydpb.SlotSet{Epoch: 2, Slots: append(slices.Clone(c.init.Slots.Slots), slot)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.root.TestSlot(t.Context(), &keydpb.TestSlotRequest{Slot: "release"}); err == nil || !strings.Contains(err.Error(), "opened by the other managers") {
		t.Errorf("%v", err)
	}
}
