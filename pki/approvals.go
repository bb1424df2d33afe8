package pki

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// withdraw takes back what a person asked others to approve, and what they approved of
// others' and was not used yet: it was done with a key that is out of use, and another
// one of that name did not mean it. What they denied stays denied.
func withdraw(tx *raftstore.Tx, name string) error {
	is := func(p *pkipb.Principal) bool {
		return p.GetKind() == pkipb.Principal_KIND_PERSON && p.GetName() == name
	}
	granted := func(v *pkipb.Vote) bool { return is(v.GetBy()) && !v.GetDenied() }
	var asked []string
	var without []*pkipb.Approval
	for a := range store.Approvals.All(tx) {
		switch {
		case a.GetUsedAt() != 0:
		case is(a.GetRequester()):
			asked = append(asked, a.GetId())
		case slices.ContainsFunc(a.GetVotes(), granted):
			a = proto.CloneOf(a)
			a.Votes = slices.DeleteFunc(a.Votes, granted)
			without = append(without, a)
		}
	}
	for _, id := range asked {
		if err := store.Approvals.Delete(tx, id); err != nil {
			return err
		}
	}
	for _, a := range without {
		if err := store.Approvals.Put(tx, a); err != nil {
			return err
		}
	}
	return nil
}

// voidApprovals removes those that can still be used.
func voidApprovals(tx *raftstore.Tx) (int, error) {
	some := first(store.Approvals.All(tx), func(a *pkipb.Approval) bool { return a.GetUsedAt() == 0 })
	for _, a := range some {
		if err := store.Approvals.Delete(tx, a.GetId()); err != nil {
			return 0, err
		}
	}
	return len(some), nil
}
