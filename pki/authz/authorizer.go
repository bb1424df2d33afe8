package authz

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/quietlog"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Directory answers who is a member.
type Directory interface {
	// Node returns the record of that node, or nil where there is none.
	Node(id string) (*pkipb.Node, error)
	// Changes calls changed with the ids of records that changed, or with nil
	// when any may have, until ctx ends.
	Changes(ctx context.Context, changed func(nodes []string)) error
}

// Config is what an Authorizer needs.
type Config struct {
	// Directory is nil on a node that has no store: a worker, or a locked
	// manager. Then no node certificate is admitted, save a boot leaf to what
	// admits boot leaves.
	Directory Directory
	// Manager reports whether this node is an unlocked manager, which makes its
	// local root an operator. Nil: it is not.
	Manager func() bool
	// Changed is called, never concurrently, after the streams of nodes whose
	// records changed were looked at again (nil: of all nodes), so that the
	// owner of the connections can do the same. May be nil.
	Changed func(nodes []string)
	Logger  *slog.Logger
}

// Authorizer admits calls. It is safe for concurrent use.
type Authorizer struct {
	cfg     Config
	live    liveCalls
	refused *quietlog.Log
}

// New returns an Authorizer. Where there is a Directory, its owner also calls
// Run for as long as servers use it.
func New(c Config) *Authorizer {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Authorizer{cfg: c, refused: quietlog.New(c.Logger)}
}

// ServerOptions are the interceptors and credentials for a server whose
// listener hands out Conns.
func (a *Authorizer) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(TLSCredentials()),
		grpc.ChainUnaryInterceptor(a.Unary),
		grpc.ChainStreamInterceptor(a.Stream),
	}
}

// LocalServerOptions are the same for a server on a local socket.
func (a *Authorizer) LocalServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(LocalCredentials()),
		grpc.ChainUnaryInterceptor(a.Unary),
		grpc.ChainStreamInterceptor(a.Stream),
	}
}

// Unary is the interceptor of unary calls.
func (a *Authorizer) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	id, err := a.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(context.WithValue(ctx, contextKey{}, id), req)
}

// Stream is the interceptor of streams. It keeps checking while the stream
// lasts.
func (a *Authorizer) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx := ss.Context()
	if !certified(ctx) { // no record can change who calls
		id, err := a.admit(ctx, info.FullMethod)
		if err != nil {
			return err
		}
		return next(srv, &checkedStream{ss, context.WithValue(ctx, contextKey{}, id)})
	}
	// Registered before the check: a denial that commits in between is then
	// seen by one of the two.
	call := a.live.add(ctx, info.FullMethod)
	defer a.live.remove(call)
	id, err := a.admit(ctx, info.FullMethod)
	if err != nil {
		return err
	}
	if until, ok := certExpiry(ctx); ok && !id.Is(authzpb.Caller_CALLER_EXPIRED_WORKER) {
		timer := time.AfterFunc(time.Until(until), func() { call.cut(errCertExpired) })
		defer timer.Stop()
	}
	err = next(srv, &checkedStream{ss, context.WithValue(call.ctx, contextKey{}, id)})
	if cause := context.Cause(call.ctx); cause != nil && ctx.Err() == nil {
		return cause
	}
	return err
}

// Carry judges a call that came over the local socket of the manager self, and
// that this very manager answers, as if it had been carried to it under self's
// certificate: the path is shorter, what is checked is the same. It returns the
// context for the handler. The caller is local root already; nothing here looks
// at the connection.
func (a *Authorizer) Carry(ctx context.Context, method string, self *Peer) (context.Context, error) {
	info := &ConnInfo{Peer: self}
	info.State.NegotiatedProtocol = ALPNLocal
	as := &peer.Peer{AuthInfo: info}
	if p, ok := peer.FromContext(ctx); ok {
		as.Addr = p.Addr
	}
	id, err := a.admitPeer(as, method)
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, contextKey{}, id), nil
}

type checkedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *checkedStream) Context() context.Context { return s.ctx }

func (s *checkedStream) RecvMsg(m any) error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	return s.ServerStream.RecvMsg(m)
}

func (s *checkedStream) SendMsg(m any) error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

var errCertExpired = status.Error(codes.Unauthenticated, "the certificate expired during the call: connect again with the renewed one")

// admit returns who calls, or a refusal.
func (a *Authorizer) admit(ctx context.Context, method string) (Identity, error) {
	p, _ := peer.FromContext(ctx)
	return a.admitPeer(p, method)
}

// admitPeer is admit for the other end of a connection; nil: there is none.
func (a *Authorizer) admitPeer(p *peer.Peer, method string) (Identity, error) {
	admitted, err := ruleOf(method)
	if err != nil {
		a.refused.Warn(sourceOf(p), "refused a call", "method", method, "reason", err)
		return Identity{}, status.Error(codes.PermissionDenied, err.Error())
	}
	id, err := a.identify(p)
	if err != nil {
		a.refused.Warn(sourceOf(p), "refused a call", "method", method, "reason", status.Convert(err).Message())
		return Identity{}, err
	}
	if slices.ContainsFunc(admitted, id.Is) {
		return id, nil
	}
	a.refused.Warn(sourceOf(p), "refused a call", "method", method, "caller", id.String())
	if id.Is(authzpb.Caller_CALLER_DEMOTED_MANAGER) {
		return Identity{}, explained(&pkipb.Node{Id: id.NodeID}, authzpb.Refusal_REASON_ROLE_CHANGED,
			fmt.Sprintf("node %s is a worker now: the certificate it shows is a manager's", id.NodeID))
	}
	return Identity{}, status.Errorf(codes.PermissionDenied, "%s is for %s, not for %s", method, describe(admitted), id)
}

// sourceOf is what refusals of a caller are counted by: its host.
func sourceOf(p *peer.Peer) string {
	if p == nil || p.Addr == nil {
		return "nowhere"
	}
	if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
		return host
	}
	return p.Addr.String()
}

// identify says who is at the other end of the call's connection, now.
func (a *Authorizer) identify(p *peer.Peer) (Identity, error) {
	if p == nil {
		return Identity{}, status.Error(codes.Unauthenticated, "the call came over no connection")
	}
	id, err := a.identifyInfo(p.AuthInfo)
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
	case *ConnInfo:
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
	case alpn == ALPNLock && role == profilepb.Role_ROLE_BOOT:
		return authzpb.Caller_CALLER_BOOT, nil
	}
	return 0, status.Errorf(codes.PermissionDenied, "that certificate may not use the protocol %s", alpn)
}

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

// CheckPeer is the check at connect, for every protocol of port 2377: it
// returns a refusal unless the peer (nil: no certificate) could use it now.
//
// Between managers (raft, the splice to the leader, what they know of each
// other's disks) the record says only
// whether the node was removed or is none: a manager that lags behind has old
// records, and were it to refuse the leader's newer certificate, it could never
// catch up. Who belongs to raft is the raft configuration's to say.
func (a *Authorizer) CheckPeer(alpn string, p *Peer) error {
	if p == nil {
		return nil
	}
	if alpn == ALPNGRPC || alpn == ALPNLocal || alpn == ALPNLock {
		_, err := a.identifyNode(alpn, p)
		return err
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

// certified reports whether the caller showed a certificate.
func certified(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	info, ok := p.AuthInfo.(*ConnInfo)
	return ok && info.Peer != nil
}

func certExpiry(ctx context.Context) (time.Time, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return time.Time{}, false
	}
	info, ok := p.AuthInfo.(*ConnInfo)
	if !ok || info.Peer == nil {
		return time.Time{}, false
	}
	return info.Peer.Leaf.NotAfter, true
}

var kindNames = map[authzpb.Caller]string{
	authzpb.Caller_CALLER_ANYONE:             "a joining node",
	authzpb.Caller_CALLER_WORKER:             "workers",
	authzpb.Caller_CALLER_MANAGER:            "managers",
	authzpb.Caller_CALLER_BOOT:               "locked managers",
	authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT: "root on a manager",
	authzpb.Caller_CALLER_NODE_LOCAL_ROOT:    "root on the node itself",
	authzpb.Caller_CALLER_DEMOTED_MANAGER:    "demoted managers",
}

func describe(kinds []authzpb.Caller) string {
	var names []string
	for _, k := range kinds {
		if n, ok := kindNames[k]; ok {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return fmt.Sprint(kinds)
	}
	return strings.Join(names, " and ")
}
