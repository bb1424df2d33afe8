package keyd

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestInitGivesAFirstManager(t *testing.T) {
	c := newCluster(t)
	for _, tc := range []struct {
		chain *profilepb.CertificateChain
		role  profilepb.Role
		life  time.Duration
	}{
		{c.init.Manager, profilepb.Role_ROLE_MANAGER, profile.LeafLife},
		{c.init.Boot, profilepb.Role_ROLE_BOOT, profile.BootLeafLife},
	} {
		leaf := leafOf(t, tc.chain, c.rootDER())
		id, err := profile.NodeFromCert(leaf)
		if err != nil {
			t.Fatal(err)
		}
		if id.ClusterID != c.init.ClusterId || id.NodeID != c.nodeID || id.Role != tc.role {
			t.Errorf("identity is %+v", id)
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life != tc.life+profile.Backdate {
			t.Errorf("%v leaf lives for %s", tc.role, life)
		}
	}
	root, err := x509.ParseCertificate(c.rootDER())
	if err != nil {
		t.Fatal(err)
	}
	if root.MaxPathLen != 2 || root.Subject.String() == "" {
		t.Errorf("root: MaxPathLen %d, subject %q", root.MaxPathLen, root.Subject)
	}
	st, err := c.Status(t.Context())
	if err != nil || st.State != keydpb.LockState_LOCK_STATE_UNLOCKED || st.ClusterId != c.init.ClusterId || len(st.Slots.GetSlots()) != 1 {
		t.Errorf("status %v, %v", st, err)
	}
	_, err = c.Init(t.Context(), &keydpb.InitRequest{})
	wantCode(t, err, keydpb.Code_CODE_ALREADY)
}

func TestRestartedIsLockedUntilTheRightKey(t *testing.T) {
	c := newCluster(t)
	before, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(c.leafKey)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.SealLeaf(t.Context(), &keydpb.SealLeafRequest{LeafKey: bytes.Clone(pkcs8)})
	if err != nil {
		t.Fatal(err)
	}
	c.restart(t)

	_, err = c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	wantCode(t, err, keydpb.Code_CODE_LOCKED)
	_, err = c.MintToken(t.Context(), &keydpb.MintTokenRequest{})
	wantCode(t, err, keydpb.Code_CODE_LOCKED)
	_, err = c.PrepareJoin(t.Context())
	wantCode(t, err, keydpb.Code_CODE_LOCKED)
	_, err = c.Client.Unlock(t.Context(), c.key.Seed()) // redoubtd's socket
	wantCode(t, err, keydpb.Code_CODE_DENIED)

	state, _ := os.ReadFile(filepath.Join(c.dir, stateName))
	other := autolock.NewOperatorKey()
	_, err = c.root.Unlock(t.Context(), other.Seed())
	wantCode(t, err, keydpb.Code_CODE_WRONG_KEY)
	_, err = c.root.Unlock(t.Context(), []byte("short"))
	wantCode(t, err, keydpb.Code_CODE_INVALID)
	if again, _ := os.ReadFile(filepath.Join(c.dir, stateName)); !bytes.Equal(state, again) {
		t.Error("a wrong key changed the state file")
	}

	c.unlock(t)
	_, err = c.root.Unlock(t.Context(), c.key.Seed())
	wantCode(t, err, keydpb.Code_CODE_NOT_LOCKED)
	after, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{SealedLeaf: sealed.SealedLeaf})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(after.Dek, before.Dek) || len(after.Dek) != autolock.KeyLen || after.DekEpoch != before.DekEpoch {
		t.Error("the data key is another after unlocking")
	}
	if !bytes.Equal(after.LeafKey, pkcs8) {
		t.Error("the leaf key did not come back")
	}
}

func TestSealLeafSealsNothingButLeafKeys(t *testing.T) {
	c := newCluster(t)
	for _, junk := range [][]byte{nil, []byte("x"), make([]byte, maxSealedLeaf), make([]byte, 32)} {
		_, err := c.SealLeaf(t.Context(), &keydpb.SealLeafRequest{LeafKey: junk})
		wantCode(t, err, keydpb.Code_CODE_INVALID)
	}
	_, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{SealedLeaf: make([]byte, 200)})
	wantCode(t, err, keydpb.Code_CODE_DAMAGED)
}

func TestWrongKeysMakeOnlyThemselvesWait(t *testing.T) {
	c := newCluster(t)
	c.restart(t)
	other := autolock.NewOperatorKey()
	for range freeTries {
		_, err := c.root.Unlock(t.Context(), other.Seed())
		wantCode(t, err, keydpb.Code_CODE_WRONG_KEY)
	}
	_, err := c.root.Unlock(t.Context(), other.Seed())
	wantCode(t, err, keydpb.Code_CODE_RATE_LIMITED)
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWaitUnlocked(t *testing.T) {
	empty := start(t, t.TempDir())
	wantCode(t, empty.WaitUnlocked(t.Context()), keydpb.Code_CODE_EMPTY)

	c := newCluster(t)
	if err := c.WaitUnlocked(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.restart(t)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.WaitUnlocked(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("on a locked keyd: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- c.WaitUnlocked(t.Context()) }()
	c.unlock(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A client that hangs up while it waits must not hold a connection slot.
func TestAbandonedWaitsAreGivenBack(t *testing.T) {
	c := newCluster(t)
	c.restart(t)
	for range 3 * maxConns {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		c.WaitUnlocked(ctx)
		cancel()
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		fresh := keydclient.New(c.socket)
		_, err := fresh.Status(t.Context())
		fresh.Close()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestWatchNoticesTheLossOfKeyd(t *testing.T) {
	c := newCluster(t)
	w, err := c.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := w.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Wait while keyd lives: %v", err)
	}
	w2, err := c.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w2.Close()
	done := make(chan error, 1)
	go func() { done <- w2.Wait(t.Context()) }()
	c.stop()
	if err := <-done; !errors.Is(err, keydclient.ErrLost) {
		t.Errorf("Wait after keyd went: %v", err)
	}
	if _, err := c.Watch(t.Context()); err == nil {
		t.Error("a watch on no keyd succeeded")
	}
}

func TestResealReplacesTheKey(t *testing.T) {
	c := newCluster(t)
	old := c.key
	next := autolock.NewOperatorKey()
	set := &keydpb.SlotSet{Epoch: 2, Slots: []*keydpb.Slot{next.Slot()}}
	for range 2 { // asking again is no error
		if resp, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: set}); err != nil || resp.Epoch != 2 {
			t.Fatal(resp, err)
		}
	}
	for _, tc := range []struct {
		set  *keydpb.SlotSet
		want keydpb.Code
	}{
		{&keydpb.SlotSet{Epoch: 1, Slots: set.Slots}, keydpb.Code_CODE_STALE_EPOCH},
		{&keydpb.SlotSet{Epoch: 2, Slots: []*keydpb.Slot{old.Slot()}}, keydpb.Code_CODE_STALE_EPOCH},
		{&keydpb.SlotSet{Epoch: 3}, keydpb.Code_CODE_INVALID},
		{&keydpb.SlotSet{Epoch: 1 << 32, Slots: set.Slots}, keydpb.Code_CODE_INVALID},
		{&keydpb.SlotSet{Epoch: 3, Slots: append(set.Slots, set.Slots...)}, keydpb.Code_CODE_INVALID},
		{nil, keydpb.Code_CODE_INVALID},
	} {
		_, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: tc.set})
		wantCode(t, err, tc.want)
	}
	c.restart(t)
	_, err := c.root.Unlock(t.Context(), old.Seed())
	wantCode(t, err, keydpb.Code_CODE_WRONG_KEY)
	c.key = next
	c.unlock(t)
}

func TestForget(t *testing.T) {
	c := newCluster(t)
	if err := c.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(c.dir, stateName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state file is still there: %v", err)
	}
	_, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	wantCode(t, err, keydpb.Code_CODE_EMPTY)
	c.restart(t)
	_, err = c.root.Unlock(t.Context(), c.key.Seed())
	wantCode(t, err, keydpb.Code_CODE_EMPTY)
	if err := c.Forget(t.Context()); err != nil { // of nothing is no error
		t.Error(err)
	}
}

func TestUnlockSocketUnlocksOnly(t *testing.T) {
	c := newCluster(t)
	if st, err := c.root.Status(t.Context()); err != nil || st.State != keydpb.LockState_LOCK_STATE_UNLOCKED {
		t.Error(st, err)
	}
	_, err := c.root.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	wantCode(t, c.root.Forget(t.Context()), keydpb.Code_CODE_DENIED)
}
