package keyd

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// withShares makes a cluster whose managers are also opened by 3 of 5 shares.
func withShares(t *testing.T) (*cluster, *keydpb.SlotSet, []autolock.Share) {
	t.Helper()
	c := newCluster(t)
	slot, shares, err := autolock.Split(c.init.ClusterId, "officers", 2, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	set := &keydpb.SlotSet{Epoch: 2, Slots: append(slices.Clone(c.init.Slots.Slots), slot)}
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: set}); err != nil {
		t.Fatal(err)
	}
	return c, set, shares
}

func (c *cluster) give(t *testing.T, share *autolock.Share, to ...*keydpb.SessionStatement) (*keydpb.GiveShareResponse, error) {
	t.Helper()
	return c.root.GiveShare(t.Context(), share.Bytes(), to)
}

func (c *cluster) mustGive(t *testing.T, share *autolock.Share, to ...*keydpb.SessionStatement) *keydpb.GiveShareResponse {
	t.Helper()
	r, err := c.give(t, share, to...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSharesOpenAManager(t *testing.T) {
	c, set, shares := withShares(t)
	_, err := c.give(t, &shares[0])
	wantCode(t, err, keydpb.Code_CODE_NOT_LOCKED)
	c.restart(t)
	// By keyd.sock nobody gives a share in clear.
	_, err = c.GiveShare(t.Context(), shares[0].Bytes(), nil)
	wantCode(t, err, keydpb.Code_CODE_DENIED)

	r := c.mustGive(t, &shares[4])
	if r.Unlocked || r.Had || r.Number != 5 || r.Progress.Threshold != 3 || r.Progress.Of != 5 || !slices.Equal(r.Progress.Numbers, []uint32{5}) || r.Progress.SlotName != "officers" {
		t.Fatal(r)
	}
	if r = c.mustGive(t, &shares[4]); !r.Had || len(r.Progress.Numbers) != 1 {
		t.Error("a share twice counts twice:", r)
	}
	if r = c.mustGive(t, &shares[1]); r.Unlocked || !slices.Equal(r.Progress.Numbers, []uint32{2, 5}) {
		t.Error(r)
	}
	st, err := c.Status(t.Context())
	if err != nil || !slices.Equal(st.Shares.GetNumbers(), []uint32{2, 5}) || st.State != keydpb.LockState_LOCK_STATE_LOCKED {
		t.Error(st, err)
	}
	// What is wrong adds nothing and takes nothing away.
	other := newCluster(t)
	_, foreign, err := autolock.Split(other.init.ClusterId, "officers", 2, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	_, stale, err := autolock.Split(c.init.ClusterId, "officers", 1, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	_, ahead, err := autolock.Split(c.init.ClusterId, "officers", 9, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.give(t, &foreign[2])
	wantCode(t, err, keydpb.Code_CODE_WRONG_KEY)
	for _, s := range []*autolock.Share{&stale[2], &ahead[2]} {
		_, err = c.give(t, s)
		wantCode(t, err, keydpb.Code_CODE_STALE_EPOCH)
	}
	_, err = c.root.GiveShare(t.Context(), shares[2].Bytes()[1:], nil)
	wantCode(t, err, keydpb.Code_CODE_INVALID)
	if r = c.mustGive(t, &shares[2]); !r.Unlocked {
		t.Fatal("3 of 5 shares do not open it:", r)
	}
	if st, err = c.Status(t.Context()); err != nil || st.State != keydpb.LockState_LOCK_STATE_UNLOCKED || st.Shares != nil {
		t.Error(st, err)
	}
	// The operator key goes on opening it, and what opened is in the journal.
	c.restart(t)
	c.unlock(t)
	raw, err := os.ReadFile(filepath.Join(c.dir, "journal"))
	if err != nil || !contains(raw, "by shares [2 3 5], typed here [5 2 3]") {
		t.Errorf("%v: %s", err, raw)
	}
	if proto.Equal(set, c.init.Slots) {
		t.Error("nothing was added")
	}
}

func TestSharesAreForgotten(t *testing.T) {
	c, _, shares := withShares(t)
	c.restart(t)
	c.mustGive(t, &shares[0])
	c.mustGive(t, &shares[1])
	if n, err := c.root.DropShares(t.Context()); err != nil || n != 2 {
		t.Error(n, err)
	}
	if r := c.mustGive(t, &shares[2]); r.Unlocked || len(r.Progress.Numbers) != 1 {
		t.Error("dropped shares were counted:", r)
	}
	c.restart(t) // so does the end of the process
	if r := c.mustGive(t, &shares[3]); len(r.Progress.Numbers) != 1 {
		t.Error(r)
	}
	dir := c.dir
	c.stop()
	synctest.Test(t, func(t *testing.T) {
		s, err := New(testConfig(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		give := func(i int) *keydpb.GiveShareResponse {
			s.mu.Lock()
			defer s.mu.Unlock()
			r, err := s.giveShare(&keydpb.GiveShareRequest{Share: shares[i].Bytes()})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		give(0)
		sleep(shareLife - 1)
		if r := give(1); len(r.Progress.Numbers) != 2 {
			t.Error("forgotten too early:", r)
		}
		sleep(shareLife + 1)
		if st, err := s.status(); err != nil || st.Shares != nil {
			t.Error(st, err)
		}
		if r := give(2); r.Unlocked || len(r.Progress.Numbers) != 1 {
			t.Error("shares outlived their time:", r)
		}
		// One holder alone does not keep them.
		sleep(shareLife - 1)
		if r := give(2); !r.Had || len(r.Progress.Numbers) != 1 {
			t.Error(r)
		}
		sleep(2)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.shares.of) > 0 {
			t.Error("a share that was given again renewed the time")
		}
	})
}

// statement is what a locked manager's redoubtd makes of its keyd's session key.
func statement(t *testing.T, c *cluster, boot *profilepb.CertificateChain, key any) *keydpb.SessionStatement {
	t.Helper()
	r, err := c.LockSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sig, err := profile.SignSession(key.(signer), r.ClusterId, r.NodeId, r.SessionKey)
	if err != nil {
		t.Fatal(err)
	}
	return &keydpb.SessionStatement{SessionKey: r.SessionKey, Boot: boot, Signature: sig}
}

// A share that is typed on one machine opens another; what does not come from a
// manager of the cluster gets none.
func TestSharesTravelSealed(t *testing.T) {
	c, set, shares := withShares(t)
	other, bootKey, boot := secondManager(t, c, set)
	_, err := c.LockSession(t.Context())
	wantCode(t, err, keydpb.Code_CODE_NOT_LOCKED)
	other.restart(t)
	good := statement(t, other, boot, bootKey)

	// c itself is open, and passes on.
	r := c.mustGive(t, &shares[0], good)
	if !r.Unlocked || len(r.Sealed) != 1 || r.Sealed[0].NodeId != other.nodeID || r.Sealed[0].Refused != "" {
		t.Fatal(r)
	}
	got, err := other.TakeShare(t.Context(), r.Sealed[0].Sealed)
	if err != nil || got.Unlocked || !slices.Equal(got.Progress.Numbers, []uint32{1}) {
		t.Fatal(got, err)
	}
	if got, err = other.TakeShare(t.Context(), r.Sealed[0].Sealed); err != nil || !got.Had {
		t.Error(got, err)
	}
	// Forged in every part.
	for name, edit := range map[string]func(*keydpb.SessionStatement){
		"another key":     func(s *keydpb.SessionStatement) { s.SessionKey = slices.Clone(s.SessionKey); s.SessionKey[9] ^= 1 },
		"no signature":    func(s *keydpb.SessionStatement) { s.Signature = nil },
		"manager's leaf":  func(s *keydpb.SessionStatement) { s.Boot = other.init.Manager },
		"no chain":        func(s *keydpb.SessionStatement) { s.Boot = nil },
		"root left out":   func(s *keydpb.SessionStatement) { s.Boot.Certificates = s.Boot.Certificates[:2] },
		"another cluster": func(s *keydpb.SessionStatement) { *s = *foreignStatement(t) },
	} {
		bad := proto.CloneOf(good)
		edit(bad)
		r := c.mustGive(t, &shares[1], bad)
		if r.Sealed[0].Refused == "" || r.Sealed[0].Sealed != nil {
			t.Errorf("%s: a share was sealed to it", name)
		}
	}
	// Sealed for a key that is gone, or damaged.
	again := c.mustGive(t, &shares[1], good).Sealed[0].Sealed
	broken := slices.Clone(again)
	broken[len(broken)-1] ^= 1
	_, err = other.TakeShare(t.Context(), broken)
	wantCode(t, err, keydpb.Code_CODE_STALE_EPOCH)
	other.restart(t)
	_, err = other.TakeShare(t.Context(), again)
	wantCode(t, err, keydpb.Code_CODE_STALE_EPOCH)
	good = statement(t, other, boot, bootKey)
	_, err = other.TakeShare(t.Context(), again)
	wantCode(t, err, keydpb.Code_CODE_STALE_EPOCH)
	for i := range 3 {
		got, err := other.TakeShare(t.Context(), c.mustGive(t, &shares[i], good).Sealed[0].Sealed)
		if err != nil || got.Unlocked != (i == 2) {
			t.Fatal(got, err)
		}
	}
	if got, err := other.TakeShare(t.Context(), again); err != nil || !got.Unlocked {
		t.Error("one more than needed is no error:", got, err)
	}
}

func TestTestSlot(t *testing.T) {
	c, set, shares := withShares(t)
	check := func() {
		t.Helper()
		r, err := c.root.TestSlot(t.Context(), &keydpb.TestSlotRequest{Seed: c.key.Seed()})
		if err != nil || r.SlotId != set.Slots[0].Id || r.Epoch != 2 {
			t.Error(r, err)
		}
		r, err = c.root.TestSlot(t.Context(), &keydpb.TestSlotRequest{Share: shares[3].Bytes()})
		if err != nil || r.SlotId != set.Slots[1].Id || r.Number != 4 {
			t.Error(r, err)
		}
		wrong := autolock.NewOperatorKey()
		_, err = c.root.TestSlot(t.Context(), &keydpb.TestSlotRequest{Seed: wrong.Seed()})
		wantCode(t, err, keydpb.Code_CODE_WRONG_KEY)
		_, err = c.TestSlot(t.Context(), &keydpb.TestSlotRequest{Seed: c.key.Seed()})
		wantCode(t, err, keydpb.Code_CODE_DENIED)
	}
	check()
	c.restart(t)
	check()
	if st, err := c.Status(t.Context()); err != nil || st.State != keydpb.LockState_LOCK_STATE_LOCKED || st.Shares != nil {
		t.Error("a test changed something:", st, err)
	}
}
