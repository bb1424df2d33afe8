package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/authority"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/events"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/identity"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// keepAlive finds nodes that vanished and keeps callers from asking too often.
var keepAlive = []grpc.ServerOption{
	grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(256), grpc.ConnectionTimeout(10 * time.Second),
	grpc.MaxHeaderListSize(maxHeaders),
}

// maxHeaders bounds the headers of a call in bytes; ours are below 1 KiB.
const maxHeaders = 16 << 10

// lean is for the many sessions that say little: a small buffer for reading, and
// one for writing that gRPC shares among connections.
var lean = []grpc.ServerOption{grpc.ReadBufferSize(4 << 10), grpc.WriteBufferSize(16 << 10)}

// busy suits a server that many calls a second come to: workers whose stacks
// have grown already, one for each call of a full connection, and windows that need no probing.
var busy = []grpc.ServerOption{
	grpc.NumStreamWorkers(64), grpc.InitialWindowSize(1 << 20), grpc.InitialConnWindowSize(4 << 20),
}

// serveOn serves srv on the protocol's listener until ctx ends. Every service
// must have said who may call it.
func serveOn(ctx context.Context, p *port.Port, alpn string, srv *grpc.Server) error {
	l, err := listenFor(p, alpn, srv)
	if err != nil {
		return err
	}
	return serveGRPC(ctx, srv, l)
}

// listenFor is a protocol's listener, for a server whose methods all say who may
// call them.
func listenFor(p *port.Port, alpn string, srv *grpc.Server) (net.Listener, error) {
	if err := authz.CheckServer(srv); err != nil {
		return nil, err
	}
	return p.Listen(alpn)
}

// serveGRPC serves on each of ls until ctx ends and returns ctx's error then.
func serveGRPC(ctx context.Context, srv *grpc.Server, ls ...net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		srv.Stop()
	})
	ended := make(chan error, len(ls))
	var serving sync.WaitGroup
	for _, l := range ls {
		serving.Go(func() { ended <- srv.Serve(l) })
	}
	err := <-ended
	if stop() {
		srv.Stop()
		err = fmt.Errorf("a server stopped: %w", err)
	} else {
		<-stopped
		err = ctx.Err()
	}
	serving.Wait()
	return err
}

// serveLock answers whether this manager is locked; m is nil where it is.
func (n *Node) serveLock(ctx context.Context, p *port.Port, az *authz.Authorizer, boot *pki.Credentials, m *managerState) error {
	if az == nil {
		az = authz.New(authz.Config{Logger: n.log.With("part", "authz")})
	}
	options := slices.Concat(az.ServerOptions(), keepAlive)
	if m != nil {
		options = append(options, recording(m.records())...)
	}
	srv := grpc.NewServer(options...)
	pkipb.RegisterLockServer(srv, lockServer{locked: m == nil})
	controlpb.RegisterUnlockingServer(srv, unlocking{n: n, boot: boot, m: m})
	return serveOn(ctx, p, pki.ALPNLock, srv)
}

type lockServer struct {
	pkipb.UnimplementedLockServer
	locked bool
}

func (s lockServer) LockStatus(context.Context, *pkipb.LockStatusRequest) (*pkipb.LockStatusResponse, error) {
	return &pkipb.LockStatusResponse{Locked: s.locked, Now: time.Now().UnixNano()}, nil
}

// serve runs the services of an unlocked manager and, while it leads, the
// leader's work.
func (m *managerState) serve(ctx context.Context, p *port.Port, az *authz.Authorizer) error {
	n := m.n
	outside := &externals{outcome: m.noteExternal}
	sign := timedSigner{signer{n.keyd, outside}, m.clocks.mayLead, m.newestKeyset}
	var d *dispatcher.Dispatcher
	var err error
	ca := authority.New(authority.Config{Store: m.store, Signer: sign, Epoch: m.keysetEpoch.Load,
		Probe: outside.client.Probe, OrderKey: n.orderKey,
		Sessions: func() []dispatcher.SessionInfo { return d.Sessions() }, Logger: n.log.With("part", "authority")})
	trusted := func(string) { // what a node trusts may end a phase, or be less than it should
		ca.Look()
		m.wakeSpread()
	}
	d, err = dispatcher.New(dispatcher.Config{Store: m.store, Managers: m.addresses, Membership: m.membershipOf, Trusted: trusted,
		Seal: n.sealSecrets, ClusterID: n.who().ClusterID, Logger: n.log.With("part", "dispatcher")})
	if err != nil {
		return err
	}
	m.dispatcher.Store(d)
	pending := new(pki.Pending)
	hub := events.New(m.store, n.log.With("part", "events"))
	join, err := pki.NewJoinServer(pki.JoinConfig{Pending: pending, OnWait: hub.Waits,
		Store: m.store, Signer: sign, ClusterID: n.who().ClusterID, Slots: m.slots, OnJoin: onJoin,
		Logger: n.log.With("part", "join")})
	if err != nil {
		return err
	}
	records := m.records()
	nodes := grpc.NewServer(append(slices.Concat(az.ServerOptions(), keepAlive, lean), recording(records)...)...)
	pkipb.RegisterJoinServer(nodes, join)
	pkipb.RegisterRenewServer(nodes, pki.NewRenewServer(m.store, sign, n.log.With("part", "renew")))
	members, err := pki.NewMembershipServer(pki.MembershipConfig{Store: m.store, Signer: sign, Slots: m.slots, OnRole: onRole,
		Logger: n.log.With("part", "membership")})
	if err != nil {
		return err
	}
	pkipb.RegisterMembershipServer(nodes, members)
	enrolment := pki.NewPeopleServer(m.store, sign, n.who().ClusterID, n.log.With("part", "people"))
	pkipb.RegisterEnrolmentServer(nodes, enrolment)
	schedulerpb.RegisterDispatcherServer(nodes, d)
	schedulerpb.RegisterDeliveryServer(nodes, d)
	identities := identity.New(identity.Config{Store: m.store, ClusterID: n.who().ClusterID, Sign: n.signWorkloads, Logger: n.log.With("part", "identity")})
	schedulerpb.RegisterWorkloadIdentityServer(nodes, identities)

	api := control.New(control.Config{Store: m.store, ClusterID: n.who().ClusterID, Minter: sign, Inviter: sign, Roles: m.roles, Pending: pending, Rotator: sign, Images: images{n}, Lock: ownLock{n}, Backups: backups{n}, Authority: ca, Logs: d, Execs: d, Mesh: d, Checks: d, Sessions: d.Sessions, Records: recordsOf{m}, Reports: reportSigner{n.keyd, m.store.Records}, Held: identities.Held, Workloads: identities,
		Events: hub, Locked: m.askLocked, Look: m.look, Skews: m.skews, Offset: m.clocks.offset, Logger: n.log.With("part", "control")})
	unary, stream := api.Interceptors()
	operators := grpc.NewServer(append(slices.Concat(az.ServerOptions(), keepAlive, busy, recording(records)), grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream))...)
	control.Register(operators, api)
	users := grpc.NewServer(append(slices.Concat(az.ServerOptions(), keepAlive, busy, recording(records)), grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream))...)
	control.Register(users, api)
	people := grpc.NewServer(append(slices.Concat(az.ServerOptions(), keepAlive, busy, recording(records)), grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream))...)
	control.Register(people, api)
	pkipb.RegisterPersonRenewalServer(people, enrolment)
	m.direct.Store(&direct{api: api, az: az, records: records})
	forNodes, err := listenFor(p, pki.ALPNGRPC, nodes)
	if err != nil {
		return err
	}
	forOperators, err := listenFor(p, pki.ALPNLocal, operators)
	if err != nil {
		return errors.Join(err, forNodes.Close())
	}
	forPeople, err := listenFor(p, pki.ALPNPerson, people)
	if err != nil {
		return errors.Join(err, forNodes.Close(), forOperators.Close())
	}
	forUsers, err := listenFor(p, pki.ALPNUser, users)
	if err != nil {
		return errors.Join(err, forNodes.Close(), forOperators.Close(), forPeople.Close())
	}
	close(m.serving)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(ctx, hub.Run(ctx)) })
	g.Go(func() error { return serveGRPC(ctx, nodes, forNodes) })
	g.Go(func() error { return serveGRPC(ctx, operators, forOperators) })
	g.Go(func() error { return serveGRPC(ctx, people, forPeople) })
	g.Go(func() error { return serveGRPC(ctx, users, forUsers) })
	g.Go(func() error {
		return ended(ctx, m.store.WhileLeader(ctx, func(ctx context.Context) { m.lead(ctx, d, ca, api) }))
	})
	return g.Wait()
}

// onJoin makes the scheduler's record of a node that joins.
func onJoin(tx *raftstore.Tx, node *pkipb.Node) error {
	if err := checkManager(tx, node, codes.PermissionDenied); err != nil {
		return err
	}
	return schedstore.RegisterNode(tx, node.GetId(), node.GetRole() == profilepb.Role_ROLE_MANAGER)
}

// onRole keeps the scheduler's record of a node whose role changed.
func onRole(tx *raftstore.Tx, node *pkipb.Node) error {
	if err := checkManager(tx, node, codes.FailedPrecondition); err != nil {
		return err
	}
	return schedstore.SetNodeRole(tx, node.GetId(), node.GetRole() == profilepb.Role_ROLE_MANAGER)
}

// checkManager has the node hear, with that code, why it cannot be a manager where it
// wants to be reached.
func checkManager(tx *raftstore.Tx, node *pkipb.Node, code codes.Code) error {
	err := schedstore.CheckManager(tx, node)
	if errors.As(err, new(*schedstore.RefusedError)) {
		return status.Error(code, err.Error())
	}
	return err
}

// slots are the unlock slots that a joining manager seals to.
func (m *managerState) slots(context.Context) (out []byte, err error) {
	err = m.store.View(func(r *raftstore.ReadTx) error {
		rec, ok := autolockstore.Slots.Get(r, autolockstore.RecordID)
		if !ok {
			return fmt.Errorf("the store has no unlock slots")
		}
		out, err = proto.Marshal(rec.GetSet())
		return err
	})
	return out, err
}

// addresses of the managers, for nodes to know.
func (m *managerState) addresses() (out []string) {
	for _, s := range m.store.Servers() {
		if s.Voter {
			out = append(out, s.Addr)
		}
	}
	slices.Sort(out)
	return out
}

// ownLock is what this node's rund trusts of the deployment lock.
type ownLock struct{ n *Node }

func (o ownLock) Trusted(ctx context.Context) (*lockpb.Chain, bool, error) {
	resp, err := o.n.rund.Client().Lock(ctx, &rundpb.LockRequest{})
	return resp.GetState().GetChain(), resp.GetOn(), messageOf(err)
}

// images resolves references by way of this node's rund, which holds the
// registries' configuration.
type images struct{ n *Node }

func (i images) Resolve(ctx context.Context, reference string) (string, []string, error) {
	resp, err := i.n.rund.Client().ResolveImage(ctx, &rundpb.ResolveImageRequest{Reference: reference})
	return resp.GetDigest(), resp.GetPlatforms(), messageOf(err)
}

func (i images) Evidence(ctx context.Context, reference, digest string, kept bool) (out imagepolicy.Evidence, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := i.n.rund.Client().ImageEvidence(ctx, &rundpb.ImageEvidenceRequest{Reference: reference, Digest: digest, Kept: kept})
	if err != nil {
		return out, messageOf(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return imagepolicy.Evidence{}, messageOf(err)
		}
		if l := m.GetLeft(); l != "" {
			out.Left = append(out.Left, l)
		} else {
			out.Add(imagepolicy.Evidence{Bundles: [][]byte{m.GetBundle()}})
		}
	}
}
