package pki_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// TestWhoComesBackWithAnIncarnation: nobody by an invitation or an approval that may have
// been used since, and where the state is a backup's nobody by a certificate that may have
// been revoked since.
func TestWhoComesBackWithAnIncarnation(t *testing.T) {
	for name, restored := range map[string]bool{"recovered": false, "restored": true} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			self := c.first
			if restored {
				self = c.NewNode(t, manager)
			}
			ends := time.Now().Add(time.Hour).Unix()
			var many []string // more than one transaction takes
			c.update(func(tx *raftstore.Tx) error {
				for i := range 300 {
					p := &pkipb.Person{Id: fmt.Sprintf("p%d", i), Invitation: &profilepb.SignedInvitation{Record: []byte("r")}, InvitationId: fmt.Sprintf("i%d", i)}
					if err := store.People.Put(tx, p); err != nil {
						return err
					}
					many = append(many, p.GetId())
				}
				return nil
			})
			c.update(func(tx *raftstore.Tx) error {
				return errors.Join(
					store.People.Put(tx, &pkipb.Person{Id: "ann", LeafSpki: []byte("now"), PreviousSpki: []byte("before"), LeafIssuer: []byte("issuer"), LeafNotAfter: ends, LifeSeconds: 60}),
					store.People.Put(tx, &pkipb.Person{Id: "bob", Invitation: &profilepb.SignedInvitation{Record: []byte("r")}, InvitationId: "i", InvitedBy: "ann"}),
					store.People.Put(tx, &pkipb.Person{Id: "eve", Denied: true, DeniedAt: 7}),
					store.Approvals.Put(tx, &pkipb.Approval{Id: "waits", Hash: []byte("hash"), ExpiresAt: ends}),
					store.Approvals.Put(tx, &pkipb.Approval{Id: "used", Hash: []byte("hash"), ExpiresAt: ends, UsedAt: 7, UsedBy: "call"}))
			})
			begun := 0
			if err := pki.BeginIncarnation(t.Context(), c.store, 2, pki.FirstManager{Name: "m", Address: "192.0.2.9:2377", Leaf: self.Chain(), Boot: self.Boot.Chain()},
				func(*raftstore.Tx, string) error { return nil }, func(*raftstore.Tx, *pkipb.Node) error { return nil },
				func(tx *raftstore.Tx) error { begun++; return nil }); err != nil || begun != 1 {
				t.Fatal(begun, err)
			}
			ann, bob, eve := c.record("ann"), c.record("bob"), c.record("eve")
			if calls := len(ann.GetLeafSpki()) > 0 || len(ann.GetPreviousSpki()) > 0 || len(ann.GetLeafIssuer()) > 0 || ann.GetLeafNotAfter() != 0; calls == restored {
				t.Errorf("who had a certificate has: %v", ann)
			}
			if bob.GetInvitation() != nil || bob.GetInvitationId() != "" || !eve.GetDenied() {
				t.Errorf("who was invited, and who was revoked, are\n%v\n%v", bob, eve)
			}
			if err := c.store.View(func(r *raftstore.ReadTx) error {
				for _, name := range many {
					if p, _ := store.People.Get(r, name); p.GetInvitationId() != "" {
						t.Errorf("%s is invited still", name)
						break
					}
				}
				var kept []string
				for a := range store.Approvals.All(r) {
					kept = append(kept, a.GetId())
				}
				if !slices.Equal(kept, []string{"used"}) {
					t.Errorf("approvals %q are kept", kept)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
