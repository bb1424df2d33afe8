package keyd

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

const (
	setExternal = keydpb.CAChange_CA_CHANGE_EXTERNAL
	noExternal  = keydpb.CAChange_CA_CHANGE_NO_EXTERNAL
)

// TestExternalIsJournalled: which CA was set is redoubtd's word, so the journal says it,
// by its certificate.
func TestExternalIsJournalled(t *testing.T) {
	o := newOrdering(t)
	journal, err := os.ReadFile(filepath.Join(o.dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("certificate %x", sha256.Sum256(o.signer.Raw)); !strings.Contains(string(journal), want) {
		t.Errorf("the journal has no %q", want)
	}
}

// TestExternal is a worker's renewal by an outside CA, from the order to the chain
// that nodes take, and the way back.
func TestExternal(t *testing.T) {
	o := newOrdering(t)
	order, key, csr := o.order(t)
	o.checkToken(t, order, csr)
	if order.Epoch != 2 {
		t.Errorf("an order of the keyset of epoch %d", order.Epoch)
	}
	leaf := o.leaf(o.identity(), key.Public(), order.NotAfter, nil)
	spki := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	known := func() bool {
		r, err := o.Journalled(t.Context(), &keydpb.JournalledRequest{Spki: [][]byte{spki[:]}, NodeId: o.identity().NodeID})
		if err != nil {
			t.Fatal(err)
		}
		return r.Known[0]
	}
	if known() {
		t.Error("a certificate that was ordered and not taken is in the journal")
	}
	chain, err := o.take(t, order, leaf, o.signer)
	if err != nil {
		t.Fatal(err)
	}
	if !known() {
		t.Error("a certificate that was taken is not in the journal")
	}
	certs, err := profile.ParseChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 3 || string(certs[2].Raw) != string(o.rootDER()) || !profile.IsExternal(certs[1]) {
		t.Fatalf("a chain of %d certificates that does not end in the cluster's root", len(certs))
	}
	// Who does not know the mark takes nothing below it.
	if verifies(t, leaf.Raw, o.rootDER(), certs[1].Raw) {
		t.Error("a standard verifier takes a leaf of the outside CA below the cluster's root")
	}
	if _, err := o.take(t, order, leaf, o.signer); codeName(err) != keydpb.Code_CODE_STALE_EPOCH {
		t.Errorf("an order was answered twice: %v", err)
	}
	// It renews by that one, across a restart.
	o.chain, o.key = chain, key
	o.restart(t)
	o.unlock(t)
	order, key, _ = o.order(t)
	if chain, err = o.take(t, order, o.leaf(o.identity(), key.Public(), order.NotAfter, nil)); err != nil {
		t.Fatal(err)
	}
	o.chain, o.key = chain, key

	// A manager's own stays the cluster's.
	own, err := o.SignOwn(t.Context(), &keydpb.SignOwnRequest{Csr: newCSR(t, newKey(t), nil)})
	if err != nil {
		t.Fatal(err)
	}
	leafOf(t, own.Leaf, o.rootDER())

	// And back: the leaf of the outside CA is renewed by the cluster's own.
	open, _, _ := o.order(t)
	if _, err := o.rotate(t, noExternal, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := o.take(t, open, leaf); codeName(err) != keydpb.Code_CODE_STALE_EPOCH {
		t.Errorf("an order of before the CA was taken away: %v", err)
	}
	csr = newCSR(t, newKey(t), nil)
	proof, err := profile.SignRenewProof(o.key, csr, nil, o.chain.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	resp, err := o.SignRenew(t.Context(), &keydpb.SignRenewRequest{Old: o.chain, Csr: csr, Proof: proof})
	if err != nil || resp.Order != nil {
		t.Fatalf("a renewal after the CA was taken away: %v %v", resp, err)
	}
	leafOf(t, resp.Leaf, o.rootDER())
	if _, err := o.rotate(t, noExternal, nil); codeName(err) != keydpb.Code_CODE_DENIED {
		t.Errorf("what is not there was taken away: %v", err)
	}
}

// checkToken reads an order's token as step-ca does.
func (o *ordering) checkToken(t *testing.T, order *keydpb.Order, csr []byte) {
	t.Helper()
	st, err := o.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(st.OrderKey)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(order.Token, ".")
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		t.Fatalf("%v: %d bytes", err, len(signature))
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		t.Error("the token is not signed by the key of orders")
	}
	var c claims
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(body, &c) != nil {
		t.Fatal("the token's claims cannot be read")
	}
	name, sum := "spiffe://"+o.init.ClusterId+"/node/"+o.nodeID, sha256.Sum256(csr)
	if c.Issuer != "redoubt" || c.Subject != name || len(c.SANs) != 1 || c.SANs[0] != name || c.Audience[0] != "https://ca.example:9000/1.0/sign" ||
		c.Request["x5rt#S256"] != base64.RawURLEncoding.EncodeToString(sum[:]) || c.Until-c.At > 60 {
		t.Errorf("the token says %+v", c)
	}
}

// TestExternalAnswers: whatever an outside CA answers but what was ordered is
// refused in one line, journalled as refused, and the worker keeps what it has.
func TestExternalAnswers(t *testing.T) {
	o := newOrdering(t)
	other := newOutside(t)
	alien, err := url.Parse("spiffe://" + o.init.ClusterId + "/node/" + newID())
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(*x509.Certificate)) func(profile.Identity, any, int64) []*x509.Certificate {
		return func(id profile.Identity, public any, until int64) []*x509.Certificate {
			return []*x509.Certificate{o.leaf(id, public, until, f), o.signer}
		}
	}
	for name, c := range map[string]struct {
		answer func(id profile.Identity, public any, until int64) []*x509.Certificate
		want   string
	}{
		"nothing": {func(profile.Identity, any, int64) []*x509.Certificate { return nil }, "a chain of 0"},
		"another key": {func(id profile.Identity, _ any, until int64) []*x509.Certificate {
			return []*x509.Certificate{o.leaf(id, newKey(t).Public(), until, nil)}
		}, "another key"},
		"another node":  {edit(func(c *x509.Certificate) { c.URIs = []*url.URL{alien} }), "another name"},
		"one name more": {edit(func(c *x509.Certificate) { c.DNSNames = []string{"ca.example"} }), "one URI"},
		"two nodes":     {edit(func(c *x509.Certificate) { c.URIs = append(c.URIs, alien) }), "one URI"},
		"a common name": {edit(func(c *x509.Certificate) { c.Subject.CommonName = "node" }), "template"},
		"longer":        {edit(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(2 * time.Second) }), "longer than asked for"},
		"dated back":    {edit(func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-2 * time.Hour) }), "dated back"},
		"not yet":       {edit(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "not good now"},
		"a CA":          {edit(func(c *x509.Certificate) { c.IsCA = true }), "CA:false"},
		"other usages":  {edit(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), "serverAuth and clientAuth"},
		"an extension": {edit(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: []int{1, 2, 3}, Value: []byte{5, 0}})
		}), "template"},
		"without a role": {edit(func(c *x509.Certificate) { c.ExtraExtensions = nil }), "template"},
		"renewable past keyd": {edit(func(c *x509.Certificate) {
			c.ExtraExtensions = slices.DeleteFunc(c.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal(profile.OIDProvisioner) })
		}), "disableSmallstepExtensions"},
		"another CA": {func(id profile.Identity, public any, until int64) []*x509.Certificate {
			return []*x509.Certificate{other.leaf(id, public, until, nil), other.signer, other.root}
		}, "not signed by the CA that was set"},
		"a manager": {func(id profile.Identity, public any, until int64) []*x509.Certificate {
			id.Role = manager
			return []*x509.Certificate{o.leaf(id, public, until, nil)}
		}, "another role"},
		"a TPM": {func(id profile.Identity, public any, until int64) []*x509.Certificate {
			id.TPM = append([]byte{0, 11}, make([]byte, 32)...)
			return []*x509.Certificate{o.leaf(id, public, until, nil)}
		}, "another TPM"},
		"another cluster": {func(id profile.Identity, public any, until int64) []*x509.Certificate {
			id.ClusterID = newID()
			return []*x509.Certificate{o.leaf(id, public, until, nil)}
		}, "another name"},
	} {
		order, key, _ := o.order(t)
		chain, err := o.take(t, order, c.answer(o.identity(), key.Public(), order.NotAfter)...)
		if chain != nil || codeName(err) != keydpb.Code_CODE_DENIED || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if _, err := o.take(t, order, o.leaf(o.identity(), key.Public(), order.NotAfter, nil)); codeName(err) != keydpb.Code_CODE_STALE_EPOCH {
			t.Errorf("%s: and then another answer: %v", name, err)
		}
	}
	// A manager of the outside CA's making gets no keyset.
	leaf := o.leaf(profile.Identity{ClusterID: o.init.ClusterId, NodeID: newID(), Role: manager, KeydKey: o.keydKey}, newKey(t).Public(), time.Now().Add(time.Hour).Unix(), nil)
	if _, err := o.SealKeyset(t.Context(), &keydpb.SealKeysetRequest{Manager: &profilepb.CertificateChain{Certificates: [][]byte{leaf.Raw}}}); codeName(err) != keydpb.Code_CODE_DENIED {
		t.Errorf("a keyset for a manager that the outside CA made: %v", err)
	}
}

// TestExternalSet: what cannot be used is refused when it is set.
func TestExternalSet(t *testing.T) {
	c, o := newCluster(t), newOutside(t)
	other := newOutside(t)
	for name, edit := range map[string]func(*keydpb.External){
		"http":               func(m *keydpb.External) { m.Url = "http://ca.example:9000" },
		"a path":             func(m *keydpb.External) { m.Url += "/x" },
		"a user":             func(m *keydpb.External) { m.Url = "https://a:b@ca.example" },
		"no host":            func(m *keydpb.External) { m.Url = "https://" },
		"no provisioner":     func(m *keydpb.External) { m.Provisioner = "" },
		"one certificate":    func(m *keydpb.External) { m.Chain = m.Chain[:1] },
		"another root":       func(m *keydpb.External) { m.Chain[1] = other.root.Raw },
		"the root alone":     func(m *keydpb.External) { m.Chain[0] = m.Chain[1] },
		"rubbish":            func(m *keydpb.External) { m.Chain[0] = []byte("rubbish") },
		"the cluster's own":  func(m *keydpb.External) { m.Chain = [][]byte{c.init.Manager.Certificates[1], c.rootDER()} },
		"a leaf":             func(m *keydpb.External) { m.Chain[0] = c.init.Manager.Certificates[0] },
		"a provisioner's \n": func(m *keydpb.External) { m.Provisioner = "a\nb" },
	} {
		m := o.message()
		edit(m)
		if _, err := c.rotate(t, setExternal, m); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := c.rotate(t, newIssuer, o.message()); codeName(err) != keydpb.Code_CODE_INVALID {
		t.Errorf("an external CA with another change: %v", err)
	}
	if _, err := c.rotate(t, setExternal, o.message()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.rotate(t, setExternal, other.message()); err != nil {
		t.Errorf("another one in its place: %v", err)
	}
}

// TestExternalRootChanges: the root is replaced, and the outside CA signs on, below
// the new one.
func TestExternalRootChanges(t *testing.T) {
	o := newOrdering(t)
	if _, err := o.rotate(t, newRoot, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := o.rotate(t, noExternal, nil); codeName(err) != keydpb.Code_CODE_DENIED {
		t.Errorf("the external CA was taken away while the root is replaced: %v", err)
	}
	switched, err := o.rotate(t, switchRoot, nil)
	if err != nil {
		t.Fatal(err)
	}
	order, key, _ := o.order(t)
	chain, err := o.take(t, order, o.leaf(o.identity(), key.Public(), order.NotAfter, nil))
	if err != nil {
		t.Fatal(err)
	}
	if string(chain.Certificates[1]) != string(switched.External) || string(chain.Certificates[2]) != string(switched.Root) {
		t.Error("the chain does not end in the root that signs")
	}
}

// TestExternalOrderOutlivesMasters: what signs is the same when former secrets
// masters are forgotten, so an order of before is answered; one of before a manager
// left is not, and that is not the answer's fault.
func TestExternalOrderOutlivesMasters(t *testing.T) {
	o := newOrdering(t)
	next := func() uint64 {
		t.Helper()
		r, err := o.RotateKeyset(t.Context(), &keydpb.RotateKeysetRequest{Managers: []*profilepb.CertificateChain{o.init.Manager}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: r.Epoch, SealedKeyset: sealedFor(t, r, o.cluster.nodeID)}); err != nil {
			t.Fatal(err)
		}
		return r.Epoch
	}
	epoch := next()
	order, key, _ := o.order(t)
	if err := o.DropMasters(t.Context(), epoch); err != nil {
		t.Fatal(err)
	}
	if _, err := o.take(t, order, o.leaf(o.identity(), key.Public(), order.NotAfter, nil)); err != nil {
		t.Errorf("after the former masters were forgotten: %v", err)
	}
	order, key, _ = o.order(t)
	next()
	if _, err := o.take(t, order, o.leaf(o.identity(), key.Public(), order.NotAfter, nil)); codeName(err) != keydpb.Code_CODE_STALE_EPOCH {
		t.Errorf("after a manager left: %v", err)
	}
}

// TestOrderKey: who left has another key of orders than those who stay.
func TestOrderKey(t *testing.T) {
	k := newCluster(t).server.secrets.keyset
	public := func(k *keyset) string {
		spki, err := k.orderPublic()
		if err != nil {
			t.Fatal(err)
		}
		return string(spki)
	}
	next, err := k.next(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer next.destroy()
	issuer, err := k.changed(time.Now(), newIssuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer issuer.destroy()
	if public(k) == public(next) || public(k) != public(issuer) {
		t.Error("the key of orders changes with the issuing CA, or does not with the masters")
	}
}
