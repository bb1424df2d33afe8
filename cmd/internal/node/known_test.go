package node

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// A key counts as on record for the role it is on record for. Whoever can sign
// as a former issuer and stole another manager's disk has that one's boot key, in
// clear, and must not come as that manager with it.
func TestKnownGoesByRole(t *testing.T) {
	m := &managerState{store: raftstoretest.New(t, tables()...)}
	rec := &pkipb.Node{Id: "n", Role: profilepb.Role_ROLE_MANAGER, LeafSpki: []byte("leaf"), PreviousSpki: []byte("before"), BootSpki: []byte("boot")}
	bare := &pkipb.Node{Id: "bare", Role: profilepb.Role_ROLE_MANAGER}
	if err := m.store.Update(t.Context(), func(tx *raftstore.Tx) error {
		if err := pkistore.Nodes.Put(tx, bare); err != nil {
			return err
		}
		return pkistore.Nodes.Put(tx, proto.CloneOf(rec))
	}); err != nil {
		t.Fatal(err)
	}
	const boot, manager, worker = profilepb.Role_ROLE_BOOT, profilepb.Role_ROLE_MANAGER, profilepb.Role_ROLE_WORKER
	for _, tc := range []struct {
		node string
		role profilepb.Role
		spki string
		want bool
	}{
		{"n", manager, "leaf", true}, {"n", manager, "before", true}, {"n", boot, "boot", true},
		{"n", worker, "leaf", true}, // of the node itself, which it is no more than
		{"n", manager, "boot", false}, {"n", worker, "boot", false}, {"n", boot, "leaf", false}, {"n", boot, "before", false},
		{"n", manager, "other", false}, {"n", manager, "", false}, {"bare", boot, "", false}, {"nobody", manager, "leaf", false},
	} {
		if got := m.known(profile.Identity{NodeID: tc.node, Role: tc.role, SPKI: []byte(tc.spki)}); got != tc.want {
			t.Errorf("%s as %v with %q: %v", tc.node, tc.role, tc.spki, got)
		}
	}
}
