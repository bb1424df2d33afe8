package authz

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// explained is a refusal that the node itself is told, so that it can draw its
// conclusion: a node that was removed ends its tasks and forgets its keys.
func explained(n *pkipb.Node, reason authzpb.Refusal_Reason, message string) error {
	st := status.New(codes.PermissionDenied, message)
	with, err := st.WithDetails(&authzpb.Refusal{Reason: reason, NodeId: n.GetId(), At: n.GetDeniedAt()})
	if err != nil { // cannot be for a code other than OK; the message still says it
		return st.Err()
	}
	return with.Err()
}

// RefusalOf returns the explanation that err carries, or nil. It is worth as
// much as the connection it came over: only a manager's counts.
func RefusalOf(err error) *authzpb.Refusal {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*authzpb.Refusal); ok && r.GetReason() != authzpb.Refusal_REASON_UNSPECIFIED {
			return r
		}
	}
	return nil
}
