package keyd

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
)

func lent(t *testing.T, c *cluster, sealedLeaf []byte) *keydpb.OpenStoreResponse {
	t.Helper()
	got, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{SealedLeaf: sealedLeaf})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func sealedLeaf(t *testing.T, c *cluster) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.leafKey)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.SealLeaf(t.Context(), &keydpb.SealLeafRequest{LeafKey: der})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSealedLeaf()
}

func wantDEKCode(t *testing.T, err error, want keydpb.Code) {
	t.Helper()
	if got := keydclient.CodeOf(err); got != want {
		t.Fatalf("%v: code %v, not %v", err, got, want)
	}
}

// TestDEKRotation goes through the life of a data key, over restarts.
func TestDEKRotation(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	leaf := sealedLeaf(t, c)
	old := lent(t, c, leaf)
	if st := old.GetDekState(); st.GetEpoch() != 1 || st.GetMadeAt() == 0 || st.GetSlotEpoch() != 1 || st.GetFormerEpoch() != 0 || old.FormerDek != nil {
		t.Fatalf("a new manager's data key: %v", st)
	}
	for _, epoch := range []uint32{0, 3, 1 << 31} {
		_, err := c.RotateDEK(ctx, epoch)
		wantDEKCode(t, err, keydpb.Code_CODE_STALE_EPOCH)
	}
	for _, epoch := range []uint32{0, 1, 2} {
		_, err := c.DropDEK(ctx, epoch)
		wantDEKCode(t, err, keydpb.Code_CODE_STALE_EPOCH)
	}
	next, err := c.RotateDEK(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(next.Dek, old.Dek) || next.State.GetEpoch() != 2 || next.State.GetFormerEpoch() != 1 {
		t.Fatalf("the next data key is the same, or says %v", next.State)
	}
	for range 2 { // before and after a restart
		again, err := c.RotateDEK(ctx, 2)
		if err != nil || !bytes.Equal(again.Dek, next.Dek) {
			t.Fatalf("asked again: %v, or another key", err)
		}
		both := lent(t, c, leaf) // the leaf is still under the former key
		if !bytes.Equal(both.Dek, next.Dek) || !bytes.Equal(both.FormerDek, old.Dek) || len(both.LeafKey) == 0 {
			t.Fatal("a restart changed the keys")
		}
		_, err = c.RotateDEK(ctx, 3)
		wantDEKCode(t, err, keydpb.Code_CODE_DENIED)
		c.restart(t)
		_, err = c.RotateDEK(ctx, 3)
		wantDEKCode(t, err, keydpb.Code_CODE_LOCKED)
		_, err = c.DropDEK(ctx, 1)
		wantDEKCode(t, err, keydpb.Code_CODE_LOCKED)
		c.unlock(t)
	}
	renewed := sealedLeaf(t, c)
	if bytes.Equal(renewed[:10], leaf[:10]) {
		t.Fatal("the leaf's key epoch did not change")
	}
	for range 2 { // the second time nothing is done
		if _, err := c.DropDEK(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.OpenStore(ctx, &keydpb.OpenStoreRequest{SealedLeaf: leaf})
	wantDEKCode(t, err, keydpb.Code_CODE_DAMAGED)
	c.restart(t)
	c.unlock(t)
	after := lent(t, c, renewed)
	if !bytes.Equal(after.Dek, next.Dek) || after.FormerDek != nil || after.DekState.GetFormerEpoch() != 0 {
		t.Fatal("the former data key is not gone")
	}
	if st, err := c.Status(ctx); err != nil || st.GetDek().GetEpoch() != 2 {
		t.Fatalf("%v %v", st, err)
	}
	raw := readJournal(t, c.dir)
	for _, want := range []string{`"event":"rotate-dek","outcome":"begun"`, `"event":"drop-dek","outcome":"begun"`} {
		if n := bytes.Count(raw, []byte(want)); n != 1 {
			t.Errorf("the journal has %s %d times", want, n)
		}
	}
}

// TestDEKIsNotedWithTheSlots: a data key says under which slots it was made.
func TestDEKIsNotedWithTheSlots(t *testing.T) {
	c := newCluster(t)
	key := autolock.NewOperatorKey()
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: &keydpb.SlotSet{Epoch: 5, Slots: []*keydpb.Slot{key.Slot()}}}); err != nil {
		t.Fatal(err)
	}
	if got := lent(t, c, nil).GetDekState().GetSlotEpoch(); got != 1 {
		t.Fatalf("a data key of before says slot epoch %d", got)
	}
	if r, err := c.RotateDEK(t.Context(), 2); err != nil || r.State.GetSlotEpoch() != 5 {
		t.Fatalf("%v %v", r.GetState(), err)
	}
}

// TestDEKRotationOnAFullDisk changes nothing, in memory either.
func TestDEKRotationOnAFullDisk(t *testing.T) {
	c := newCluster(t)
	before := lent(t, c, nil)
	full := errors.New("no space left on device")
	write := c.server.write
	fails := func(f func(string, []byte) error) {
		c.server.mu.Lock()
		defer c.server.mu.Unlock()
		c.server.write = f
	}
	fails(func(string, []byte) error { return full })
	if _, err := c.RotateDEK(t.Context(), 2); err == nil {
		t.Fatal("rotated on a full disk")
	}
	fails(write)
	if got := lent(t, c, nil); !bytes.Equal(got.Dek, before.Dek) || got.FormerDek != nil {
		t.Fatal("the keys changed, and not on disk")
	}
	if _, err := c.RotateDEK(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	fails(func(string, []byte) error { return full })
	if _, err := c.DropDEK(t.Context(), 1); err == nil {
		t.Fatal("dropped on a full disk")
	}
	fails(write)
	if got := lent(t, c, nil); !bytes.Equal(got.FormerDek, before.Dek) {
		t.Fatal("the former key is gone in memory, and not on disk")
	}
	c.mint(t, worker, nil) // the journal has its key still
}

// TestFirstFormOfLocal: what a version before wrote is read, and rotates.
func TestFirstFormOfLocal(t *testing.T) {
	p, err := newPrepared()
	if err != nil {
		t.Fatal(err)
	}
	defer p.destroy()
	first := append([]byte(localMagic1), 0, 0, 0, 1)
	first = append(first, p.seed.Bytes()...)
	first = append(first, bytes.Repeat([]byte{7}, 3*autolock.KeyLen)...)
	l, err := openLocal(memguard.NewBufferFromBytes(slices.Clone(first)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.destroy()
	if l.dekEpoch != 1 || l.madeAt != 0 || l.formerEpoch != 0 || !bytes.Equal(l.keydKey, p.public) || !bytes.Equal(l.buf.Bytes(), first) {
		t.Fatal("read wrongly")
	}
	for name, bad := range map[string][]byte{
		"longer": append(slices.Clone(first), 0), "shorter": first[:len(first)-1], "epoch 0": func() []byte {
			b := slices.Clone(first)
			binary.BigEndian.PutUint32(b[len(localMagic1):], 0)
			return b
		}(), "the other form's length": append([]byte(localMagic), first[len(localMagic1):]...),
	} {
		if l, err := openLocal(memguard.NewBufferFromBytes(slices.Clone(bad))); err == nil {
			l.destroy()
			t.Errorf("%s: opened", name)
		}
	}
}
