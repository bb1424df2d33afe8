package authz

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// TestRefusalOf: only a removal and a change of role are explained; what may be
// a matter of this manager's or the caller's moment is not.
func TestRefusalOf(t *testing.T) {
	node := &pkipb.Node{Id: "n", Role: profilepb.Role_ROLE_WORKER, LeafSpki: []byte{1}, BootSpki: []byte{2}}
	denied := proto.CloneOf(node)
	denied.Denied, denied.DeniedAt = true, 7
	for _, tc := range []struct {
		name string
		n    *pkipb.Node
		role profilepb.Role
		spki []byte
		want authzpb.Refusal_Reason
	}{
		{"a member", node, profilepb.Role_ROLE_WORKER, []byte{1}, 0},
		{"unknown", nil, profilepb.Role_ROLE_WORKER, []byte{1}, 0},
		{"an old certificate", node, profilepb.Role_ROLE_WORKER, []byte{9}, 0},
		{"removed", denied, profilepb.Role_ROLE_WORKER, []byte{1}, authzpb.Refusal_REASON_REMOVED},
		{"removed, with an old certificate", denied, profilepb.Role_ROLE_WORKER, []byte{9}, authzpb.Refusal_REASON_REMOVED},
		{"removed, of another role", denied, profilepb.Role_ROLE_MANAGER, []byte{1}, authzpb.Refusal_REASON_REMOVED},
		{"of another role", node, profilepb.Role_ROLE_MANAGER, []byte{1}, authzpb.Refusal_REASON_ROLE_CHANGED},
		{"a boot leaf of a worker", node, profilepb.Role_ROLE_BOOT, []byte{2}, authzpb.Refusal_REASON_ROLE_CHANGED},
	} {
		err := CheckRecord(tc.n, tc.role, tc.spki)
		got := RefusalOf(err)
		if got.GetReason() != tc.want || tc.want != 0 && (got.GetNodeId() != "n" || got.GetAt() != tc.n.GetDeniedAt() || status.Code(err) != codes.PermissionDenied) {
			t.Errorf("%s: %v (%v)", tc.name, got, err)
		}
	}
	if RefusalOf(nil) != nil || RefusalOf(errors.New("removed")) != nil || RefusalOf(status.Error(codes.PermissionDenied, "removed")) != nil {
		t.Error("an error that explains nothing is believed")
	}
}
