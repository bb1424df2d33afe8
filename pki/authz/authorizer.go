package authz

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/quietlog"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// Directory answers who is a member.
type Directory interface {
	// Node returns the record of that node, or nil where there is none.
	Node(id string) (*pkipb.Node, error)
	// Changes calls changed with the subjects (profile.Identity.Subject) of records
	// that changed, or with nil when any may have, until ctx ends.
	Changes(ctx context.Context, changed func(subjects []string)) error
}

// People answers which people there are.
type People interface {
	// Person returns the record of that name, or nil where there is none.
	Person(name string) (*pkipb.Person, error)
}

// Judge permits what operators do.
type Judge interface {
	// Judge returns a refusal unless id may do all of acts now.
	Judge(ctx context.Context, id Identity, acts []Act) error
	// Consent is asked of a call that Judge permits, once, before its handler. It
	// returns the handler's context, or a refusal where others must be for the
	// request who are not yet.
	Consent(ctx context.Context, id Identity, method string, request proto.Message, acts []Act) (context.Context, error)
	// Changes calls changed whenever Judge may say something else than before,
	// until ctx ends.
	Changes(ctx context.Context, changed func()) error
}

// Config is what an Authorizer needs.
type Config struct {
	// Directory is nil on a node that has no store: a worker, or a locked
	// manager. Then no node certificate is admitted, save a boot leaf to what
	// admits boot leaves.
	Directory Directory
	// People is nil where no person is admitted.
	People People
	// Manager reports whether this node is an unlocked manager, which makes its
	// local root an operator. Nil: it is not.
	Manager func() bool
	// Judge is asked for each call of a method that has verbs. Nil: such calls are
	// refused.
	Judge Judge
	// Carries: no such call is answered here; who it is carried to judges it.
	Carries bool
	// Changed is called, never concurrently, after the streams of subjects whose
	// records changed were looked at again (nil: of all), so that the owner of the
	// connections can do the same. May be nil.
	Changed func(subjects []string)
	// Refused is told of calls that are refused, of whom as far as that is known,
	// and why. It must not wait. May be nil.
	Refused func(id Identity, method, reason string)
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
	if c.Refused == nil {
		c.Refused = func(Identity, string, string) {}
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

// UserServerOptions are the same for a server on the socket for users, as
// UserCredentials says.
func (a *Authorizer) UserServerOptions(gid uint32, names func(uid uint32) (string, error), refused func(error)) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(UserCredentials(gid, names, refused)),
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
	ctx = context.WithValue(ctx, contextKey{}, id)
	if ctx, err = a.Judged(ctx, info.FullMethod, req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// Admit judges a call that came within a stream, as if it had come by itself over
// the stream's connection, and returns the context for its handler. Whoever opened
// the stream may do no more for it.
func (a *Authorizer) Admit(ctx context.Context, method string) (context.Context, error) {
	id, err := a.admit(ctx, method)
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, contextKey{}, id), nil
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
		return next(srv, a.checked(ss, context.WithValue(ctx, contextKey{}, id), info.FullMethod, nil))
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
	err = next(srv, a.checked(ss, context.WithValue(call.ctx, contextKey{}, id), info.FullMethod, call))
	if cause := context.Cause(call.ctx); cause != nil && ctx.Err() == nil {
		return cause
	}
	return err
}

// Carry judges a call that came over a local socket of the manager self, and
// that this very manager answers, as if it had been carried to it under self's
// certificate: the path is shorter, what is checked is the same. It returns the
// context for the handler. The caller is the one in ctx, local root or a user; nothing
// here looks at the connection.
func (a *Authorizer) Carry(ctx context.Context, method string, self *Peer) (context.Context, error) {
	info := &ConnInfo{Peer: self}
	_, alpn, err := Carried(ctx)
	if err != nil {
		return nil, err
	}
	info.State.NegotiatedProtocol = alpn
	caller, _ := FromContext(ctx)
	as := &peer.Peer{AuthInfo: info}
	if p, ok := peer.FromContext(ctx); ok {
		as.Addr = p.Addr
	}
	id, err := a.admitPeer(as, caller.User, method)
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, contextKey{}, id), nil
}

type checkedStream struct {
	grpc.ServerStream
	ctx context.Context
	// judge looks at the request, once, and returns the context of what comes after;
	// nil: it has been, or need not be.
	judge func(request any) (context.Context, error)
}

func (s *checkedStream) Context() context.Context { return s.ctx }

func (s *checkedStream) RecvMsg(m any) error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	if err := s.ServerStream.RecvMsg(m); err != nil || s.judge == nil {
		return err
	}
	judge := s.judge
	s.judge = nil
	ctx, err := judge(m)
	if err == nil && ctx != s.ctx {
		s.ctx = ctx
	}
	return err
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
	user, err := userOf(ctx)
	if err != nil {
		reason := status.Convert(err).Message()
		id, _ := a.identify(p, "") // whose machine says so
		a.refused.Warn(sourceOf(p), "refused a call", "method", method, "reason", reason)
		a.cfg.Refused(id, method, reason)
		return Identity{}, err
	}
	return a.admitPeer(p, user, method)
}

// admitPeer is admit for the other end of a connection; nil: there is none. user is
// who the call says it is of.
func (a *Authorizer) admitPeer(p *peer.Peer, user, method string) (Identity, error) {
	rule, err := ruleOf(method)
	if err != nil {
		a.refused.Warn(sourceOf(p), "refused a call", "method", method, "reason", err)
		return Identity{}, status.Error(codes.PermissionDenied, err.Error())
	}
	id, err := a.identify(p, user)
	if err != nil {
		reason := status.Convert(err).Message()
		a.refused.Warn(sourceOf(p), "refused a call", "method", method, "reason", reason)
		a.cfg.Refused(id, method, reason)
		return Identity{}, err
	}
	if slices.ContainsFunc(rule.callers, id.Is) {
		return id, nil
	}
	a.refused.Warn(sourceOf(p), "refused a call", "method", method, "caller", id.String())
	a.cfg.Refused(id, method, "it is for "+describe(rule.callers))
	if id.Is(authzpb.Caller_CALLER_DEMOTED_MANAGER) {
		return Identity{}, explained(&pkipb.Node{Id: id.NodeID}, authzpb.Refusal_REASON_ROLE_CHANGED,
			fmt.Sprintf("node %s is a worker now: the certificate it shows is a manager's", id.NodeID))
	}
	return Identity{}, status.Errorf(codes.PermissionDenied, "%s is for %s, not for %s", method, describe(rule.callers), id)
}

// sourceOf is what refusals of a caller are counted by: its host.
func sourceOf(p *peer.Peer) string {
	if p == nil {
		return hostOf(nil)
	}
	return hostOf(p.Addr)
}

func hostOf(addr net.Addr) string {
	if addr == nil {
		return "nowhere"
	}
	if host, _, err := net.SplitHostPort(addr.String()); err == nil {
		return host
	}
	return addr.String()
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
	authzpb.Caller_CALLER_PERSON:             "people",
	authzpb.Caller_CALLER_LOCAL_USER:         "users of a manager's machine",
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
