package keyd

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func pick[T any](t *rapid.T, from []T, what string) T { return rapid.SampledFrom(from).Draw(t, what) }

func (m *machine) Mint(t *rapid.T) {
	rec, private := newRecord(m.outer, pick(t, []profilepb.Role{worker, worker, manager, manager, boot, 0}, "role"))
	rec.ExpiresAt = time.Now().Add(pick(t, []time.Duration{time.Minute, time.Minute, 23 * time.Hour, 40 * 24 * time.Hour, -time.Hour}, "for")).Unix()
	rec.MaxUses = pick(t, []uint32{1, 1, 1, 0, 2, 1 << 30}, "uses")
	if resp := m.ask(t, pick(t, m.keyds, "keyd"), &keydpb.Request{Verb: &keydpb.Request_MintToken{MintToken: &keydpb.MintTokenRequest{Record: rec}}}); resp != nil {
		if rec.Role != worker && rec.Role != manager || rec.ExpiresAt > time.Now().Add(maxWorkerToken).Unix() || rec.Role == manager && (rec.MaxUses != 1 || rec.ExpiresAt > time.Now().Add(maxManagerToken).Unix()) {
			t.Fatalf("minted %v", rec)
		}
		m.tokens = append(m.tokens, &token{rec.Id, private, resp.GetMintToken().GetSigned()})
	}
}

func (m *machine) Join(t *rapid.T) {
	if len(m.tokens) == 0 {
		t.Skip("no token")
	}
	k, tok := pick(t, m.keyds, "keyd"), pick(t, m.tokens, "token")
	key := newKey(m.outer)
	rec, err := profile.ParseTokenRecord(tok.signed.GetRecord())
	if err != nil {
		t.Fatal(err)
	}
	var keydKey, bootCSR []byte
	if rapid.Bool().Draw(t, "as a manager") {
		keydKey, bootCSR = pick(t, m.keydKeys, "keyd key"), newCSR(m.outer, newKey(m.outer), nil)
	}
	req := tok.join(m.outer, newCSR(m.outer, key, keydKey), bootCSR)
	req.NodeId = pick(t, []string{req.NodeId, m.keyds[0].id, m.keyds[1].id}, "node")
	resp := m.ask(t, k, &keydpb.Request{Verb: &keydpb.Request_SignJoin{SignJoin: req}}).GetSignJoin()
	if resp == nil {
		return
	}
	if epoch := max(tok.signed.GetKeysetEpoch(), 1); epoch != k.epoch || req.NodeId == k.id || k.isRetiredInModel(keydKey) {
		t.Fatalf("joined with a token of epoch %d in epoch %d, as %s", epoch, k.epoch, req.NodeId)
	}
	m.issued(t, k, resp.Leaf, rec.Role, req.NodeId, keydKey)
	if resp.Boot != nil {
		m.issued(t, k, resp.Boot, boot, req.NodeId, nil)
	}
	m.keep(resp.Leaf, key)
}

func (k *modelKeyd) isRetiredInModel(key []byte) bool {
	return key != nil && slices.ContainsFunc(k.retired, func(r []byte) bool { return bytes.Equal(r, key) })
}

func (m *machine) Renew(t *rapid.T) {
	k, old := pick(t, m.keyds, "keyd"), pick(t, m.leaves, "leaf")
	key, demote := newKey(m.outer), rapid.Bool().Draw(t, "demote")
	keydKey := pick(t, [][]byte{old.id.KeydKey, nil, m.keydKeys[0], m.keydKeys[3]}, "keyd key")
	csr := newCSR(m.outer, key, keydKey)
	by := pick(t, []*modelLeaf{old, old, m.leaves[0]}, "signer")
	proof, err := profile.SignRenewProof(by.key, csr, nil, old.chain.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	resp := m.ask(t, k, &keydpb.Request{Verb: &keydpb.Request_SignRenew{SignRenew: &keydpb.SignRenewRequest{Old: old.chain, Csr: csr, Proof: proof, Demote: demote}}}).GetSignRenew()
	if resp == nil {
		return
	}
	role, want := old.id.Role, old.id.KeydKey
	if demote {
		role, want = worker, nil
	}
	if by != old && !by.key.Equal(old.key) || k.isRetiredInModel(want) {
		t.Fatal("renewed for somebody else, or for a retired manager")
	}
	m.issued(t, k, resp.Leaf, role, old.id.NodeID, want)
	m.keep(resp.Leaf, key)
}

func (m *machine) Promote(t *rapid.T) {
	k, old := pick(t, m.keyds, "keyd"), pick(t, m.leaves, "leaf")
	key, keydKey := newKey(m.outer), pick(t, m.keydKeys, "keyd key")
	csr, bootCSR := newCSR(m.outer, key, keydKey), newCSR(m.outer, newKey(m.outer), nil)
	proof, err := profile.SignPromotionProof(old.key, csr, bootCSR, old.chain.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	resp := m.ask(t, k, &keydpb.Request{Verb: &keydpb.Request_SignPromotion{SignPromotion: &keydpb.SignPromotionRequest{Old: old.chain, Csr: csr, BootCsr: bootCSR, Proof: proof}}}).GetSignPromotion()
	if resp == nil {
		return
	}
	if old.id.Role != worker || k.isRetiredInModel(keydKey) || bytes.Equal(keydKey, k.keydKey) {
		t.Fatal("promoted what may not be")
	}
	m.issued(t, k, resp.Leaf, manager, old.id.NodeID, keydKey)
	m.keep(resp.Leaf, key)
}

func (m *machine) Seal(t *rapid.T) {
	k, l := pick(t, m.keyds, "keyd"), pick(t, m.leaves, "leaf")
	if resp := m.ask(t, k, &keydpb.Request{Verb: &keydpb.Request_SealKeyset{SealKeyset: &keydpb.SealKeysetRequest{Manager: l.chain}}}); resp != nil {
		if l.id.Role != manager || k.isRetiredInModel(l.id.KeydKey) || !bytes.Equal(l.chain.Certificates[1], k.issuer) {
			t.Fatalf("sealed to %v %s", l.id.Role, l.id.NodeID)
		}
	}
}

func (m *machine) Rotate(t *rapid.T) {
	k := pick(t, m.keyds, "keyd")
	req := &keydpb.RotateKeysetRequest{}
	var stay []*modelLeaf
	for range rapid.IntRange(0, 3).Draw(t, "staying") {
		stay = append(stay, pick(t, m.leaves, "who stays"))
	}
	if rapid.Bool().Draw(t, "honest") { // else hardly any is
		stay = m.leaves[:2]
	}
	for _, l := range stay {
		req.Managers = append(req.Managers, l.chain)
	}
	for range rapid.IntRange(0, 1).Draw(t, "retiring") {
		req.Retired = append(req.Retired, pick(t, m.keydKeys, "who leaves"))
	}
	resp := m.ask(t, k, &keydpb.Request{Verb: &keydpb.Request_RotateKeyset{RotateKeyset: req}}).GetRotateKeyset()
	if resp == nil {
		return
	}
	if resp.Epoch != k.epoch+1 || len(resp.Sealed) != len(stay) || !slices.ContainsFunc(stay, func(l *modelLeaf) bool { return l.id.NodeID == k.id }) {
		t.Fatalf("rotated to epoch %d from %d for %d", resp.Epoch, k.epoch, len(resp.Sealed))
	}
	for _, l := range stay {
		if l.id.Role != manager || k.isRetiredInModel(l.id.KeydKey) || slices.ContainsFunc(req.Retired, func(r []byte) bool { return bytes.Equal(r, l.id.KeydKey) }) {
			t.Fatalf("a keyset went to %v %s", l.id.Role, l.id.NodeID)
		}
	}
	m.rotations = append(m.rotations, &modelRotation{resp, append(slices.Clone(k.retired), req.Retired...)})
}

func (m *machine) Adopt(t *rapid.T) {
	if len(m.rotations) == 0 {
		t.Skip("no rotation")
	}
	k, r := pick(t, m.keyds, "keyd"), pick(t, m.rotations, "rotation")
	sealed := pick(t, r.resp.Sealed, "sealed")
	epoch := r.resp.Epoch + pick(t, []uint64{0, 0, 0, 1, ^uint64(0)}, "off by")
	if m.ask(t, k, &keydpb.Request{Verb: &keydpb.Request_AdoptKeyset{AdoptKeyset: &keydpb.AdoptKeysetRequest{Epoch: epoch, SealedKeyset: sealed.Sealed}}}) == nil || epoch == k.epoch {
		return
	}
	if epoch < k.epoch || epoch != r.resp.Epoch || sealed.NodeId != k.id || slices.ContainsFunc(r.retired, func(x []byte) bool { return bytes.Equal(x, k.keydKey) }) {
		t.Fatalf("adopted epoch %d over %d, sealed to %s", epoch, k.epoch, sealed.NodeId)
	}
	k.epoch, k.issuer, k.retired = epoch, r.resp.Issuer, r.retired
}

func (m *machine) Restart(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "keyd")
	old := m.keyds[i]
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Dir: old.dir, Section: DefaultSection()})
	if err != nil {
		t.Fatal(err)
	}
	old.Server, old.locked = s, true
}

func (m *machine) Unlock(t *rapid.T) {
	k := pick(t, m.keyds, "keyd")
	other := autolock.NewOperatorKey()
	right := rapid.Bool().Draw(t, "right key")
	seed := other.Seed()
	if right {
		seed = k.key.Seed()
	}
	k.wrong.reset()
	_, err := k.unlockVerb(m.outer.Context(), &keydpb.Request{Verb: &keydpb.Request_Unlock{Unlock: &keydpb.UnlockRequest{Seed: seed}}})
	if (err == nil) != (right && k.locked) {
		t.Fatalf("unlock, right key %v, locked %v: %v", right, k.locked, err)
	}
	k.locked = k.locked && err != nil
}

// Check is what holds after every step.
func (m *machine) Check(t *rapid.T) {
	for _, k := range m.keyds {
		if st, err := k.status(); err != nil || (st.State == keydpb.LockState_LOCK_STATE_LOCKED) != k.locked || !k.locked && st.KeysetEpoch != k.epoch {
			t.Fatalf("status %v, %v; the model says locked %v, epoch %d", st, err, k.locked, k.epoch)
		}
		raw, err := os.ReadFile(filepath.Join(k.dir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		if err := new(journal).read(raw, k.journal.key); err != nil {
			t.Fatalf("the journal: %v", err)
		}
	}
}

// TestModel mixes true words and lies at random. Whatever redoubtd says, keyd
// signs nothing outside the profile, gives no keyset to who is no manager or was
// retired, never goes back an epoch, answers nothing while locked, and its
// journal holds together.
func TestModel(t *testing.T) {
	// A step costs signatures and synced writes; `-rapid.checks` asks for more.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("30"); err != nil {
			t.Fatal(err)
		}
		defer f.Value.Set(f.DefValue)
	}
	granted := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(t)
		defer m.close()
		rt.Repeat(rapid.StateMachineActions(m))
		for verb, n := range m.granted {
			granted[verb] += n
		}
	})
	for _, verb := range []string{"MintToken", "SignJoin", "SignRenew", "SignPromotion", "SealKeyset", "RotateKeyset", "AdoptKeyset"} {
		if granted[verb] == 0 {
			t.Errorf("%s was never granted: the model shows nothing of it", verb)
		}
	}
	t.Logf("granted: %v", granted)
}
