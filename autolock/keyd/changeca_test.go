package keyd

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"encoding/pem"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

const (
	newIssuer  = keydpb.CAChange_CA_CHANGE_ISSUER
	newRoot    = keydpb.CAChange_CA_CHANGE_NEW_ROOT
	switchRoot = keydpb.CAChange_CA_CHANGE_SWITCH_ROOT
	dropRoot   = keydpb.CAChange_CA_CHANGE_DROP_ROOT
)

func (c *two) all() []*profilepb.CertificateChain {
	return []*profilepb.CertificateChain{c.init.Manager, c.otherLeaf}
}

// change makes one step and has those keyds adopt it.
func (c *two) change(t *testing.T, what keydpb.CAChange, adopt ...*instance) *keydpb.RotateCAResponse {
	t.Helper()
	r, err := c.RotateCA(t.Context(), &keydpb.RotateCARequest{Change: what, Managers: c.all()})
	if err != nil {
		t.Fatalf("%v: %v", what, err)
	}
	for _, k := range adopt {
		c.adopt(t, k, r)
	}
	return r
}

func (c *two) adopt(t *testing.T, k *instance, r *keydpb.RotateCAResponse) {
	t.Helper()
	id := c.otherID
	if k == c.instance {
		id = c.nodeID
	}
	for _, s := range r.GetSealed() {
		if s.GetNodeId() != id {
			continue
		}
		if _, err := k.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: r.GetEpoch(), SealedKeyset: s.GetSealed()}); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("nothing is sealed to %s", id)
}

// own is a new leaf of the first manager from its own keyd.
func (c *two) own(t *testing.T) *profilepb.CertificateChain {
	t.Helper()
	resp, err := c.SignOwn(t.Context(), &keydpb.SignOwnRequest{Csr: newCSR(t, newKey(t), nil)})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetLeaf()
}

// verifies reports whether openssl and the standard library take the leaf below
// that root alone, given what else was presented.
func verifies(t *testing.T, leaf, root []byte, between ...[]byte) bool {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, ders ...[]byte) string {
		var out []byte
		for _, der := range ders {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := []string{"verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", write("root", root), "-untrusted", write("between", between...), write("leaf", leaf)}
	out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput()
	cert, perr := x509.ParseCertificate(leaf)
	if perr != nil {
		t.Fatal(perr)
	}
	pool, mid := x509.NewCertPool(), x509.NewCertPool()
	r, _ := x509.ParseCertificate(root)
	pool.AddCert(r)
	for _, der := range between {
		m, _ := x509.ParseCertificate(der)
		mid.AddCert(m)
	}
	_, verr := cert.Verify(x509.VerifyOptions{Roots: pool, Intermediates: mid, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if (err == nil) != (verr == nil) {
		t.Errorf("openssl says %v (%s), the standard library %v", err, out, verr)
	}
	return verr == nil
}

// TestRootChanges is the replacement of a root, step by step, as whoever trusts
// the one root, the other or both sees it.
func TestRootChanges(t *testing.T) {
	c := newTwo(t)
	old := c.rootDER()
	token := c.mint(t, worker, nil)
	before := c.own(t)
	master := string(c.server.secrets.keyset.master.key)
	audit := string(c.server.secrets.keyset.audit)

	begun := c.change(t, newRoot, c.instance, c.other)
	if string(begun.Root) != string(old) || len(begun.Other) == 0 || len(begun.Cross) != 1 {
		t.Fatalf("a second root: %v", begun)
	}
	// The old one signs; tokens of before are void, those of now are not.
	if leaf := c.own(t); string(leaf.Certificates[2]) != string(old) || string(leaf.Certificates[1]) != string(before.Certificates[1]) {
		t.Error("the second root signs before it should")
	}
	_, err := c.SignJoin(t.Context(), token.join(t, newCSR(t, newKey(t), nil), nil))
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	token = c.mint(t, worker, nil)

	switched := c.change(t, switchRoot, c.instance, c.other)
	if string(switched.Root) != string(begun.Other) || string(switched.Other) != string(old) || string(switched.Issuer) == string(before.Certificates[1]) {
		t.Fatal("the other root does not sign")
	}
	now := c.own(t)
	if !verifies(t, now.Certificates[0], begun.Other, now.Certificates[1]) {
		t.Error("the new leaf is not below the new root")
	}
	if verifies(t, now.Certificates[0], old, now.Certificates[1]) {
		t.Error("the new leaf is below the old root without the cross certificate")
	}
	if !verifies(t, now.Certificates[0], old, now.Certificates[1], begun.Cross[0]) {
		t.Error("who trusts the old root does not take the new leaf with the cross certificate")
	}
	// There is no way from the new root to what the old one signs.
	if verifies(t, before.Certificates[0], begun.Other, append([][]byte{before.Certificates[1], old}, switched.Cross...)...) {
		t.Error("what the old root signed is below the new one")
	}
	resp, err := c.other.SignJoin(t.Context(), token.join(t, newCSR(t, newKey(t), nil), nil))
	if err != nil || string(resp.Leaf.Certificates[2]) != string(begun.Other) {
		t.Errorf("a token of after the rotation began: %v", err)
	}

	dropped := c.change(t, dropRoot, c.instance, c.other)
	if len(dropped.Other) != 0 || string(dropped.Root) != string(begun.Other) || string(dropped.Issuer) != string(switched.Issuer) {
		t.Error("the old root is not gone")
	}
	for _, k := range []*instance{c.instance, c.other} {
		if ks := k.server.secrets.keyset; ks.other != nil || ks.otherKey != nil || len(ks.formerRoots) != 1 {
			t.Error("a keyd has the old root's key")
		}
	}
	// The secrets are wrapped as before, and the audit log goes on.
	if string(c.server.secrets.keyset.master.key) != master || string(c.server.secrets.keyset.audit) != audit {
		t.Error("a rotation of the CAs changed what is no CA's")
	}
	// A leaf of before is still renewed, and what the old root's key signs itself is not.
	c.restart(t)
	c.unlock(t)
	key := newKey(t)
	csr := newCSR(t, key, c.keydKey)
	proof, err := profile.SignRenewProof(c.leafKey, csr, nil, c.init.Manager.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := c.SignRenew(t.Context(), &keydpb.SignRenewRequest{Old: c.init.Manager, Csr: csr, Proof: proof})
	if err != nil || string(renewed.Leaf.Certificates[2]) != string(begun.Other) {
		t.Errorf("renewal of a leaf below the root that is gone: %v", err)
	}
}

// A manager that was away takes the newest keyset whatever it missed; a root that
// nobody it knows certified it does not take.
func TestRootChangesMissed(t *testing.T) {
	c := newTwo(t)
	var last *keydpb.RotateCAResponse
	c.change(t, newIssuer, c.instance)
	for range 2 { // two roots come and go
		c.change(t, newRoot, c.instance)
		c.change(t, switchRoot, c.instance)
		last = c.change(t, dropRoot, c.instance)
	}
	c.adopt(t, c.other, last)
	if string(c.other.server.secrets.keyset.root.Raw) != string(last.Root) {
		t.Error("the manager that was away has another root")
	}

	stranger := newTwo(t)
	own := stranger.server.secrets.keyset
	foreign := *c.server.secrets.keyset
	foreign.clusterID = own.clusterID
	if foreign.succeeds(own) {
		t.Error("a root that nobody certified is taken")
	}
	// A certificate of the foreign root by itself, or of another key, is none.
	foreign.cross = append(foreign.cross, foreign.root)
	if foreign.succeeds(own) {
		t.Error("a root that certifies itself is taken")
	}
	made, err := own.changed(time.Now(), newRoot, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer made.destroy()
	foreign.cross = made.cross
	if foreign.succeeds(own) {
		t.Error("a cross certificate of another root counts")
	}
}

// Each step is refused where it is not the next, and none changes this keyd.
func TestRootChangesRefused(t *testing.T) {
	c := newTwo(t)
	ask := func(what keydpb.CAChange) error {
		_, err := c.RotateCA(t.Context(), &keydpb.RotateCARequest{Change: what, Managers: c.all()})
		return err
	}
	wantCode(t, ask(switchRoot), keydpb.Code_CODE_DENIED)
	wantCode(t, ask(dropRoot), keydpb.Code_CODE_DENIED)
	wantCode(t, ask(keydpb.CAChange_CA_CHANGE_UNSPECIFIED), keydpb.Code_CODE_INVALID)
	wantCode(t, ask(99), keydpb.Code_CODE_INVALID)
	for range 3 { // asked again: another candidate, and nothing has changed
		if r := c.change(t, newRoot); r.Epoch != 2 {
			t.Errorf("epoch %d", r.Epoch)
		}
	}
	if st, err := c.Status(t.Context()); err != nil || st.KeysetEpoch != 1 {
		t.Errorf("%v, %v", st, err)
	}
	c.change(t, newRoot, c.instance)
	wantCode(t, ask(newRoot), keydpb.Code_CODE_DENIED)
	// Given up before and after the switch.
	if r := c.change(t, dropRoot); string(r.Root) != string(c.rootDER()) || len(r.Other) != 0 {
		t.Error("given up before the switch, another root stays")
	}
	c.change(t, switchRoot, c.instance)
	if r := c.change(t, switchRoot, c.instance); string(r.Root) != string(c.rootDER()) {
		t.Error("the old root does not sign again")
	}
	if r := c.change(t, dropRoot, c.instance); string(r.Root) != string(c.rootDER()) || len(r.Other) != 0 {
		t.Error("the new root is not gone")
	}
	journal, err := os.ReadFile(filepath.Join(c.dir, journalName))
	if err != nil || !strings.Contains(string(journal), `"rotate-ca"`) || !strings.Contains(string(journal), changes[switchRoot]) {
		t.Errorf("the journal says nothing of it: %v", err)
	}
}

// What was signed is in the journal by its key, also after a restart, and what
// was not is not.
func TestJournalled(t *testing.T) {
	c := newTwo(t)
	certs, err := profile.ParseChain(c.own(t))
	if err != nil {
		t.Fatal(err)
	}
	own, err := profile.NodeFromCert(certs[0])
	if err != nil {
		t.Fatal(err)
	}
	ask := &keydpb.JournalledRequest{Spki: [][]byte{profile.SPKIHash(certs[0]), make([]byte, 32), nil}, NodeId: own.NodeID}
	for range 2 {
		r, err := c.Journalled(t.Context(), ask)
		if err != nil || len(r.Known) != 3 || !r.Known[0] || r.Known[1] || r.Known[2] {
			t.Errorf("%v, %v", r, err)
		}
		// What was signed for one node is not a certificate that names another.
		r, err = c.Journalled(t.Context(), &keydpb.JournalledRequest{Spki: ask.Spki, NodeId: ident.New()})
		if err != nil || slices.Contains(r.Known, true) {
			t.Errorf("another node's: %v, %v", r, err)
		}
		_, err = c.Journalled(t.Context(), &keydpb.JournalledRequest{Spki: ask.Spki})
		wantCode(t, err, keydpb.Code_CODE_INVALID)
		c.restart(t)
		c.unlock(t)
	}
}

// The cluster's life for workers' leaves is heeded within bounds.
func TestWorkerLeafSeconds(t *testing.T) {
	c := newCluster(t)
	for seconds, want := range map[uint32]time.Duration{0: profile.LeafLife, 2 * 3600: 2 * time.Hour} {
		req := c.mint(t, worker, nil).join(t, newCSR(t, newKey(t), nil), nil)
		req.WorkerLeafSeconds = seconds
		resp, err := c.SignJoin(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		leaf := leafOf(t, resp.Leaf, c.rootDER())
		if life := leaf.NotAfter.Sub(leaf.NotBefore) - profile.Backdate; life != want {
			t.Errorf("%d seconds give %v", seconds, life)
		}
	}
	for _, seconds := range []uint32{1, 3599, 90*24*3600 + 1} {
		req := c.mint(t, worker, nil).join(t, newCSR(t, newKey(t), nil), nil)
		req.WorkerLeafSeconds = seconds
		_, err := c.SignJoin(t.Context(), req)
		wantCode(t, err, keydpb.Code_CODE_DENIED)
	}
}
