package pki_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// TestAlarmsOfTwoCAs: who has the external CA's key pushes no alarm about the cluster's
// own off the record, and the other way round; each kind ends with what it is about, and
// names the remedy that ends it.
func TestAlarmsOfTwoCAs(t *testing.T) {
	c, outside := newCrew(t), pkitest.New(t)
	step := func(do func(*raftstore.Tx, pki.NextCA) error, next pki.NextCA) {
		t.Helper()
		cl, _ := c.read()
		next.Epoch = pki.KeysetEpoch(cl) + 1
		c.must(func(tx *raftstore.Tx) error { return do(tx, next) })
	}
	set := func(issuer []byte) {
		step(pki.SetExternal(&pkipb.External{Url: "https://ca", Provisioner: "p"}), pki.NextCA{External: issuer})
	}
	set(outside.Issuer.Raw)
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	forge := func(ca *pkitest.CA, fresh bool) {
		t.Helper()
		k := key
		if fresh {
			if k, err = pki.NewKey(); err != nil {
				t.Fatal(err)
			}
		}
		id := profile.Identity{ClusterID: c.ClusterID, NodeID: ident.New(), Role: worker}
		chain, err := ca.Issue(id, k.Public(), time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := profile.ParseChain(chain)
		if err != nil {
			t.Fatal(err)
		}
		if id, err = profile.NodeFromCert(certs[0]); err != nil {
			t.Fatal(err)
		}
		c.must(func(tx *raftstore.Tx) error {
			p := &authz.Peer{Identity: id, Leaf: certs[0]}
			if noted, err := pki.NoteUnjournalled(tx, p, "192.0.2.7"); err != nil || !noted {
				return fmt.Errorf("it is noted: %t, %w", noted, err)
			}
			return nil
		})
	}
	alarms := func() (own, external int) {
		cl, _ := c.read()
		for _, u := range cl.GetUnjournalled() {
			remedy := pki.UnjournalledRemedy(u)
			if strings.Contains(remedy, "ca rotate --root") == u.GetExternal() || strings.Contains(remedy, "ca external rm") != u.GetExternal() {
				t.Errorf("of the external CA: %t: %s", u.GetExternal(), remedy)
			}
			if u.GetExternal() {
				external++
			} else {
				own++
			}
		}
		return own, external
	}
	is := func(when string, wantOwn, wantExternal int) {
		t.Helper()
		if own, external := alarms(); own != wantOwn || external != wantExternal {
			t.Errorf("%s: %d alarms about own CAs, %d about the external one; want %d, %d", when, own, external, wantOwn, wantExternal)
		}
	}
	forge(outside, false)
	forge(c.CA, false) // the same key
	is("one of each", 1, 1)
	for range 20 {
		forge(outside, true)
	}
	is("many of the external CA", 1, 16)
	for range 20 {
		forge(c.CA, true)
	}
	is("many of both", 16, 16)
	forge(c.CA, false) // that one was pushed out meanwhile

	// A root that is replaced ends those of its own CAs; the external CA goes on.
	next := pkitest.New(t)
	step(pki.BeginRoot, pki.NextCA{Root: c.Root.Raw, Other: next.Root.Raw})
	step(pki.SwitchRoot, pki.NextCA{Root: next.Root.Raw, Other: c.Root.Raw, Issuer: next.Issuer.Raw, External: outside.Issuer.Raw})
	forge(next, false) // whoever has the new keyset, too, with a key that is on record of before
	is("also below the root that comes", 16, 16)
	step(pki.FinishRoot, pki.NextCA{Root: next.Root.Raw})
	is("the root was replaced, which the new keyset's thief outlives", 1, 16)
	back := pkitest.New(t)
	step(pki.BeginRoot, pki.NextCA{Root: next.Root.Raw, Other: back.Root.Raw})
	step(pki.SwitchRoot, pki.NextCA{Root: back.Root.Raw, Other: next.Root.Raw, Issuer: back.Issuer.Raw, External: outside.Issuer.Raw})
	forge(back, true)
	step(pki.SwitchRoot, pki.NextCA{Root: next.Root.Raw, Other: back.Root.Raw, Issuer: next.Issuer.Raw, External: outside.Issuer.Raw})
	step(pki.FinishRoot, pki.NextCA{Root: next.Root.Raw})
	is("a replacement was given up", 2, 16)
	step(pki.BeginRoot, pki.NextCA{Root: next.Root.Raw, Other: back.Root.Raw})
	step(pki.SwitchRoot, pki.NextCA{Root: back.Root.Raw, Other: next.Root.Raw, Issuer: back.Issuer.Raw, External: outside.Issuer.Raw})
	step(pki.FinishRoot, pki.NextCA{Root: back.Root.Raw})
	is("the root was replaced once more", 0, 16)
	set(outside.Issuer.Raw)
	is("the same CA was set again", 0, 16)
	second := outside.NextIssuer(t)
	set(second.Raw)
	is("another intermediate was set", 0, 0)
	forge(outside, true)
	is("and certified past the cluster", 0, 1)
	step(pki.RemoveExternal, pki.NextCA{})
	is("it was taken away", 0, 0)
}
