package keyd

import (
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// steps makes those changes one after the other, each on top of the one before.
func (k *keyset) steps(t *testing.T, what ...keydpb.CAChange) *keyset {
	t.Helper()
	for _, change := range what {
		next, err := k.changed(time.Now(), change, nil)
		if err != nil {
			t.Fatalf("%v on top of epoch %d: %v", change, k.epoch, err)
		}
		t.Cleanup(next.destroy)
		k = next
	}
	return k
}

// A manager whose leaf is of the ninth issuing CA before the present one gets no
// keyset, and the refusal names it; who makes the keyset leaves it out.
func TestManagerAwayForLong(t *testing.T) {
	c := newTwo(t)
	for rotation := 1; rotation <= 10; rotation++ {
		r, err := c.RotateCA(t.Context(), &keydpb.RotateCARequest{Change: newIssuer, Managers: c.all()})
		if rotation <= maxFormer+1 {
			if err != nil {
				t.Fatalf("rotation %d: %v", rotation, err)
			}
			c.adopt(t, c.instance, r)
			c.init.Manager = c.own(t)
			c.server.mu.Lock()
			c.server.managers = bucket{} // not what this is about
			c.server.mu.Unlock()
			continue
		}
		wantCode(t, err, keydpb.Code_CODE_DENIED)
		if !strings.Contains(err.Error(), c.otherID) {
			t.Errorf("the refusal does not name the manager: %v", err)
		}
		if r, err = c.RotateCA(t.Context(), &keydpb.RotateCARequest{Change: newIssuer, Managers: c.all()[:1]}); err != nil || len(r.GetSealed()) != 1 {
			t.Fatalf("without it: %v", err)
		}
	}
}

// Roots that were begun and given up, however often, cost nothing that is needed:
// neither the next replacement nor who was away since a root before.
func TestRootsGivenUp(t *testing.T) {
	for name, giveUp := range map[string][]keydpb.CAChange{
		"before they signed": {newRoot, dropRoot},
		"after they signed":  {newRoot, switchRoot, switchRoot, dropRoot},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTwo(t)
			first := c.server.secrets.keyset
			replace := []keydpb.CAChange{newRoot, switchRoot, dropRoot}
			k := first.steps(t, replace...)
			for range maxFormer + 1 {
				k = k.steps(t, giveUp...)
				if len(k.formerRoots) > len(k.former) || len(k.cross) > len(k.formerRoots)+1 {
					t.Fatalf("%d former roots and %d cross certificates for %d former CAs", len(k.formerRoots), len(k.cross), len(k.former))
				}
				if len(giveUp) > 2 {
					continue // what signed counts, and pushes out what is older
				}
				if _, err := k.manager(c.otherLeaf, time.Now()); err != nil {
					t.Fatalf("a manager of below the root before: %v", err)
				}
				if !k.succeeds(first) {
					t.Fatal("who has the root before does not take the present one")
				}
			}
			k = k.steps(t, replace...)
			next, err := k.next(time.Now(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer next.destroy()
			if k.root.Equal(first.root) || len(k.formerRoots) == 0 {
				t.Error("the root was not replaced")
			}
		})
	}
}
