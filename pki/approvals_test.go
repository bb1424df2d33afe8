package pki_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// TestWordsGoWithTheKey: what somebody asked and approved is void once they are revoked or
// removed, and once they come by another invitation; what they denied is not, nor what was
// used, nor what others said.
func TestWordsGoWithTheKey(t *testing.T) {
	for name, out := range map[string]func(*cluster) error{
		"revoked": func(c *cluster) error {
			return c.store.Update(t.Context(), func(tx *raftstore.Tx) error { return pki.RevokePerson(tx, "bob") })
		},
		"removed": func(c *cluster) error {
			return c.store.Update(t.Context(), func(tx *raftstore.Tx) error { return pki.RemovePerson(tx, "bob") })
		},
		"come again": func(c *cluster) error {
			_, err := pki.TakeInvitation(t.Context(), c.invite("bob"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.person("bob")
			bob, ann := &pkipb.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "bob"}, &pkipb.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "ann"}
			user := &pkipb.Principal{Kind: pkipb.Principal_KIND_LOCAL_USER, Name: "bob", Node: c.first.Record.GetId()}
			said := func(denied bool, by ...*pkipb.Principal) (out []*pkipb.Vote) {
				for _, p := range by {
					out = append(out, &pkipb.Vote{By: p, Denied: denied, At: 7})
				}
				return out
			}
			c.update(func(tx *raftstore.Tx) error {
				return errors.Join(
					store.Approvals.Put(tx, &pkipb.Approval{Id: "asked", Hash: []byte("hash"), Requester: bob, Votes: said(false, ann)}),
					store.Approvals.Put(tx, &pkipb.Approval{Id: "asked-and-used", Hash: []byte("hash"), Requester: bob, Votes: said(false, ann), UsedAt: 7}),
					store.Approvals.Put(tx, &pkipb.Approval{Id: "granted", Hash: []byte("hash"), Requester: ann, Votes: said(false, bob, user)}),
					store.Approvals.Put(tx, &pkipb.Approval{Id: "granted-and-used", Hash: []byte("hash"), Requester: ann, Votes: said(false, bob), UsedAt: 7}),
					store.Approvals.Put(tx, &pkipb.Approval{Id: "denied", Hash: []byte("hash"), Requester: ann, Votes: said(true, bob)}),
					store.Approvals.Put(tx, &pkipb.Approval{Id: "users", Hash: []byte("hash"), Requester: user}))
			})
			if err := out(c); err != nil {
				t.Fatal(err)
			}
			var left []string
			if err := c.store.View(func(r *raftstore.ReadTx) error {
				for a := range store.Approvals.All(r) {
					left = append(left, fmt.Sprint(a.GetId(), " ", len(a.GetVotes())))
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(left, ", "); got != "asked-and-used 1, denied 1, granted 1, granted-and-used 1, users 0" {
				t.Errorf("there are %s", got)
			}
		})
	}
}
