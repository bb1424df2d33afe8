package authz

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

// userKey is under which a manager says, for each call that it carries by ALPNUser,
// which of its machine's users calls. On no other protocol may a call have it.
const userKey = "redoubt-user"

// maxUser bounds the name of a user in bytes.
const maxUser = 64

// CheckUser returns an error unless s can be the name of a machine's user. Root is
// none: whoever is root is said by the socket.
func CheckUser(s string) error {
	if s == "" || len(s) > maxUser || s == "root" || strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-$", r))
	}) {
		return errors.New("that is no name of a user")
	}
	return nil
}

// UserInfo is what gRPC's peer.Peer carries for a user on the socket for users.
type UserInfo struct {
	credentials.CommonAuthInfo
	Name string
}

// AuthType implements credentials.AuthInfo.
func (UserInfo) AuthType() string { return "local-user" }

// UserCredentials returns transport credentials for a server on the socket for
// users: members of group gid get through that names has a name for. Root has a
// socket of its own. What is asked is what the kernel wrote down at connect.
// refused is told of those who do not get through.
func UserCredentials(gid uint32, names func(uid uint32) (string, error), refused func(error)) credentials.TransportCredentials {
	return userCreds{gid, names, refused}
}

type userCreds struct {
	gid     uint32
	names   func(uid uint32) (string, error)
	refused func(error)
}

func (c userCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	name, err := c.who(raw)
	if err != nil {
		c.refused(err)
		return nil, nil, err
	}
	return raw, &UserInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, name}, nil
}

func (c userCreds) who(raw net.Conn) (string, error) {
	uc, err := unixConn(raw)
	if err != nil {
		return "", err
	}
	cred, err := peercred.Of(uc)
	if err != nil {
		return "", err
	}
	if cred.Uid == 0 {
		return "", errors.New("this socket is for users: root has one of its own")
	}
	if err := CheckGroup(uc, c.gid); err != nil {
		return "", err
	}
	name, err := c.names(cred.Uid)
	if err == nil {
		err = CheckUser(name)
	}
	if err != nil {
		return "", fmt.Errorf("uid %d (pid %d): %w", cred.Uid, cred.Pid, err)
	}
	return name, nil
}

// CheckGroup returns an error unless the process at the other end of uc was in group gid
// when it connected.
func CheckGroup(uc *net.UnixConn, gid uint32) error {
	cred, err := peercred.Of(uc)
	if err != nil {
		return err
	}
	in, err := peercred.InGroup(uc, gid)
	if err == nil && !in {
		err = fmt.Errorf("uid %d (pid %d) may not use this socket: it is not in group %d", cred.Uid, cred.Pid, gid)
	}
	return err
}

func (userCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("authz: local credentials are for servers")
}

func (userCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "local-user"}
}
func (c userCreds) Clone() credentials.TransportCredentials { return c }
func (userCreds) OverrideServerName(string) error           { return nil }

// Carried is the context in which a call of the caller in ctx goes on to the leader,
// and the protocol that is for such callers. No metadata of the caller's goes along.
func Carried(ctx context.Context) (_ context.Context, alpn string, _ error) {
	id, ok := FromContext(ctx)
	switch {
	case ok && id.User != "":
		return metadata.NewOutgoingContext(ctx, metadata.Pairs(userKey, id.User)), ALPNUser, nil
	case ok && id.LocalRoot:
		return metadata.NewOutgoingContext(ctx, nil), ALPNLocal, nil
	}
	return nil, "", status.Error(codes.PermissionDenied, "only calls of this machine's own sockets are carried to the leader")
}

// userOf is which user the manager at the other end says the call is of: nobody where
// it says nothing.
func userOf(ctx context.Context) (string, error) {
	switch said := metadata.ValueFromIncomingContext(ctx, userKey); {
	case len(said) == 0:
		return "", nil
	case len(said) > 1 || CheckUser(said[0]) != nil:
		return "", status.Error(codes.Unauthenticated, "the call does not say who of the machine's users makes it")
	default:
		return said[0], nil
	}
}

// of makes id the user's, where it is a manager's that carries users' calls.
func (id *Identity) of(user string) error {
	carries := id.Is(authzpb.Caller_CALLER_LOCAL_USER)
	if carries != (user != "") {
		return status.Error(codes.Unauthenticated, "a user's name belongs to the calls of users, and to no others")
	}
	if carries {
		id.User, id.UserOf = user, id.NodeID
	}
	return nil
}
