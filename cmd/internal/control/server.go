// Package control answers the operator API: services, tasks, configs, nodes,
// join tokens, unlock slots, logs and the cluster's status.
//
// It runs on the leader and is only ever called for who may: package authz has
// asked for the caller, and package roles for what the request does, before a handler
// runs. A handler validates what
// it was given, changes the store in one transaction and answers; it holds no
// state of its own, so that any manager can take over between two calls.
// Refusals are apierr's: one line and the remedy. Anything else that fails is
// logged here under the request's id and answered as an internal error.
package control

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/events"
	"github.com/redoubt-cluster/redoubt/cmd/internal/outside"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// Minter has keyd sign a token's record.
type Minter interface {
	MintToken(ctx context.Context, r *profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error)
}

// Images finds what a reference means now.
type Images interface {
	// Resolve asks the reference's registry for its digest, and the machines it
	// is made for where that is known.
	Resolve(ctx context.Context, reference string) (digest string, platforms []string, err error)
	// Evidence is what is beside an image of that digest: kept is what is on this
	// manager, else what its registry has. Nothing of it is verified.
	Evidence(ctx context.Context, reference, digest string, kept bool) (imagepolicy.Evidence, error)
}

// Lock is this node's trust in deployers.
type Lock interface {
	// Trusted is the chain that the node follows, or nil, and whether it runs signed
	// services alone.
	Trusted(ctx context.Context) (chain *lockpb.Chain, on bool, err error)
}

// Workloads says what was issued for an identity, or to a node's tasks, and has not
// ended.
type Workloads interface {
	IssuedFor(identity string) ([]*pkipb.IssuedCertificate, error)
	IssuedTo(node string) ([]*pkipb.IssuedCertificate, error)
}

// Config is what the server needs.
type Config struct {
	Store     *raftstore.Store
	ClusterID string
	Minter    Minter
	// Inviter has keyd sign invitations.
	Inviter pki.InvitationMinter
	Rotator Rotator
	Images  Images
	// Lock tells what this node trusts of the deployment lock; nil: nobody does.
	Lock    Lock
	Backups Backups
	// Roles says who may do what; nil: nobody can be asked.
	Roles *roles.Engine
	// Pending are the machines that wait for an operator.
	Pending *pki.Pending
	// Authority answers for the certificate authorities.
	Authority controlpb.AuthorityServer
	Logs      LogSource
	Execs     ExecSource
	Mesh      MeshSource
	// Checks has nodes judge themselves; nil: none is asked.
	Checks NodeChecks
	// Reports has keyd sign compliance reports; nil: none is signed.
	Reports ReportSigner
	// Records asks the other managers what they have of the audit log.
	Records RecordsOf
	// Sessions lists the nodes that are connected now.
	Sessions func() []dispatcher.SessionInfo
	// Held is what nodes say that their tasks hold of identities, by node.
	Held func() map[string][]*schedulerpb.HeldIdentity
	// Workloads knows which certificates of workloads have not ended; nil: nobody
	// does, and none is listed as revoked.
	Workloads Workloads
	// Events is what has happened; somebody else runs it.
	Events *events.Hub
	// Locked asks a manager that is away whether it is only locked.
	Locked func(ctx context.Context, nodeID, addr string) bool
	// Look looks at another manager from outside; nil: nobody does.
	Look func(ctx context.Context, nodeID, addr string) (*outside.Seen, error)
	// Skews are the managers whose clocks are wrong, and by how much.
	Skews func() map[string]time.Duration
	// Offset is how far this manager's clock is ahead of the managers' median:
	// nodes measure theirs by this manager's.
	Offset func() time.Duration
	// KeydPatience is how long keyd is waited for where a manager leaves and it made
	// keysets too often just now. Zero: 15 s, longer than it takes to allow one more.
	KeydPatience time.Duration
	Logger       *slog.Logger
}

// Server implements the services of the operator API.
type Server struct {
	controlpb.UnimplementedControlServer
	controlpb.UnimplementedExecsServer
	controlpb.UnimplementedSlotsServer
	controlpb.UnimplementedRevocationServer
	controlpb.UnimplementedIdentitiesServer
	controlpb.UnimplementedAdmissionServer
	controlpb.UnimplementedSecretsServer
	controlpb.UnimplementedAccessServer
	controlpb.UnimplementedAuditServer
	controlpb.UnimplementedPeopleServer
	controlpb.UnimplementedComplianceServer
	controlpb.UnimplementedWaiversServer
	controlpb.UnimplementedApprovalsServer
	controlpb.UnimplementedImagePolicyServer
	controlpb.UnimplementedPlacementServer
	controlpb.UnimplementedVolumesServer
	controlpb.AuthorityServer
	c Config
	// chain is held while a compliance report is signed and put behind the one before.
	chain chan struct{}
}

// Register has srv answer all of them.
func Register(srv *grpc.Server, s *Server) {
	controlpb.RegisterControlServer(srv, s)
	controlpb.RegisterExecsServer(srv, s)
	controlpb.RegisterRevocationServer(srv, s)
	controlpb.RegisterIdentitiesServer(srv, s)
	controlpb.RegisterSlotsServer(srv, s)
	controlpb.RegisterAdmissionServer(srv, s)
	controlpb.RegisterAuthorityServer(srv, s)
	controlpb.RegisterSecretsServer(srv, s)
	controlpb.RegisterAccessServer(srv, s)
	controlpb.RegisterAuditServer(srv, s)
	controlpb.RegisterPeopleServer(srv, s)
	controlpb.RegisterComplianceServer(srv, s)
	controlpb.RegisterWaiversServer(srv, s)
	controlpb.RegisterApprovalsServer(srv, s)
	controlpb.RegisterImagePolicyServer(srv, s)
	controlpb.RegisterPlacementServer(srv, s)
	controlpb.RegisterVolumesServer(srv, s)
}

// New returns a server.
func New(c Config) *Server {
	if c.Pending == nil {
		c.Pending = new(pki.Pending)
	}
	if c.Authority == nil {
		c.Authority = controlpb.UnimplementedAuthorityServer{}
	}
	return &Server{AuthorityServer: c.Authority, c: c, chain: make(chan struct{}, 1)}
}

// update runs one transaction.
func (s *Server) update(ctx context.Context, fn func(*raftstore.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	return s.c.Store.Update(ctx, fn)
}

// view reads what is committed now, not what was when this server last heard.
func (s *Server) view(ctx context.Context, fn func(*raftstore.ReadTx) error) error {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	if err := s.c.Store.Barrier(ctx); err != nil {
		return err
	}
	return s.c.Store.View(fn)
}

// refusal turns what the rooms below return into what callers are told.
func refusal(err error) error {
	var lookup *resolve.Error
	var refused *schedstore.RefusedError
	var ofMesh *meshstore.RefusedError
	var ofSecrets *secretstore.RefusedError
	var taken *secretstore.NameTakenError
	var dup *raftstore.DuplicateError
	var level *raftstore.LevelError
	switch {
	case err == nil, apierr.ReasonOf(err) != "":
		return err
	case errors.As(err, &lookup) && lookup.Matches > 1:
		return apierr.Ambiguous(lookup.Kind, lookup.Ref, lookup.Matches, lookup.Found)
	case errors.As(err, &lookup):
		return apierr.NotFound("", "%v", lookup)
	case errors.As(err, &refused):
		return apierr.Invalid("", "%v", refused)
	case errors.As(err, &ofMesh):
		return apierr.State("", "%v", ofMesh)
	case errors.As(err, &ofSecrets):
		return apierr.State("", "%v", ofSecrets)
	case errors.As(err, &taken):
		return apierr.Exists("", "%v", taken)
	case errors.As(err, &level):
		return apierr.State("", "%v", level)
	case errors.As(err, &dup):
		return apierr.Exists("choose another name", "%q exists already in %s", dup.Key, dup.Table)
	case errors.Is(err, schedstore.ErrChanged), errors.Is(err, secretstore.ErrChanged), errors.Is(err, raftstore.ErrConflict):
		return apierr.Conflict("object")
	case errors.Is(err, raftstore.ErrNotLeader), errors.Is(err, raftstore.ErrClosed):
		return apierr.NoLeader()
	case errors.Is(err, raftstore.ErrUncertain):
		return apierr.New(apierr.ReasonTimeout, "look before you repeat it", "the managers did not confirm in time; it may still take effect")
	case errors.Is(err, raftstore.ErrTooLarge):
		return apierr.Invalid("make it smaller", "the request is too large")
	}
	return err
}

// Interceptors give every call an id, log it, and make its error presentable.
func (s *Server) Interceptors() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	unary, stream := interceptors(s.c.Logger, s.Named)
	notice, notices := s.notifying()
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			return unary(ctx, req, info, func(ctx context.Context, req any) (any, error) { return notice(ctx, req, info, h) })
		}, func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return stream(srv, ss, info, func(srv any, ss grpc.ServerStream) error { return notices(srv, ss, info, h) })
		}
}

// Named puts names in place of ids where managers are to be upgraded. The
// interceptors do; who calls a method without them does it.
func (s *Server) Named(err error) error {
	var level *raftstore.LevelError
	if !errors.As(err, &level) {
		return err
	}
	_ = s.c.Store.View(func(r *raftstore.ReadTx) error { // else the ids must do
		for i, id := range level.Behind {
			if n, ok := pkistore.Nodes.Get(r, id); ok {
				level.Behind[i] = n.GetName()
			}
		}
		return nil
	})
	return err
}

// Interceptors is Server.Interceptors for servers of other services.
func Interceptors(log *slog.Logger) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	return interceptors(log, func(err error) error { return err })
}

func interceptors(log *slog.Logger, named func(error) error) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		start := time.Now()
		resp, err := h(ctx, req)
		return resp, Ended(ctx, log, info.FullMethod, start, named(err))
	}
	stream := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		start := time.Now()
		return Ended(ss.Context(), log, info.FullMethod, start, named(h(srv, ss)))
	}
	return unary, stream
}

// Ended logs a call that has ended and returns its error as callers are told.
func Ended(ctx context.Context, log *slog.Logger, method string, start time.Time, err error) error {
	if err == nil && !log.Enabled(ctx, slog.LevelDebug) {
		return nil // as most calls end; not even what would be said is put together
	}
	if err == nil {
		log.DebugContext(ctx, "call", "method", method, "took", time.Since(start))
		return nil
	}
	id := cmp.Or(audit.Request(ctx), ident.New()[:12])
	shown := apierr.FromError(refusal(err), id)
	var other interface{ LoggedElsewhere() bool }
	switch {
	case errors.Is(ctx.Err(), context.Canceled), errors.As(err, &other) && other.LoggedElsewhere():
		// The caller went away, as whoever follows logs does in the end, or
		// another node refused the call and wrote it down.
		log.DebugContext(ctx, "call ended", "method", method, "took", time.Since(start), "err", err)
		return shown
	}
	log.WarnContext(ctx, "call refused", "method", method, "request", id, "took", time.Since(start), "err", err)
	return shown
}
