package pki_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func TestDenials(t *testing.T) {
	s := raftstoretest.New(t, store.Tables()...)
	update := func(fn func(tx *raftstore.Tx) error) {
		t.Helper()
		if err := s.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	d := &pki.Denials{}
	told := make(chan struct{}, 16)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- pki.FollowDenials(ctx, s, func(before map[pki.IdentityHash]int64) { d.Set(before); told <- struct{}{} })
	}()
	defer func() { cancel(); <-done }()
	<-told
	id, other := profile.ServiceURI(ident.New(), "", "web").String(), profile.ServiceURI(ident.New(), "shop", "web").String()
	now := time.Now()
	if d.Denied(id, now) {
		t.Error("denied before anybody said so")
	}
	changed := d.Changed()
	update(func(tx *raftstore.Tx) error {
		_, already, err := pki.DenyIdentity(tx, id)
		return errors.Join(err, map[bool]error{true: errors.New("already")}[already])
	})
	<-changed
	if !d.Denied(id, now) || !d.Denied(id, now.Add(time.Hour)) || d.Denied(other, now) {
		t.Error("a revoked identity, whenever issued, and no other, is denied")
	}
	changed = d.Changed()
	update(func(tx *raftstore.Tx) error {
		if !pki.IdentityDenied(tx, id) || pki.IdentityDenied(tx, other) {
			t.Error("what the store says is not what was denied")
		}
		if _, already, err := pki.DenyIdentity(tx, id); err != nil || !already {
			t.Error("denying it again:", already, err)
		}
		if _, err := pki.AllowIdentity(tx, other); !errors.Is(err, pki.ErrNotDenied) {
			t.Error("allowing what is not denied:", err)
		}
		_, err := pki.AllowIdentity(tx, id)
		return err
	})
	<-changed
	if !d.Denied(id, now.Add(-time.Minute)) || d.Denied(id, time.Now().Add(time.Second)) {
		t.Error("what was issued before stays denied, what is issued after is not")
	}
	update(func(tx *raftstore.Tx) error {
		if pki.IdentityDenied(tx, id) {
			t.Error("nothing is issued though it is allowed")
		}
		for _, bad := range []string{"", "web", "spiffe://x/svc/a/b", id + "/", id + "?", profile.NodeURI(ident.New(), ident.New()).String(), id[:len(id)-3] + "../b"} {
			if _, _, err := pki.DenyIdentity(tx, bad); err == nil {
				t.Errorf("%q is an identity", bad)
			}
		}
		return nil
	})
}

// TestDenialsAreBounded: the last of them is refused, and room is made by time
// alone.
func TestDenialsAreBounded(t *testing.T) {
	s := raftstoretest.New(t, store.Tables()...)
	cluster := ident.New()
	id := func(i int) string { return profile.ServiceURI(cluster, "", fmt.Sprint("s", i)).String() }
	now := time.Now()
	err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
		n := 0
		var err error
		for ; err == nil && n < 2000; n++ {
			_, _, err = pki.DenyIdentity(tx, id(n))
		}
		if !errors.Is(err, pki.ErrManyDenied) || n != 1025 {
			t.Fatalf("the %dth: %v", n, err)
		}
		if next, err := pki.ForgetAllowed(tx); err != nil || !next.IsZero() {
			t.Error("what is in force would be forgotten at", next, err)
		}
		// Allowed again: one a day and more ago, one an hour ago.
		for i, ago := range []time.Duration{pki.LongestSVID + time.Minute, time.Hour} {
			rec, _ := store.DeniedIdentities.Get(tx, id(i))
			rec = proto.CloneOf(rec)
			rec.AllowedAt = now.Add(-ago).Unix()
			if err := store.DeniedIdentities.Put(tx, rec); err != nil {
				return err
			}
		}
		next, err := pki.ForgetAllowed(tx)
		if left := next.Sub(now); err != nil || left < 22*time.Hour || left > 23*time.Hour {
			t.Errorf("the next is forgotten in %v: %v", left, err)
		}
		if _, _, err := pki.DenyIdentity(tx, id(1024)); err != nil {
			t.Error("there should be room again:", err)
		}
		if _, _, err := pki.DenyIdentity(tx, id(1025)); !errors.Is(err, pki.ErrManyDenied) {
			t.Error("and for one only:", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
