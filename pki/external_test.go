package pki_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// outsideCA is another CA, by a certificate of its own and by the one that the
// cluster's root gave it.
func outsideCA(t *testing.T, rootKey *ecdsa.PrivateKey, root *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Outside"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign, ExtraExtensions: []pkix.Extension{profile.ExternalMark()}}
	return key, sign(t, c, root, key.Public(), rootKey)
}

func sign(t *testing.T, c, parent *x509.Certificate, public any, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestExternalIsForWorkers: below a CA that is not the cluster's own a worker is
// believed, and nobody else, by managers as by nodes without the cluster record.
func TestExternalIsForWorkers(t *testing.T) {
	rootKey, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cluster := ident.New()
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root"}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: 2,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	root := sign(t, self, self, rootKey.Public(), rootKey)
	key, issuer := outsideCA(t, rootKey, root)
	own := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Issuing"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	ownKey, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	owns := sign(t, own, root, ownKey.Public(), rootKey)
	c := &pkipb.Cluster{ClusterId: cluster, Roots: [][]byte{root.Raw}, Issuers: [][]byte{owns.Raw},
		External: &pkipb.External{Issuer: issuer.Raw}}
	manages, err := pki.TrustFromCluster(c)
	if err != nil {
		t.Fatal(err)
	}
	c.External = nil
	without, err := pki.TrustFromCluster(c)
	if err != nil {
		t.Fatal(err)
	}
	works := pki.Trust{ClusterID: cluster, Roots: []*x509.Certificate{root}, AnyIssuer: true}
	stepCA := pkix.Extension{Id: profile.OIDProvisioner, Value: []byte{0x30, 0}}
	everybody := pki.Expect{Roles: []profilepb.Role{worker, manager, profilepb.Role_ROLE_BOOT}}
	for _, role := range everybody.Roles {
		leafKey, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		template := profile.LeafTemplate(profile.Identity{ClusterID: cluster, NodeID: ident.New(), Role: role}, time.Now(), 30*time.Minute)
		template.SerialNumber = big.NewInt(3)
		for _, extra := range []bool{false, true} { // below the cluster's own
			plain := *template
			if extra {
				plain.ExtraExtensions = append(slices.Clip(plain.ExtraExtensions), stepCA)
			}
			if _, err := manages.Verify([]*x509.Certificate{sign(t, &plain, owns, leafKey.Public(), ownKey), owns, root}, everybody); (err == nil) == extra {
				t.Errorf("a %s of the cluster's own CA, with an extension of step-ca: %t: %v", profile.RoleName(role), extra, err)
			}
		}
		bare := []*x509.Certificate{sign(t, template, issuer, leafKey.Public(), key), issuer, root} // step-ca renews it for whoever has its key
		for name, trust := range map[string]pki.Trust{"a manager": manages, "a worker": works} {
			if _, err := trust.Verify(bare, everybody); err == nil {
				t.Errorf("%s takes a %s of the external CA without step-ca's extension", name, profile.RoleName(role))
			}
		}
		template.ExtraExtensions = append(template.ExtraExtensions, stepCA)
		shown := []*x509.Certificate{sign(t, template, issuer, leafKey.Public(), key), issuer, root}
		for name, trust := range map[string]pki.Trust{"a manager": manages, "a worker": works} {
			for range 2 { // the second time it is remembered
				p, err := trust.Verify(shown, everybody)
				if (err == nil) != (role == worker) || err == nil && !p.External {
					t.Errorf("%s meets a %s of the external CA: %v, marked: %t", name, profile.RoleName(role), err, p != nil && p.External)
				}
			}
		}
		if _, err := without.Verify(shown, everybody); !errors.Is(err, pki.ErrUntrusted) {
			t.Errorf("a %s of a CA that is not in force: %v", profile.RoleName(role), err)
		}
	}
}

// TestExternalComesAndGoes: workers are to take another certificate when the
// external CA comes, when the root is replaced below it, and when it goes; managers
// are not. Its certificate of before is a former issuer's.
func TestExternalComesAndGoes(t *testing.T) {
	c := newCrew(t)
	c.must(func(tx *raftstore.Tx) error { // the crew's leaves are of the issuer in force
		for _, n := range []*pkipb.Node{c.a, c.b, c.w} {
			n, _ := store.Nodes.Get(tx, n.GetId())
			n.LeafIssuer, n.BootIssuer = pki.ActiveIssuer(c.Cluster()), pki.ActiveIssuer(c.Cluster())
			if err := store.Nodes.Put(tx, n); err != nil {
				return err
			}
		}
		return nil
	})
	record := func() (rec *pkipb.Cluster) {
		t.Helper()
		if err := c.s.View(func(r *raftstore.ReadTx) (err error) { rec, err = store.GetCluster(r); return err }); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	due := func(want bool) {
		t.Helper()
		rec := record()
		if err := c.s.View(func(r *raftstore.ReadTx) error {
			for n := range store.Nodes.All(r) {
				if got := pki.NeedsReissue(rec, n); got != (want && n.GetRole() == worker) {
					t.Errorf("a %s needs another certificate: %t", profile.RoleName(n.GetRole()), got)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	step := func(do func(*raftstore.Tx, pki.NextCA) error, next pki.NextCA) error {
		next.Epoch = pki.KeysetEpoch(record()) + 1
		return c.s.Update(t.Context(), func(tx *raftstore.Tx) error { return do(tx, next) })
	}
	first, second := []byte("the first certificate"), []byte("the second")
	set := pki.SetExternal(&pkipb.External{Url: "https://ca", Provisioner: "p"})
	if err := step(pki.RemoveExternal, pki.NextCA{}); !errors.Is(err, pki.ErrRotated) {
		t.Errorf("what is not there goes: %v", err)
	}
	if err := step(set, pki.NextCA{}); !errors.Is(err, pki.ErrRotated) {
		t.Errorf("it comes without a certificate: %v", err)
	}
	if err := step(set, pki.NextCA{External: first}); err != nil {
		t.Fatal(err)
	}
	due(true)
	if err := step(set, pki.NextCA{External: second}); err != nil {
		t.Fatal(err)
	}
	if rec := record(); string(rec.GetFormerIssuers()[0]) != string(first) || string(rec.GetExternal().GetIssuer()) != string(second) || rec.GetExternal().GetUrl() != "https://ca" {
		t.Errorf("the record says %v", rec.GetExternal())
	}

	// What becomes of its certificates is written down once.
	note := func(failure string) {
		c.must(func(tx *raftstore.Tx) error { return pki.NoteExternal(tx, pki.KeysetEpoch(record()), failure) })
	}
	note("it took\ntoo long")
	failed := record()
	if failed.GetExternal().GetFailure() != "it took too long" || failed.GetExternal().GetFailedAt() == 0 {
		t.Errorf("the record says %v", failed.GetExternal())
	}
	note(strings.Repeat("another ", 1000))
	if record().GetMeta().GetVersion() != failed.GetMeta().GetVersion() {
		t.Error("another failure a moment later is written down")
	}
	note("")
	if got := record().GetExternal(); got.GetFailure() != "" {
		t.Errorf("it certifies again: %v", got)
	}
	again := record()
	note("and fails")
	if record().GetMeta().GetVersion() != again.GetMeta().GetVersion() {
		t.Error("a failure a moment after a success is written down")
	}
	if later := time.Unix(again.GetExternal().GetFailedAt(), 0).Add(time.Minute); !pki.ExternalNews(again, pki.KeysetEpoch(again), "and fails", later) {
		t.Error("a failure a while after a success is no news")
	}
	if err := step(pki.RemoveExternal, pki.NextCA{}); err != nil {
		t.Fatal(err)
	}
	if rec := record(); rec.GetExternal() != nil || string(rec.GetFormerIssuers()[0]) != string(second) {
		t.Errorf("the record says %v", rec)
	}
	due(false)
}

// TestLeavingChangesTheKeyOfOrders: from the transaction that a manager leaves with the
// external CA counts as certifying nobody, in one line with the remedy, until the first
// order of the keyset that is in force; one of before says nothing.
func TestLeavingChangesTheKeyOfOrders(t *testing.T) {
	for name, how := range map[string]pki.Leaving{"removed": {}, "removed as compromised": {Compromised: true}, "demoted": {Demote: true}} {
		t.Run(name, func(t *testing.T) {
			c := newCrew(t)
			c.must(func(tx *raftstore.Tx) error {
				return pki.SetExternal(&pkipb.External{Url: "https://ca", Provisioner: "p"})(tx, pki.NextCA{Epoch: 2, External: []byte("issuer")})
			})
			how.Next = c.next(c.b, 3)
			if err := c.leave(c.b.GetId(), how); err != nil {
				t.Fatal(err)
			}
			note := func(epoch uint64, failure string) *pkipb.External {
				c.must(func(tx *raftstore.Tx) error { return pki.NoteExternal(tx, epoch, failure) })
				cl, _ := c.read()
				return cl.GetExternal()
			}
			for _, said := range []string{"", "it refuses"} {
				if e := note(2, said); e.GetFailedAt() == 0 || !strings.Contains(e.GetFailure(), "`redoubt ca external provisioner`") || strings.Contains(e.GetFailure(), "\n") {
					t.Fatalf("an order of before said %q: the record says %v", said, e)
				}
			}
			if e := note(3, ""); e.GetFailure() != "" {
				t.Errorf("it certifies again: %v", e)
			}
		})
	}
	c := newCrew(t)
	if err := c.leave(c.b.GetId(), pki.Leaving{Next: c.next(c.b, 2)}); err != nil {
		t.Fatal(err)
	}
	if cl, _ := c.read(); cl.GetExternal() != nil {
		t.Errorf("an external CA out of nothing: %v", cl.GetExternal())
	}
}
