package authz

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// checkRecord holds the certificate against the node's record.
func (a *Authorizer) checkRecord(p *Peer) error {
	if a.cfg.Directory == nil {
		if p.Role == profilepb.Role_ROLE_BOOT {
			return nil
		}
		return status.Error(codes.FailedPrecondition, "this node has no store to check the caller against: it is locked or no manager")
	}
	n, err := a.cfg.Directory.Node(p.NodeID)
	if err != nil {
		return status.Error(codes.Unavailable, "the node records cannot be read now")
	}
	return CheckRecord(n, p.Identity.Role, p.SPKI)
}

// CheckRecord returns a refusal unless the record n (nil where there is none)
// stands for a node of that role with a key of that SPKI hash. RefusalOf finds
// in it what the node itself may be told.
func CheckRecord(n *pkipb.Node, role profilepb.Role, spki []byte) error {
	if n == nil {
		return status.Error(codes.Unauthenticated, "the cluster knows no such node")
	}
	want, keys := role, [][]byte{n.GetLeafSpki(), n.GetPreviousSpki()}
	if role == profilepb.Role_ROLE_BOOT {
		want, keys = profilepb.Role_ROLE_MANAGER, [][]byte{n.GetBootSpki()}
	}
	switch {
	case n.GetDenied():
		return explained(n, authzpb.Refusal_REASON_REMOVED, fmt.Sprintf("node %s was removed from the cluster", n.GetId()))
	case n.GetRole() != want:
		return explained(n, authzpb.Refusal_REASON_ROLE_CHANGED, fmt.Sprintf("the certificate of node %s is not of its role", n.GetId()))
	case len(spki) == 0 || !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, spki) }):
		return status.Errorf(codes.Unauthenticated, "node %s has a newer certificate than this one", n.GetId())
	}
	return nil
}

// CheckPeer is the check at connect, for every protocol of port 2377 and for
// that of port 7946: it returns a refusal unless the peer (nil: no certificate)
// could use it now.
//
// Between managers (raft, the splice to the leader, what they know of each
// other's disks) the record says only
// whether the node was removed or is none: a manager that lags behind has old
// records, and were it to refuse the leader's newer certificate, it could never
// catch up. Who belongs to raft is the raft configuration's to say. So it is
// with the mesh's peers, where a record may be behind as well: who they are is
// the dispatcher's to say. But an external CA's word alone makes nobody a peer, nor
// a manager's place a worker's: there the key must be on record. Whoever comes before
// its record calls again.
func (a *Authorizer) CheckPeer(alpn string, p *Peer) error {
	if p == nil {
		return nil
	}
	if p.Person != "" || alpn == ALPNPerson {
		_, err := a.identifyPerson(alpn, p)
		return err
	}
	if alpn == ALPNGRPC || alpn == ALPNLocal || alpn == ALPNUser || alpn == ALPNLock {
		_, err := a.identifyNode(alpn, p)
		return err
	}
	if alpn == ALPNPeer {
		return a.checkMeshPeer(p)
	}
	if p.Role != profilepb.Role_ROLE_MANAGER || time.Now().After(p.Leaf.NotAfter) {
		return status.Errorf(codes.PermissionDenied, "only managers with a valid certificate may use the protocol %s", alpn)
	}
	if a.cfg.Directory == nil {
		return nil
	}
	n, err := a.cfg.Directory.Node(p.NodeID)
	switch {
	case err != nil:
		return status.Error(codes.Unavailable, "the node records cannot be read now")
	case n != nil && (n.GetDenied() || n.GetRole() != profilepb.Role_ROLE_MANAGER):
		return status.Errorf(codes.Unauthenticated, "node %s was removed from the cluster or is no manager", p.NodeID)
	}
	return nil
}

func (a *Authorizer) checkMeshPeer(p *Peer) error {
	if p.Role == profilepb.Role_ROLE_BOOT || time.Now().After(p.Leaf.NotAfter) {
		return status.Errorf(codes.PermissionDenied, "only nodes with a valid certificate may use the protocol %s", ALPNPeer)
	}
	if a.cfg.Directory == nil {
		return nil
	}
	n, err := a.cfg.Directory.Node(p.NodeID)
	switch {
	case err != nil:
		return status.Error(codes.Unavailable, "the node records cannot be read now")
	case n.GetDenied():
		return status.Errorf(codes.Unauthenticated, "node %s was removed from the cluster", p.NodeID)
	case onRecord(n, p.SPKI):
		return nil
	case p.External:
		return status.Errorf(codes.Unauthenticated, "the certificate of node %s is of the external CA and not on record", p.NodeID)
	case p.Role == profilepb.Role_ROLE_WORKER && n.GetRole() == profilepb.Role_ROLE_MANAGER:
		return status.Errorf(codes.Unauthenticated, "node %s is a manager, and shows a worker's certificate that is not on record", p.NodeID)
	}
	return nil
}

// onRecord reports whether the key of that SPKI hash is the node's, or was until its
// last renewal.
func onRecord(n *pkipb.Node, spki []byte) bool {
	return len(spki) > 0 && (bytes.Equal(spki, n.GetLeafSpki()) || bytes.Equal(spki, n.GetPreviousSpki()))
}
