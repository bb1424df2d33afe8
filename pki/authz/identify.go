package authz

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// identify says who is at the other end of the call's connection, now. user is who
// the call says it is of; empty: it does not.
func (a *Authorizer) identify(p *peer.Peer, user string) (Identity, error) {
	if p == nil {
		return Identity{}, status.Error(codes.Unauthenticated, "the call came over no connection")
	}
	id, err := a.identifyInfo(p.AuthInfo)
	if _, certified := p.AuthInfo.(*ConnInfo); certified && err == nil {
		err = id.of(user)
	}
	id.Source = p.Addr
	return id, err
}

func (a *Authorizer) identifyInfo(info credentials.AuthInfo) (Identity, error) {
	switch info := info.(type) {
	case *LocalInfo:
		id := Identity{LocalRoot: true, kinds: []authzpb.Caller{authzpb.Caller_CALLER_NODE_LOCAL_ROOT}}
		if a.cfg.Manager != nil && a.cfg.Manager() {
			id.kinds = append(id.kinds, authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT)
		}
		return id, nil
	case *UserInfo:
		return Identity{User: info.Name, kinds: []authzpb.Caller{authzpb.Caller_CALLER_LOCAL_USER}}, nil
	case *ConnInfo:
		if info.Peer != nil && (info.Peer.Person != "" || info.State.NegotiatedProtocol == ALPNPerson) {
			return a.identifyPerson(info.State.NegotiatedProtocol, info.Peer)
		}
		if info.Peer != nil {
			return a.identifyNode(info.State.NegotiatedProtocol, info.Peer)
		}
		if info.State.NegotiatedProtocol != ALPNGRPC {
			return Identity{}, status.Error(codes.Unauthenticated, "a certificate is needed here")
		}
		return Identity{kinds: []authzpb.Caller{authzpb.Caller_CALLER_ANYONE}}, nil
	}
	return Identity{}, status.Error(codes.Unauthenticated, "the connection says nothing about its peer")
}

func (a *Authorizer) identifyNode(alpn string, p *Peer) (Identity, error) {
	id := Identity{NodeID: p.NodeID, Role: p.Role, SPKI: p.SPKI, Chain: p.Chain}
	kind, err := kindOf(alpn, p.Role)
	if err != nil {
		return Identity{}, err
	}
	if late := time.Since(p.Leaf.NotAfter); late > 0 {
		if kind != authzpb.Caller_CALLER_WORKER || late > ExpiredGrace {
			return Identity{}, status.Errorf(codes.Unauthenticated, "the certificate of node %s has expired: join again with a new token", p.NodeID)
		}
		kind = authzpb.Caller_CALLER_EXPIRED_WORKER
	}
	if kind == authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT {
		id.LocalRoot, id.LocalRootOf = true, p.NodeID
	}
	id.kinds = []authzpb.Caller{kind}
	if alpn == ALPNWitness {
		return id, a.CheckPeer(alpn, p)
	}
	err = a.checkRecord(p)
	if err != nil && kind == authzpb.Caller_CALLER_MANAGER && alpn == ALPNGRPC && a.demoted(p) {
		id.kinds, err = []authzpb.Caller{authzpb.Caller_CALLER_DEMOTED_MANAGER}, nil
	}
	return id, err
}

// demoted reports whether the holder of a manager leaf is a worker on record,
// and the leaf the one on record.
func (a *Authorizer) demoted(p *Peer) bool {
	if a.cfg.Directory == nil {
		return false
	}
	n, err := a.cfg.Directory.Node(p.NodeID)
	return err == nil && n.GetRole() == profilepb.Role_ROLE_WORKER && CheckRecord(n, profilepb.Role_ROLE_WORKER, p.SPKI) == nil
}

// kindOf maps what a certificate and the chosen protocol say to a caller. Each
// protocol admits its own roles, so that a boot leaf is worth nothing but on
// the lock protocol.
func kindOf(alpn string, role profilepb.Role) (authzpb.Caller, error) {
	switch {
	case alpn == ALPNGRPC && role == profilepb.Role_ROLE_WORKER:
		return authzpb.Caller_CALLER_WORKER, nil
	case alpn == ALPNGRPC && role == profilepb.Role_ROLE_MANAGER,
		alpn == ALPNLock && role == profilepb.Role_ROLE_MANAGER,
		alpn == ALPNWitness && role == profilepb.Role_ROLE_MANAGER:
		return authzpb.Caller_CALLER_MANAGER, nil
	case alpn == ALPNLocal && role == profilepb.Role_ROLE_MANAGER:
		return authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT, nil
	case alpn == ALPNUser && role == profilepb.Role_ROLE_MANAGER:
		return authzpb.Caller_CALLER_LOCAL_USER, nil
	case alpn == ALPNLock && role == profilepb.Role_ROLE_BOOT:
		return authzpb.Caller_CALLER_BOOT, nil
	}
	return 0, status.Errorf(codes.PermissionDenied, "that certificate may not use the protocol %s", alpn)
}
