package keyd

import (
	"bytes"
	"context"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/backup"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// asRoot and asControl call a verb as the socket of that caller would.
func (k *instance) asRoot(req *keydpb.Request) (*keydpb.Response, error) {
	return k.server.unlockVerb(context.Background(), req)
}

func (k *instance) asControl(t *testing.T, req *keydpb.Request) (*keydpb.Response, error) {
	return k.server.controlVerb(t.Context(), req)
}

func openBackup(seed, head []byte, restore bool) *keydpb.Request {
	return &keydpb.Request{Verb: &keydpb.Request_OpenBackup{OpenBackup: &keydpb.OpenBackupRequest{Seed: bytes.Clone(seed), Head: head, Restore: restore}}}
}

func authorize(seed []byte) *keydpb.Request {
	return &keydpb.Request{Verb: &keydpb.Request_AuthorizeRecovery{AuthorizeRecovery: &keydpb.AuthorizeRecoveryRequest{Seed: bytes.Clone(seed)}}}
}

func wantRefusal(t *testing.T, what string, err error, code keydpb.Code) {
	t.Helper()
	if err == nil || codeOf(err) != code {
		t.Errorf("%s: %v, want %v", what, err, code)
	}
}

// A backup goes from one keyd to another through a key alone, and what comes out
// is the same cluster in its next incarnation with a manager's keys of its own.
func TestBackupAndRestore(t *testing.T) {
	c := newCluster(t)
	sealed, err := c.SealBackup(t.Context(), &keydpb.SealBackupRequest{Index: 42, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	head, err := backup.Parse(sealed.GetHead())
	if err != nil {
		t.Fatal(err)
	}
	if f := head.Facts; f.GetIncarnation() != 1 || f.GetIndex() != 42 || f.GetClusterId() != c.init.GetClusterId() {
		t.Errorf("facts: %v", f)
	}
	seed := c.key.Seed()
	other := autolock.NewOperatorKey()
	fresh := start(t, t.TempDir())
	leafKey, bootKey := newKey(t), newKey(t)
	finish := func(k *instance, head []byte) (*keydpb.FinishRestoreResponse, error) {
		keydKey, err := k.PrepareJoin(t.Context())
		if err != nil {
			return nil, err
		}
		return k.FinishRestore(t.Context(), &keydpb.FinishRestoreRequest{NodeId: newID(), Head: head,
			ManagerCsr: newCSR(t, leafKey, keydKey), BootCsr: newCSR(t, bootKey, nil)})
	}

	if _, err := finish(fresh, sealed.GetHead()); err == nil {
		t.Error("a restore without a key was not refused")
	}
	_, err = fresh.asControl(t, openBackup(seed, sealed.GetHead(), true))
	wantRefusal(t, "redoubtd opens a backup", err, keydpb.Code_CODE_DENIED)
	_, err = fresh.asRoot(openBackup(other.Seed(), sealed.GetHead(), true))
	wantRefusal(t, "another key", err, keydpb.Code_CODE_WRONG_KEY)
	_, err = fresh.asRoot(openBackup(seed, sealed.GetHead()[:100], true))
	wantRefusal(t, "half a head", err, keydpb.Code_CODE_INVALID)
	_, err = c.asRoot(openBackup(seed, sealed.GetHead(), true))
	wantRefusal(t, "a manager restores", err, keydpb.Code_CODE_ALREADY)

	// To verify keeps nothing.
	got, err := c.asRoot(openBackup(seed, sealed.GetHead(), false))
	if err != nil || !bytes.Equal(got.GetOpenBackup().GetStateKey(), sealed.GetStateKey()) {
		t.Errorf("verify: %v", err)
	}
	if _, err := finish(fresh, sealed.GetHead()); err == nil {
		t.Error("a restore after a verification alone was not refused")
	}

	if _, err := fresh.asRoot(openBackup(seed, sealed.GetHead(), true)); err != nil {
		t.Fatal(err)
	}
	again, err := c.SealBackup(t.Context(), &keydpb.SealBackupRequest{Index: 43})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := finish(fresh, again.GetHead()); err == nil {
		t.Error("another backup than was opened was restored")
	}
	resp, err := finish(fresh, sealed.GetHead())
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetIncarnation() != 2 || resp.GetClusterId() != c.init.GetClusterId() || !bytes.Equal(resp.GetStateKey(), sealed.GetStateKey()) {
		t.Errorf("restored as incarnation %d of %s", resp.GetIncarnation(), resp.GetClusterId())
	}
	if chain, err := profile.ParseChain(resp.GetManager()); err != nil || !chain[len(chain)-1].Equal(c.server.secrets.keyset.root) {
		t.Errorf("the root is another (%v)", err)
	}
	if _, err := finish(fresh, sealed.GetHead()); err == nil {
		t.Error("a second restore was not refused")
	}
	// It is a manager's keyd, whose disk the same key opens, in that incarnation.
	fresh = fresh.restart(t)
	if _, err := fresh.root.Unlock(t.Context(), seed); err != nil {
		t.Fatal(err)
	}
	opened, err := fresh.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	if err != nil || opened.GetIncarnation() != 2 {
		t.Fatalf("after a restart: incarnation %d (%v)", opened.GetIncarnation(), err)
	}
	theirs, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	if err != nil || bytes.Equal(theirs.GetDek(), opened.GetDek()) {
		t.Errorf("the data key came with the backup (%v)", err)
	}
}

// The incarnation is raised by whoever has the key, once, by one, and for good.
func TestIncarnationNeedsTheKey(t *testing.T) {
	c := newCluster(t)
	seed := c.key.Seed()
	ctx := t.Context()
	if err := c.RaiseIncarnation(ctx, 1); err != nil {
		t.Errorf("the one in use: %v", err)
	}
	if err := c.RaiseIncarnation(ctx, 2); err == nil {
		t.Fatal("redoubtd raised the incarnation without a key")
	}
	other := autolock.NewOperatorKey()
	_, err := c.asRoot(authorize(other.Seed()))
	wantRefusal(t, "another key", err, keydpb.Code_CODE_WRONG_KEY)
	_, err = c.asControl(t, authorize(seed))
	wantRefusal(t, "redoubtd authorizes", err, keydpb.Code_CODE_DENIED)
	if err := c.RaiseIncarnation(ctx, 2); err == nil {
		t.Fatal("a wrong key raised the incarnation")
	}
	if _, err := c.asRoot(authorize(seed)); err != nil {
		t.Fatal(err)
	}
	if err := c.RaiseIncarnation(ctx, 3); err == nil {
		t.Error("an incarnation was skipped")
	}
	if err := c.RaiseIncarnation(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := c.RaiseIncarnation(ctx, 3); err == nil {
		t.Error("one key raised the incarnation twice")
	}
	// A locked keyd is opened by the same key, and forgets what it was allowed.
	c.restart(t)
	k := c.instance
	if _, err := k.asRoot(authorize(seed)); err != nil {
		t.Fatal(err)
	}
	if got, err := k.OpenStore(ctx, &keydpb.OpenStoreRequest{}); err != nil || got.GetIncarnation() != 2 {
		t.Errorf("after a restart: %d (%v)", got.GetIncarnation(), err)
	}
	k = k.restart(t)
	if _, err := k.root.Unlock(ctx, seed); err != nil {
		t.Fatal(err)
	}
	if err := k.RaiseIncarnation(ctx, 3); err == nil {
		t.Error("a permission outlived its process")
	}
}

// Where the only credentials are shares, they open a backup, and a recovery needs
// them as it would a key: enough of one slot, each of which is one.
func TestSharesRestoreAndRecover(t *testing.T) {
	c, set, shares := withShares(t)
	seed := c.key.Seed()
	// The operator key is taken away.
	set = &keydpb.SlotSet{Epoch: set.GetEpoch() + 1, Slots: set.GetSlots()[1:]}
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: set}); err != nil {
		t.Fatal(err)
	}
	sealed, err := c.SealBackup(t.Context(), &keydpb.SealBackupRequest{Index: 42, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	_, stale, err := autolock.Split(c.init.ClusterId, "former", 2, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := autolock.Split(newID(), "officers", 2, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	raw := func(of ...autolock.Share) (out [][]byte) {
		for i := range of {
			out = append(out, of[i].Bytes())
		}
		return out
	}
	forged := raw(shares[0], shares[1], shares[2])
	forged[2][autolock.ShareLen-1] ^= 1
	fresh := start(t, t.TempDir())
	open := func(shares [][]byte, restore bool) (*keydpb.Response, error) {
		return fresh.asRoot(&keydpb.Request{Verb: &keydpb.Request_OpenBackup{OpenBackup: &keydpb.OpenBackupRequest{Shares: shares, Head: sealed.GetHead(), Restore: restore}}})
	}
	allow := func(shares [][]byte) error {
		_, err := c.asRoot(&keydpb.Request{Verb: &keydpb.Request_AuthorizeRecovery{AuthorizeRecovery: &keydpb.AuthorizeRecoveryRequest{Shares: shares}}})
		return err
	}
	refused := func(when string) {
		t.Helper()
		_, err := fresh.asRoot(openBackup(seed, sealed.GetHead(), true))
		wantRefusal(t, when+": a backup with the key that was removed", err, keydpb.Code_CODE_WRONG_KEY)
		wantRefusal(t, when+": a recovery with it", func() error { _, err := c.asRoot(authorize(seed)); return err }(), keydpb.Code_CODE_WRONG_KEY)
		for name, tc := range map[string]struct {
			shares [][]byte
			code   keydpb.Code
		}{
			"too few":            {raw(shares[:2]...), keydpb.Code_CODE_WRONG_KEY},
			"one three times":    {raw(shares[0], shares[0], shares[0]), keydpb.Code_CODE_WRONG_KEY},
			"of a former slot":   {raw(shares[0], shares[1], stale[2]), keydpb.Code_CODE_WRONG_KEY},
			"of another cluster": {raw(shares[0], shares[1], foreign[2]), keydpb.Code_CODE_WRONG_KEY},
			"one is damaged":     {forged, keydpb.Code_CODE_INVALID},
		} {
			_, err := open(tc.shares, true)
			wantRefusal(t, when+": a backup, "+name, err, tc.code)
			wantRefusal(t, when+": a recovery, "+name, allow(tc.shares), tc.code)
		}
		if err := c.RaiseIncarnation(t.Context(), 2); err == nil {
			t.Errorf("%s: the incarnation was raised without enough shares", when)
		}
	}
	refused("unlocked")
	c.restart(t)
	refused("locked")

	if got, err := open(raw(shares[1:4]...), false); err != nil || !bytes.Equal(got.GetOpenBackup().GetStateKey(), sealed.GetStateKey()) {
		t.Errorf("verify: %v", err)
	}
	if _, err := open(raw(shares[4], shares[0], shares[2]), true); err != nil {
		t.Fatal(err)
	}
	keydKey, err := fresh.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := fresh.FinishRestore(t.Context(), &keydpb.FinishRestoreRequest{NodeId: newID(), Head: sealed.GetHead(),
		ManagerCsr: newCSR(t, newKey(t), keydKey), BootCsr: newCSR(t, newKey(t), nil)}); err != nil || resp.GetIncarnation() != 2 {
		t.Fatalf("restored as incarnation %d (%v)", resp.GetIncarnation(), err)
	}
	// A locked manager is opened by the shares that authorize.
	if err := allow(raw(shares[2:]...)); err != nil {
		t.Fatal(err)
	}
	if err := c.RaiseIncarnation(t.Context(), 2); err != nil {
		t.Error(err)
	}
	// An unlocked one wants them again.
	if err := c.RaiseIncarnation(t.Context(), 3); err == nil {
		t.Error("shares raised the incarnation twice")
	}
	if err := allow(raw(shares[:3]...)); err != nil {
		t.Fatal(err)
	}
	if err := c.RaiseIncarnation(t.Context(), 3); err != nil {
		t.Error(err)
	}
}
