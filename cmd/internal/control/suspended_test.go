package control_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

// TestStatusWarnsOfSuspendedPolicies: that nobody is asked any more is not silent.
func TestStatusWarnsOfSuspendedPolicies(t *testing.T) {
	w := newWorld(t)
	for _, suspended := range []bool{true, false} {
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			old, _ := pkistore.AccessPolicies.Get(tx, "eyes")
			return pkistore.AccessPolicies.Put(tx, &pkipb.AccessPolicy{Meta: old.GetMeta(), Id: "eyes", Text: `@people("2") forbid (principal, action == Redoubt::Action::"role.create", resource);`, Suspended: suspended})
		})
		st, err := w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if warns := slices.ContainsFunc(st.GetWarnings(), func(s string) bool {
			return strings.Contains(s, "policy eyes asks for several people and is suspended")
		}); warns != suspended {
			t.Errorf("suspended is %v: %q", suspended, st.GetWarnings())
		}
		list, err := w.api.ListAccessPolicies(t.Context(), &controlpb.ListAccessPoliciesRequest{})
		if err != nil || len(list.GetPolicies()) != 1 || list.GetPolicies()[0].GetSuspended() != suspended {
			t.Errorf("%v, %v", list, err)
		}
	}
}
