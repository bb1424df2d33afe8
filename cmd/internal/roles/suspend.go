package roles

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Suspend has what policies ask several people for ask nobody, until they are set anew:
// a cluster that begins an incarnation has one manager, and nobody who could be the
// second. Whoever begins it has the operator key, or enough shares.
func Suspend(tx *raftstore.Tx) error {
	var some []*pkipb.AccessPolicy
	for p := range pkistore.AccessPolicies.All(tx) {
		asks, err := asksForSeveral(p)
		if err != nil {
			return err
		}
		if asks && !p.GetSuspended() {
			some = append(some, proto.CloneOf(p))
		}
	}
	if len(some) == 0 {
		return nil
	}
	for _, p := range some {
		p.Suspended = true
		if err := pkistore.AccessPolicies.Put(tx, p); err != nil {
			return err
		}
	}
	return count(tx)
}

func asksForSeveral(p *pkipb.AccessPolicy) (bool, error) {
	list, err := parse(p.GetId(), p.GetText())
	if err != nil {
		return false, fmt.Errorf("policy %s: %w", p.GetId(), err)
	}
	for _, one := range list {
		if n, err := needOf(one); err != nil || !n.None() {
			return true, nil
		}
	}
	return false, nil
}

// Suspended are the names of the policies that Suspend was done to and nobody has set
// since.
func Suspended(r raftstore.Reader) (out []string) {
	for p := range pkistore.AccessPolicies.All(r) {
		if p.GetSuspended() {
			out = append(out, p.GetId())
		}
	}
	return out
}
