package authz

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Identity is who calls, as a handler sees it. It is only ever put into a
// context after the caller was admitted to the method at hand.
type Identity struct {
	// NodeID and Role are those of the certificate; empty for an anonymous
	// caller, for a person and for this node's own local root.
	NodeID string
	Role   profilepb.Role
	// Person is the name of a person, who has no node and no role.
	Person string
	// SPKI is the hash of the certificate's public key; nil without one.
	SPKI []byte
	// Chain is the certificate and its issuers in DER; nil without one.
	Chain [][]byte
	// LocalRoot marks uid 0 on a local socket. LocalRootOf is the node of that
	// socket: another manager when it was carried to this one, empty for this
	// node itself.
	LocalRoot   bool
	LocalRootOf string
	// User is the name of a user, who is not root, of the machine of node UserOf; that
	// is empty on this machine's own socket.
	User, UserOf string
	// Source is where the call came from; behind a splice, the caller's own
	// address. It is nil in tests only.
	Source net.Addr

	kinds []authzpb.Caller
}

// Is reports whether the identity is of that kind.
func (id Identity) Is(kind authzpb.Caller) bool { return slices.Contains(id.kinds, kind) }

// String says who it is in an error or a log line.
func (id Identity) String() string {
	switch {
	case id.User != "" && id.UserOf != "":
		return "user " + id.User + " of node " + id.UserOf
	case id.User != "":
		return "user " + id.User
	case id.LocalRoot && id.LocalRootOf != "":
		return "local root of node " + id.LocalRootOf
	case id.LocalRoot:
		return "local root"
	case id.Person != "":
		return "person " + id.Person
	case id.NodeID == "":
		return "a caller without a certificate"
	case id.Is(authzpb.Caller_CALLER_EXPIRED_WORKER):
		return fmt.Sprintf("worker %s with an expired certificate", id.NodeID)
	}
	return profile.RoleName(id.Role) + " " + id.NodeID
}

type contextKey struct{}

// FromContext returns the identity that the interceptors put there. A handler
// that gets false was called around them and must refuse.
func FromContext(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(contextKey{}).(Identity)
	return id, ok
}

// NewContext returns ctx with an identity that is of the given kinds besides.
// It is for in-process callers and tests; a server uses the interceptors.
func NewContext(ctx context.Context, id Identity, kinds ...authzpb.Caller) context.Context {
	id.kinds = append(slices.Clone(id.kinds), kinds...)
	return context.WithValue(ctx, contextKey{}, id)
}
