package node

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/version"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// maxMessage bounds a message on the local socket in bytes; larger things are
// streams.
const maxMessage = 4 << 20

// helperPatience is how long status waits for the helpers.
const helperPatience = 2 * time.Second

// maxAnswer bounds an answer of the leader that is passed on, in bytes: a listing
// of 100,000 tasks fits.
const maxAnswer = 64 << 20

// serveLocal serves this node's own socket, and what comes in this process on behalf of
// its root, until ctx ends: Bootstrap here, and Control by way of the leader.
func (n *Node) serveLocal(ctx context.Context, ls ...net.Listener) error {
	// Calls of the operator API are judged by the leader, from the connection
	// that dialLeader makes; here they only get as far as being told why there
	// is none.
	az := authz.New(authz.Config{Manager: func() bool { return true }, Carries: true, Refused: n.refusedHere, Logger: n.log})
	return n.serveOperators(ctx, ls, az, az.LocalServerOptions(), proxy{n.dialLeader, n.direct}, func(srv *grpc.Server) {
		controlpb.RegisterBootstrapServer(srv, bootstrap{n: n})
		controlpb.RegisterSharesServer(srv, shares{n: n})
	})
}

// serveOperators serves a local socket, or several, until ctx ends: what register adds,
// and Control by way of carry.
func (n *Node) serveOperators(ctx context.Context, ls []net.Listener, az *authz.Authorizer, options []grpc.ServerOption, carry proxy, register func(*grpc.Server)) error {
	unary, stream := control.Interceptors(n.log)
	srv := grpc.NewServer(append(slices.Concat(options, busy),
		grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream),
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.UnknownServiceHandler(carry.handle),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(64),
		grpc.KeepaliveParams(keepalive.ServerParameters{}))...)
	controlpb.RegisterCallStreamServer(srv, carried{az: az, proxy: carry, log: n.log})
	register(srv)
	var carriedTo []string
	for _, d := range controlpb.OperatorServices {
		carriedTo = append(carriedTo, d.ServiceName)
	}
	if err := errors.Join(authz.CheckServer(srv), authz.CheckAll(carriedTo...)); err != nil {
		return err
	}
	return serveGRPC(ctx, srv, ls...)
}

// dialLeader returns a connection to the leader for the operator API, by that protocol.
func (n *Node) dialLeader(ctx context.Context, alpn string) (grpc.ClientConnInterface, error) {
	n.mu.Lock()
	live, self, phase := n.live, n.self, n.st.phase
	n.mu.Unlock()
	m, ok := live.(*managerState)
	switch {
	case ok:
		return m.leaderConn(ctx, alpn)
	case self == nil:
		return nil, apierr.NoCluster()
	case !self.Manager:
		return nil, apierr.NotManager()
	case phase == controlpb.NodePhase_NODE_PHASE_LOCKED:
		return nil, apierr.Locked()
	}
	return nil, apierr.NoLeader()
}

// bootstrap is the service of that name.
type bootstrap struct {
	controlpb.UnimplementedBootstrapServer
	n *Node
}

func (b bootstrap) Init(ctx context.Context, req *controlpb.InitRequest) (*controlpb.InitResponse, error) {
	m, err := b.n.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	return &controlpb.InitResponse{ClusterId: m.ClusterID, NodeId: m.NodeID}, nil
}

// joinRequest is a JoinRequest whose token was read.
type joinRequest struct {
	*controlpb.JoinRequest
	token pki.Token
	gone  <-chan struct{} // closed: nobody waits for it any more
}

func (b bootstrap) Join(ctx context.Context, req *controlpb.JoinRequest) (*controlpb.JoinResponse, error) {
	token, err := pki.ParseToken(req.GetToken())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	req.Token = ""
	m, err := b.n.ask(ctx, &joinRequest{req, token, ctx.Done()})
	if err != nil {
		return nil, err
	}
	resp := &controlpb.JoinResponse{ClusterId: m.ClusterID, NodeId: m.NodeID, Role: profilepb.Role_ROLE_WORKER}
	if m.Manager {
		resp.Role = profilepb.Role_ROLE_MANAGER
	}
	return resp, nil
}

func (b bootstrap) Leave(ctx context.Context, req *controlpb.LeaveRequest) (*controlpb.LeaveResponse, error) {
	_, err := b.n.ask(ctx, req)
	return &controlpb.LeaveResponse{}, err
}

func (b bootstrap) LocalStatus(ctx context.Context, _ *controlpb.LocalStatusRequest) (*controlpb.LocalStatusResponse, error) {
	n := b.n
	s, self := n.status(), n.who()
	// A helper that hangs must not keep the operator from seeing the rest.
	ctx, cancel := context.WithTimeout(ctx, helperPatience)
	defer cancel()
	resp := &controlpb.LocalStatusResponse{Phase: s.phase, NodeId: self.NodeID, ClusterId: self.ClusterID,
		Version: version.String(), Leader: s.leader, LeaderAddress: s.leaderAddr, LeafNotAfter: s.leafNotAfter,
		Session: s.session, Message: s.message, Protections: n.env.Protections}
	if m := n.mesh.Load(); m != nil {
		resp.Mesh = m.status()
	}
	n.mu.Lock()
	live := n.live
	n.mu.Unlock()
	if m, ok := live.(*managerState); ok && s.phase == controlpb.NodePhase_NODE_PHASE_NO_QUORUM {
		if who := m.absent(ctx); who != "" {
			resp.Message += "; " + who
		}
	}
	if st, err := n.keyd.Status(ctx); err == nil {
		for _, p := range st.GetProtections() {
			resp.Protections = append(resp.Protections, "keyd: "+p)
		}
		if n.env.FIPS && !daemon.InFIPS(st.GetProtections()) { // its start was before the configuration's change
			resp.Protections = append(resp.Protections, "keyd: NOT in FIPS mode: start all daemons of this node anew")
		}
	}
	if f := n.approval.Load(); f != nil {
		resp.Approval = *f
	}
	resp.TpmEk = n.tpmHash(ctx)
	switch {
	case self.NodeID == "":
	case self.Manager:
		resp.Role = profilepb.Role_ROLE_MANAGER
	default:
		resp.Role = profilepb.Role_ROLE_WORKER
	}
	if f := n.fips(); f != nil {
		resp.Features = append(resp.Features, f)
	}
	if p, err := n.rund.Probe(ctx); err == nil {
		resp.Features = append(resp.Features, p.GetFeatures()...)
	}
	return resp, nil
}

// LoadImage passes the archive on to rund and then has the agent report it.
func (b bootstrap) LoadImage(in controlpb.Bootstrap_LoadImageServer) error {
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	out, err := b.n.rund.Client().ImportImage(ctx)
	if err != nil {
		return err
	}
	for {
		chunk, err := in.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := out.Send(&rundpb.ImportImageRequest{Data: chunk.GetData()}); err != nil {
			break // the answer says why
		}
	}
	resp, err := out.CloseAndRecv()
	if err != nil {
		return err
	}
	b.n.lookAgain()
	// Who creates a service next means this image by its name. A node without a
	// session reports it when it has one.
	if b.n.status().session {
		b.n.reported.await(ctx, resp.GetImages(), reportPatience)
	}
	return in.SendAndClose(&controlpb.LoadImageResponse{Images: resp.GetImages()})
}
