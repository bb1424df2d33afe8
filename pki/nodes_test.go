package pki_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func TestInitCluster(t *testing.T) {
	ca, s := pkitest.New(t), raftstoretest.New(t, store.Tables()...)
	m, w := ca.NewNode(t, manager), ca.NewNode(t, worker)
	update := func(first pki.FirstManager) error {
		return s.Update(t.Context(), func(tx *raftstore.Tx) error {
			_, err := pki.InitCluster(tx, first)
			return err
		})
	}
	if update(pki.FirstManager{Leaf: w.Chain()}) == nil {
		t.Error("a worker became the first manager")
	}
	if update(pki.FirstManager{Leaf: m.Chain(), Boot: w.Chain()}) == nil {
		t.Error("another node's certificate became the boot leaf")
	}
	if err := update(pki.FirstManager{Name: "m1", Address: "192.0.2.1:2377", Leaf: m.Chain(), Boot: m.Boot.Chain()}); err != nil {
		t.Fatal(err)
	}
	if update(pki.FirstManager{Name: "m1", Leaf: m.Chain(), Boot: m.Boot.Chain()}) == nil {
		t.Error("a cluster was made twice")
	}
	var rec *pkipb.Cluster
	var n *pkipb.Node
	err := s.View(func(r *raftstore.ReadTx) (err error) {
		n, _ = store.Nodes.Get(r, m.Record.GetId())
		rec, err = store.GetCluster(r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if string(n.GetLeafSpki()) != string(m.Record.GetLeafSpki()) || string(n.GetBootSpki()) != string(m.Record.GetBootSpki()) {
		t.Error("the node record is not the first manager's")
	}
	trust, err := pki.TrustFromCluster(rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Verify(w.Trust().Roots, pki.ExpectClient(pki.ALPNGRPC)); err == nil {
		t.Error("a root passed for a node")
	}
	if _, err := pki.NewCredentials(w.Chain(), w.Key, trust); err != nil {
		t.Errorf("the record's trust refuses a member: %v", err)
	}
}

func TestDenyIsForEver(t *testing.T) {
	c := newCluster(t)
	n := c.member(worker, time.Now())
	id := n.Record.GetId()
	for range 2 { // twice changes nothing
		c.update(func(tx *raftstore.Tx) error { return pki.Deny(tx, id) })
	}
	if !c.node(id).GetDenied() || c.node(id).GetDeniedAt() == 0 {
		t.Error("the node is not denied")
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := c.Issue(n.Identity(), key.Public(), time.Now(), profile.LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	for name, fn := range map[string]func(*raftstore.Tx) error{
		"renewing a denied node": func(tx *raftstore.Tx) error {
			return pki.RecordLeaf(tx, id, n.Identity().SPKI, pki.Issued{Leaf: leaf})
		},
		"denying nobody": func(tx *raftstore.Tx) error { return pki.Deny(tx, ident.New()) },
	} {
		if c.store.Update(context.Background(), fn) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	for _, good := range []string{"192.0.2.1:2377", "[2001:db8::1]:2377", "m1.example:1", "127.0.0.1:65535"} {
		if err := pki.CheckAddress(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:02377", "192.0.2.1:http", ":2377",
		"0.0.0.0:2377", "[::]:2377", "2001:db8::1:2377", "a b:1", "a/b:1", "224.0.0.1:1"} {
		if pki.CheckAddress(bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestCompleteAddress(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":         "192.0.2.1:2377",
		"192.0.2.1:99":      "192.0.2.1:99",
		"[2001:db8::1]:7":   "[2001:db8::1]:7",
		"2001:db8::1":       "[2001:db8::1]:2377",
		"[2001:db8::1]":     "[2001:db8::1]:2377",
		"manager.example":   "manager.example:2377",
		"manager.example:1": "manager.example:1",
	} {
		if got, err := pki.CompleteAddress(in); err != nil || got != want {
			t.Errorf("CompleteAddress(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ":2377", "0.0.0.0", "[::]:2377", "a b", "h:0", "h:65536", "h:x", "../x", "h:1:2:z"} {
		if got, err := pki.CompleteAddress(in); err == nil {
			t.Errorf("CompleteAddress(%q) = %q", in, got)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("CompleteAddress(%q): more than a line", in)
		}
	}
}
