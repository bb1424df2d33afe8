package keyd

import (
	"crypto/hpke"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// two is a cluster of two managers' keyds, with the second one's leaf.
type two struct {
	*cluster
	other     *instance
	otherLeaf *profilepb.CertificateChain
	otherID   string
}

func newTwo(t *testing.T) *two {
	t.Helper()
	c := newCluster(t)
	k := start(t, t.TempDir())
	keydKey, err := k.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	join := c.mint(t, manager, nil).join(t, newCSR(t, newKey(t), keydKey), newCSR(t, newKey(t), nil))
	signed, err := c.SignJoin(t.Context(), join)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.SealKeyset(t.Context(), &keydpb.SealKeysetRequest{Manager: signed.Leaf})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.ImportKeyset(t.Context(), &keydpb.ImportKeysetRequest{NodeId: join.NodeId, ClusterId: c.init.ClusterId,
		SealedKeyset: sealed.SealedKeyset, Slots: c.init.Slots, RootPin: profile.SPKIHash(c.server.secrets.keyset.root)}); err != nil {
		t.Fatal(err)
	}
	return &two{c, k, signed.Leaf, join.NodeId}
}

func keydKeyIn(t *testing.T, chain *profilepb.CertificateChain) []byte {
	t.Helper()
	certs, err := profile.ParseChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	id, err := profile.NodeFromCert(certs[0])
	if err != nil {
		t.Fatal(err)
	}
	return id.KeydKey
}

func sealedFor(t *testing.T, r *keydpb.RotateKeysetResponse, node string) []byte {
	t.Helper()
	for _, s := range r.GetSealed() {
		if s.GetNodeId() == node {
			return s.GetSealed()
		}
	}
	t.Fatalf("nothing is sealed to %s", node)
	return nil
}

func TestRotation(t *testing.T) {
	c := newTwo(t)
	both := []*profilepb.CertificateChain{c.init.Manager, c.otherLeaf}
	r, err := c.RotateKeyset(t.Context(), &keydpb.RotateKeysetRequest{Managers: both})
	if err != nil || r.Epoch != 2 || len(r.Sealed) != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	if string(r.FormerWorkloadIssuer) != string(c.server.secrets.keyset.workload.Raw) {
		t.Error("it does not tell the workload CA that goes")
	}
	old := c.mint(t, worker, nil)
	for id, k := range map[string]*instance{c.nodeID: c.instance, c.otherID: c.other} {
		resp, err := k.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: 2, SealedKeyset: sealedFor(t, r, id)})
		if err != nil || resp.Epoch != 2 {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	// What one signs, the other takes; what was signed before is void.
	resp, err := c.other.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, newKey(t), nil), nil))
	if err != nil {
		t.Fatal(err)
	}
	if string(resp.Leaf.Certificates[1]) != string(r.Issuer) {
		t.Error("the leaf is not of the new issuer")
	}
	leafOf(t, resp.Leaf, c.rootDER())
	_, err = c.SignJoin(t.Context(), old.join(t, newCSR(t, newKey(t), nil), nil))
	wantCode(t, err, keydpb.Code_CODE_DENIED)

	// It outlasts a restart, and the slots open it as before.
	c.restart(t)
	c.unlock(t)
	if st, err := c.Status(t.Context()); err != nil || st.KeysetEpoch != 2 {
		t.Errorf("after a restart: %v, %v", st, err)
	}
	// A leaf of the issuer before is renewed under the new one, in the same role.
	key := newKey(t)
	csr := newCSR(t, key, c.keydKey)
	proof, err := profile.SignRenewProof(c.leafKey, csr, nil, c.init.Manager.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := c.SignRenew(t.Context(), &keydpb.SignRenewRequest{Old: c.init.Manager, Csr: csr, Proof: proof})
	if err != nil || string(renewed.Leaf.Certificates[1]) != string(r.Issuer) {
		t.Errorf("renewal of a leaf of before: %v", err)
	}
}

// A redoubtd that lies about who stays, who left, or what it carries gets
// nothing; told honestly the same call works.
func TestRotateRefusesLies(t *testing.T) {
	c, foreign := newTwo(t), newCluster(t)
	workerLeaf, err := c.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, newKey(t), nil), nil))
	if err != nil {
		t.Fatal(err)
	}
	mine, other, otherKey := c.init.Manager, c.otherLeaf, keydKeyIn(t, c.otherLeaf)
	chains := func(c ...*profilepb.CertificateChain) []*profilepb.CertificateChain { return c }
	for name, tc := range map[string]struct {
		req  *keydpb.RotateKeysetRequest
		want keydpb.Code
	}{
		"nobody stays":                {&keydpb.RotateKeysetRequest{}, keydpb.Code_CODE_DENIED},
		"without this manager":        {&keydpb.RotateKeysetRequest{Managers: chains(other)}, keydpb.Code_CODE_DENIED},
		"a worker stays":              {&keydpb.RotateKeysetRequest{Managers: chains(mine, workerLeaf.Leaf)}, keydpb.Code_CODE_DENIED},
		"a boot leaf stays":           {&keydpb.RotateKeysetRequest{Managers: chains(mine, c.init.Boot)}, keydpb.Code_CODE_DENIED},
		"another cluster's manager":   {&keydpb.RotateKeysetRequest{Managers: chains(mine, foreign.init.Manager)}, keydpb.Code_CODE_DENIED},
		"the same one twice":          {&keydpb.RotateKeysetRequest{Managers: chains(mine, mine)}, keydpb.Code_CODE_INVALID},
		"stays and leaves":            {&keydpb.RotateKeysetRequest{Managers: chains(mine, other), Retired: [][]byte{otherKey}}, keydpb.Code_CODE_INVALID},
		"retires what is no key":      {&keydpb.RotateKeysetRequest{Managers: chains(mine), Retired: [][]byte{[]byte("x")}}, keydpb.Code_CODE_INVALID},
		"garbage for a manager":       {&keydpb.RotateKeysetRequest{Managers: chains(mine, &profilepb.CertificateChain{Certificates: [][]byte{[]byte("x")}})}, keydpb.Code_CODE_INVALID},
		"more managers than there be": {&keydpb.RotateKeysetRequest{Managers: make([]*profilepb.CertificateChain, maxManagers+1)}, keydpb.Code_CODE_INVALID},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := c.RotateKeyset(t.Context(), tc.req)
			wantCode(t, err, tc.want)
			if resp != nil {
				t.Error("it got an answer")
			}
		})
	}
	// The negative proof, which retires the second manager; from then on nothing
	// brings it a keyset.
	r, err := c.RotateKeyset(t.Context(), &keydpb.RotateKeysetRequest{Managers: chains(mine), Retired: [][]byte{otherKey}})
	if err != nil || len(r.Sealed) != 1 {
		t.Fatal(err)
	}
	sealed := sealedFor(t, r, c.nodeID)
	_, err = c.other.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: r.Epoch, SealedKeyset: sealed})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	if _, err := c.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: r.Epoch, SealedKeyset: sealed}); err != nil {
		t.Fatal(err)
	}
	_, err = c.RotateKeyset(t.Context(), &keydpb.RotateKeysetRequest{Managers: chains(mine, other)})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	_, err = c.SealKeyset(t.Context(), &keydpb.SealKeysetRequest{Manager: other})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
}

// Nobody without a keyset of this cluster can make one that is adopted, and no
// keyset takes an earlier one's place.
func TestAdoptRefusesLies(t *testing.T) {
	c, foreign := newTwo(t), newCluster(t)
	r, err := c.RotateKeyset(t.Context(), &keydpb.RotateKeysetRequest{Managers: []*profilepb.CertificateChain{c.init.Manager, c.otherLeaf}})
	if err != nil {
		t.Fatal(err)
	}
	good := sealedFor(t, r, c.nodeID)
	public, err := hpke.MLKEM768X25519().NewPublicKey(c.keydKey)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(epoch uint64, plain []byte) []byte {
		sealed, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), rotationInfo(c.init.ClusterId, c.nodeID, epoch), plain)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	// A keyset of the liar's own making in this cluster's name: with this
	// cluster's own root certificate, but not its key.
	f := foreign.server.secrets.keyset
	ours := c.server.secrets.keyset
	selfMade, renamed := *f, *f
	selfMade.clusterID, selfMade.epoch, selfMade.root = ours.clusterID, 2, ours.root
	renamed.clusterID, renamed.epoch = ours.clusterID, 2 // whole in itself, but with a root of its own
	written := func(k *keyset) []byte {
		b := []byte(keysetMagic)
		for _, p := range k.parts() {
			b = lp.Append(b, p)
		}
		return b
	}
	for name, tc := range map[string]struct {
		epoch  uint64
		sealed []byte
		want   keydpb.Code
	}{
		"epoch 0":                       {0, good, keydpb.Code_CODE_STALE_EPOCH},
		"another epoch than sealed for": {3, good, keydpb.Code_CODE_DENIED},
		"sealed to another manager":     {2, sealedFor(t, r, c.otherID), keydpb.Code_CODE_DENIED},
		"self-made with our root":       {2, seal(2, written(&selfMade)), keydpb.Code_CODE_DENIED},
		"self-made with its own root":   {2, seal(2, written(&renamed)), keydpb.Code_CODE_DENIED},
		"the present one, renumbered":   {7, seal(7, append([]byte(nil), ours.buf.Bytes()...)), keydpb.Code_CODE_DENIED},
		"garbage":                       {2, []byte("x"), keydpb.Code_CODE_DENIED},
		"nothing":                       {2, nil, keydpb.Code_CODE_DENIED},
		"too much":                      {2, make([]byte, maxSealedKeyset+1), keydpb.Code_CODE_INVALID},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: tc.epoch, SealedKeyset: tc.sealed})
			wantCode(t, err, tc.want)
			if st, err := c.Status(t.Context()); err != nil || st.KeysetEpoch != 1 {
				t.Errorf("the epoch is %d: %v", st.GetKeysetEpoch(), err)
			}
		})
	}
	if _, err := c.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: 2, SealedKeyset: good}); err != nil {
		t.Fatal(err)
	}
	_, err = c.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: 1, SealedKeyset: good})
	wantCode(t, err, keydpb.Code_CODE_STALE_EPOCH)
}

// A promotion is redoubtd's word in one thing only: that it is wanted.
func TestPromotionRefusesLies(t *testing.T) {
	c, foreign := newCluster(t), newCluster(t)
	leafKey := newKey(t)
	joined := func(c *cluster) *profilepb.CertificateChain {
		resp, err := c.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, leafKey, nil), nil))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Leaf
	}
	mine, theirs := joined(c), joined(foreign)
	fresh := start(t, t.TempDir())
	keydKey, err := fresh.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	csr, bootCSR := newCSR(t, newKey(t), keydKey), newCSR(t, newKey(t), nil)
	ask := func(edit func(r *keydpb.SignPromotionRequest)) *keydpb.SignPromotionRequest {
		r := &keydpb.SignPromotionRequest{Old: mine, Csr: csr, BootCsr: bootCSR}
		edit(r)
		if r.Proof == nil {
			var err error
			if r.Proof, err = profile.SignPromotionProof(leafKey, r.Csr, r.BootCsr, r.Old.GetCertificates()[0]); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	renewal, err := profile.SignRenewProof(leafKey, csr, bootCSR, mine.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		lie  func(r *keydpb.SignPromotionRequest)
		want keydpb.Code
	}{
		"another cluster's worker":     {func(r *keydpb.SignPromotionRequest) { r.Old = theirs }, keydpb.Code_CODE_DENIED},
		"a manager already":            {func(r *keydpb.SignPromotionRequest) { r.Old = c.init.Manager }, keydpb.Code_CODE_DENIED},
		"a boot leaf":                  {func(r *keydpb.SignPromotionRequest) { r.Old = c.init.Boot }, keydpb.Code_CODE_DENIED},
		"the proof of a renewal":       {func(r *keydpb.SignPromotionRequest) { r.Proof = renewal }, keydpb.Code_CODE_DENIED},
		"no keyd key":                  {func(r *keydpb.SignPromotionRequest) { r.Csr = newCSR(t, newKey(t), nil) }, keydpb.Code_CODE_INVALID},
		"this manager's own keyd key":  {func(r *keydpb.SignPromotionRequest) { r.Csr = newCSR(t, newKey(t), c.keydKey) }, keydpb.Code_CODE_DENIED},
		"the key of the leaf in use":   {func(r *keydpb.SignPromotionRequest) { r.Csr = newCSR(t, leafKey, keydKey) }, keydpb.Code_CODE_DENIED},
		"no boot leaf":                 {func(r *keydpb.SignPromotionRequest) { r.BootCsr = nil }, keydpb.Code_CODE_INVALID},
		"a request put in afterwards":  {func(r *keydpb.SignPromotionRequest) { r.Proof = make([]byte, 70) }, keydpb.Code_CODE_DENIED},
		"garbage for the certificates": {func(r *keydpb.SignPromotionRequest) { r.Csr = []byte("x") }, keydpb.Code_CODE_INVALID},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := c.SignPromotion(t.Context(), ask(tc.lie))
			wantCode(t, err, tc.want)
			if resp != nil {
				t.Error("it got an answer")
			}
		})
	}
	resp, err := c.SignPromotion(t.Context(), ask(func(*keydpb.SignPromotionRequest) {}))
	if err != nil {
		t.Fatal(err)
	}
	id, err := profile.NodeFromCert(leafOf(t, resp.Leaf, c.rootDER()))
	if err != nil || id.Role != manager || string(id.KeydKey) != string(keydKey) {
		t.Errorf("promoted to %v, %v", id.Role, err)
	}
}

// Demotion gives less than its holder has, never more.
func TestDemotion(t *testing.T) {
	c := newCluster(t)
	for name, tc := range map[string]struct {
		csr, boot []byte
		demote    bool
		want      keydpb.Code
		role      profilepb.Role
	}{
		"demoted":                   {newCSR(t, newKey(t), nil), nil, true, 0, worker},
		"demoted, keeping the key":  {newCSR(t, newKey(t), c.keydKey), nil, true, keydpb.Code_CODE_DENIED, 0},
		"demoted, with a boot leaf": {newCSR(t, newKey(t), nil), newCSR(t, newKey(t), nil), true, keydpb.Code_CODE_DENIED, 0},
		"a demotion as a renewal":   {newCSR(t, newKey(t), nil), nil, false, keydpb.Code_CODE_DENIED, 0},
	} {
		t.Run(name, func(t *testing.T) {
			proof, err := profile.SignRenewProof(c.leafKey, tc.csr, tc.boot, c.init.Manager.Certificates[0])
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.SignRenew(t.Context(), &keydpb.SignRenewRequest{Old: c.init.Manager, Csr: tc.csr, BootCsr: tc.boot, Proof: proof, Demote: tc.demote})
			if tc.want != 0 {
				wantCode(t, err, tc.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			id, err := profile.NodeFromCert(leafOf(t, resp.Leaf, c.rootDER()))
			if err != nil || id.Role != tc.role || id.NodeID != c.nodeID {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
	j, err := os.ReadFile(filepath.Join(c.dir, "journal"))
	if err != nil || !strings.Contains(string(j), "sign-demotion") {
		t.Errorf("the journal does not say so: %v", err)
	}
}
