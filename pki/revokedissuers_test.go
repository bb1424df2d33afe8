package pki_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// has gives the worker a certificate of the issuing CA in force.
func (c *crew) has(life time.Duration) {
	c.must(func(tx *raftstore.Tx) error {
		n, _ := store.Nodes.Get(tx, c.w.GetId())
		n = proto.CloneOf(n)
		sum := sha256.Sum256(c.Issuer.Raw)
		n.Certificates = append(n.Certificates, &pkipb.IssuedCertificate{Serial: []byte{7}, Issuer: sum[:], NotAfter: time.Now().Add(life).Unix()})
		return store.Nodes.Put(tx, n)
	})
}

// rotate puts the next issuing CA in force and returns the one of before.
func (c *crew) rotate() *x509.Certificate {
	before := c.Issuer
	c.must(func(tx *raftstore.Tx) error {
		cl, err := store.GetCluster(tx)
		if err != nil {
			return err
		}
		return pki.RotateIssuer(tx, pki.NextCA{Epoch: pki.KeysetEpoch(cl) + 1, Root: c.Root.Raw, Issuer: c.NextIssuer(c.t).Raw})
	})
	return before
}

// revoked reports whether the root's list is to name that CA, and how many there are.
func (c *crew) revoked(ca *x509.Certificate) (named bool, n int) {
	cl, _ := c.read()
	root := sha256.Sum256(c.Root.Raw)
	for _, r := range cl.GetRevokedIssuers() {
		named = named || bytes.Equal(r.GetSerial(), ca.SerialNumber.Bytes()) && bytes.Equal(r.GetRoot(), root[:]) && r.GetNotAfter() == ca.NotAfter.Unix()
	}
	return named, len(cl.GetRevokedIssuers())
}

// TestReplacedIssuersAreRevoked: an issuing CA that was replaced, and signs no list any
// more, is on its root's as soon as there is a denied node with a certificate of it, and
// when all others have one of another.
func TestReplacedIssuersAreRevoked(t *testing.T) {
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		life          time.Duration // of the worker's certificate
		deniedBefore  bool
		deniedAfter   bool
		again         bool // rotated once more
		want, dropped bool
	}{
		"nobody was denied":                       {life: day},
		"denied before it was replaced":           {life: 90 * day, deniedBefore: true, want: true},
		"denied before, and its certificate over": {life: -time.Minute, deniedBefore: true},
		"denied after it was replaced":            {life: 90 * day, deniedAfter: true, want: true},
		"denied after two were":                   {life: 90 * day, again: true, deniedAfter: true, want: true},
		"denied after, and its certificate over":  {life: -time.Minute, deniedAfter: true},
		"nobody needs it any more":                {life: -time.Minute, dropped: true, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrew(t)
			c.has(tc.life)
			if tc.deniedBefore {
				if err := c.leave(c.w.GetId(), pki.Leaving{}); err != nil {
					t.Fatal(err)
				}
			}
			former := c.rotate()
			if tc.again {
				c.rotate()
			}
			if tc.deniedAfter {
				if named, _ := c.revoked(former); named {
					t.Fatal("revoked before anybody was denied")
				}
				if err := c.leave(c.w.GetId(), pki.Leaving{Listed: true}); err != nil {
					t.Fatal(err)
				}
			}
			if tc.dropped {
				// There is no waiting for nodes that are not there.
				c.must(func(tx *raftstore.Tx) error {
					return errors.Join(pki.Deny(tx, c.a.GetId()), pki.Deny(tx, c.b.GetId()), pki.Deny(tx, c.w.GetId()))
				})
				c.must(pki.DropFormer)
				if cl, _ := c.read(); len(cl.GetFormerIssuers()) > 0 {
					t.Fatal("it is not forgotten")
				}
			}
			named, n := c.revoked(former)
			if named != tc.want || named && n != 1 || !named && n != 0 {
				t.Errorf("on the root's list: %t, with %d others", named, n)
			}
			if now, _ := c.revoked(c.Issuer); now {
				t.Error("the issuing CA in force is on the root's list")
			}
			// The same again says nothing new.
			if tc.want && !tc.dropped {
				c.rotate()
				if _, n := c.revoked(former); n != 1 {
					t.Errorf("%d are revoked after another rotation", n)
				}
			}
		})
	}
}

// TestSwitchedExternalIsRevoked: the certificate that the old root gave the external CA
// goes onto that root's list with the switch, where a denied worker has one below it.
func TestSwitchedExternalIsRevoked(t *testing.T) {
	for _, denied := range []bool{true, false} {
		c, other := newCrew(t), pkitest.New(t)
		own := c.Issuer
		external := c.NextIssuer(t)
		step := func(do func(*raftstore.Tx, pki.NextCA) error, next pki.NextCA) {
			t.Helper()
			cl, _ := c.read()
			next.Epoch = pki.KeysetEpoch(cl) + 1
			c.must(func(tx *raftstore.Tx) error { return do(tx, next) })
		}
		step(pki.SetExternal(&pkipb.External{Url: "https://ca", Provisioner: "p"}), pki.NextCA{External: external.Raw})
		c.has(time.Hour)
		if denied {
			if err := c.leave(c.w.GetId(), pki.Leaving{Listed: true}); err != nil {
				t.Fatal(err)
			}
		}
		step(pki.BeginRoot, pki.NextCA{Root: c.Root.Raw, Other: other.Root.Raw, Issuer: own.Raw})
		if named, _ := c.revoked(external); named {
			t.Fatal("revoked while it is in force")
		}
		step(pki.SwitchRoot, pki.NextCA{Root: other.Root.Raw, Other: c.Root.Raw, Issuer: other.Issuer.Raw, External: other.NextIssuer(t).Raw})
		if named, n := c.revoked(external); named != denied || named && n != 1 || !named && n != 0 {
			t.Errorf("denied: %t: on the old root's list: %t, %d in all", denied, named, n)
		}
	}
}

// One that is forgotten as too many came after it is on its root's list, once.
func TestForgottenIssuersAreRevoked(t *testing.T) {
	c := newCrew(t)
	first := c.Issuer
	for i := range 11 {
		if named, n := c.revoked(first); named != (i > 8) || n != max(i-8, 0) {
			t.Errorf("after %d rotations: %t, %d are revoked", i, named, n)
		}
		c.rotate()
	}
	cl, _ := c.read()
	sum, oldest := sha256.Sum256(first.Raw), sha256.Sum256(cl.GetFormerIssuers()[7])
	forgotten := pki.Forgotten(cl)
	if !forgotten(&pkipb.Node{LeafIssuer: sum[:]}) || forgotten(&pkipb.Node{LeafIssuer: oldest[:]}) || forgotten(&pkipb.Node{LeafIssuer: pki.ActiveIssuer(cl)}) {
		t.Error("forgotten is not whose certificate is of a CA that is on no list")
	}
}

// TestLastListStays: the last list of a CA that was replaced is shown until it ends.
func TestLastListStays(t *testing.T) {
	c := newCrew(t)
	c.has(time.Hour)
	if err := c.leave(c.w.GetId(), pki.Leaving{}); err != nil {
		t.Fatal(err)
	}
	s := &listSigner{signed: map[string][]pki.Revoked{}, times: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- pki.RunRevocationLists(ctx, pki.ListsConfig{Store: c.s, Signer: s, Logger: slog.New(slog.DiscardHandler)})
	}()
	defer func() { cancel(); <-done }()
	wait, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if _, err := pki.AwaitRevocationLists(wait, c.s); err != nil {
		t.Fatal(err)
	}
	former := c.rotate()
	sum := sha256.Sum256(former.Raw)
	for shown := false; !shown; {
		lists, err := pki.AwaitRevocationLists(wait, c.s)
		if err = errors.Join(err, wait.Err()); err != nil {
			t.Fatal("the last list of the CA of before is not shown: ", err)
		}
		for _, l := range lists {
			shown = shown || l.GetId() == hex.EncodeToString(sum[:]) && l.GetFormer() && !l.GetWorkload()
		}
	}
	root := sha256.Sum256(c.Root.Raw)
	s.mu.Lock()
	named, times := s.signed[string(root[:])], s.times[string(sum[:])]
	s.mu.Unlock()
	if len(named) != 1 || !bytes.Equal(named[0].Serial, former.SerialNumber.Bytes()) || times != 1 {
		t.Errorf("the root lists %v; the CA of before signed %d times", named, times)
	}
	// When it has ended it is gone.
	c.must(func(tx *raftstore.Tx) error {
		rec, _ := store.RevocationLists.Get(tx, hex.EncodeToString(sum[:]))
		rec = proto.CloneOf(rec)
		rec.NextUpdate = time.Now().Unix()
		return store.RevocationLists.Put(tx, rec)
	})
	w, err := c.s.Watch(func(*raftstore.ReadTx) error { return nil }, store.RevocationLists)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c.rotate() // has the lists looked at
	for gone := false; !gone; {
		_ = c.s.View(func(r *raftstore.ReadTx) error {
			_, ok := store.RevocationLists.Get(r, hex.EncodeToString(sum[:]))
			gone = !ok
			return nil
		})
		if !gone {
			if _, err := w.Next(wait); err != nil {
				t.Fatal("a list that ended is kept")
			}
		}
	}
}
