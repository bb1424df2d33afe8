package pki

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Store is the part of *raftstore.Store that writing needs.
type Store interface {
	View(func(*raftstore.ReadTx) error) error
	Update(context.Context, func(*raftstore.Tx) error) error
}

// JoinConfig is what a JoinServer needs; every field is required.
type JoinConfig struct {
	Store     Store
	Signer    JoinSigner
	ClusterID string
	// Slots returns the serialized unlock slots that a new manager seals to.
	Slots func(ctx context.Context) ([]byte, error)
	// OnJoin writes what others keep of a new node, in the transaction that
	// makes it. It may be run more than once.
	OnJoin func(tx *raftstore.Tx, n *pkipb.Node) error
	// Pending are the machines that wait for an operator.
	Pending *Pending
	// OnWait is told of a machine that begins to wait for an operator.
	OnWait func(PendingNode)
	Logger *slog.Logger
}

// JoinServer admits nodes, on the leader. Callers without a certificate reach it, so
// there is an entrance before it, and what is looked at before the proof is bounded.
type JoinServer struct {
	pkipb.UnimplementedJoinServer
	cfg      JoinConfig
	entrance *entrance
}

// NewJoinServer returns a JoinServer.
func NewJoinServer(c JoinConfig) (*JoinServer, error) {
	if c.Store == nil || c.Signer == nil || c.Slots == nil || c.OnJoin == nil || c.Pending == nil || c.OnWait == nil || c.Logger == nil || !ident.Valid(c.ClusterID) {
		return nil, errors.New("pki: the join server's configuration is incomplete")
	}
	return &JoinServer{cfg: c, entrance: newEntrance(joinAnswers, c.Logger)}, nil
}

// errJoinRefused is the one answer to whoever did not prove to hold a token's
// seed: it never says whether the id or the seed was wrong.
var errJoinRefused = status.Error(codes.PermissionDenied, "the join token is not accepted: make a new one with redoubt join-token")

// errTokenState are the answers to whoever holds the seed.
var (
	errTokenRevoked    = status.Error(codes.PermissionDenied, "the join token was revoked: make a new one with redoubt join-token")
	errTokenUsed       = status.Error(codes.PermissionDenied, "the join token is used up: make a new one with redoubt join-token")
	errTokenExpired    = status.Error(codes.PermissionDenied, profile.ErrTokenExpired.Error())
	errTokenName       = status.Error(codes.PermissionDenied, "the join token admits a node of another name")
	errTokenSource     = status.Error(codes.PermissionDenied, "the join token does not admit this source address")
	errTooManyManagers = status.Errorf(codes.PermissionDenied, "the cluster has %d managers, the most there may be: join as a worker, or remove a manager (redoubt node rm)", raftstore.MaxManagers)
	errJoinInternal    = status.Error(codes.Internal, "the join failed on the manager: see its log")
)

// joinAnswers are those before that.
var joinAnswers = &entranceAnswers{
	identity:   status.Error(codes.PermissionDenied, "this call is for nodes that are in no cluster yet"),
	tooMany:    later(codes.ResourceExhausted, busyPause, "%d joins are under way", maxJoinsAtATime),
	unproved:   errJoinRefused,
	guesses:    status.Errorf(codes.ResourceExhausted, "too many joins from this address had no token of this cluster: see that the token is right, and try again in %v", joinRefill),
	noExporter: status.Error(codes.Unauthenticated, "a join must come over TLS of its own"),
}

// Join implements pkipb.JoinServer.
func (s *JoinServer) Join(ctx context.Context, req *pkipb.JoinRequest) (*pkipb.JoinResponse, error) {
	ctx, source, leave, err := s.entrance.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	j, err := parseJoin(req)
	if err == nil {
		j.exporter, err = s.entrance.exporter(ctx, profile.ExporterLabel, req.GetTokenId())
	}
	if err != nil {
		return nil, err
	}
	resp, err := s.admit(ctx, j, source)
	switch {
	case err != nil:
		return nil, s.entrance.refuse(source, err, "refused a join", "token", req.GetTokenId(), "name", req.GetNodeName())
	case resp.GetLeaf() != nil:
		s.cfg.Logger.Info("a node joined", "source", source.String(), "token", req.GetTokenId(), "name", req.GetNodeName(), "node", resp.GetNodeId(), "role", profile.RoleName(resp.GetRole()))
	}
	return resp, nil
}

// join is a request whose form was checked.
type join struct {
	*pkipb.JoinRequest
	exporter  []byte       // of its connection
	csr, boot *profile.CSR // boot is nil where none was sent
}

func parseJoin(req *pkipb.JoinRequest) (*join, error) {
	j := &join{JoinRequest: req}
	if !ident.Valid(req.GetTokenId()) || len(req.GetProof()) > profile.ExporterLen*2 {
		return nil, errJoinRefused
	}
	var err error
	if err = ident.CheckHostname(req.GetNodeName()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if j.csr, err = profile.ParseCSR(req.GetCsr()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if len(req.GetBootCsr()) > 0 {
		if j.boot, err = profile.ParseCSR(req.GetBootCsr()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	if req.GetAddress() != "" {
		if err = CheckAddress(req.GetAddress()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	return j, nil
}

// form returns whether the request has what that role must send, and nothing
// it must not.
func (j *join) form(role profilepb.Role) bool {
	manager := j.boot != nil && j.csr.KeydKey != nil && j.boot.KeydKey == nil && j.GetAddress() != ""
	worker := j.boot == nil && j.GetAddress() == "" && j.csr.KeydKey == nil
	return role == profilepb.Role_ROLE_MANAGER && manager || role == profilepb.Role_ROLE_WORKER && worker
}

func (s *JoinServer) admit(ctx context.Context, j *join, source netip.Addr) (*pkipb.JoinResponse, error) {
	token, record, err := s.prove(j)
	if err != nil {
		return nil, err
	}
	var c *pkipb.Cluster
	var now time.Time
	if err := s.cfg.Store.View(func(r *raftstore.ReadTx) (err error) {
		now = clusterNow(r)
		c, err = store.GetCluster(r)
		return err
	}); err != nil {
		return nil, errJoinInternal
	}
	who := PendingNode{ID: ident.New(), Name: j.GetNodeName(), Role: record.GetRole(), TokenID: record.GetId(), Source: source.String(),
		Fingerprint: JoinFingerprint(j.GetCsr(), j.GetBootCsr())}
	approved, err := s.cfg.Pending.decided(who, time.Now())
	if err == nil {
		err = checkUse(c, token, record, s.cfg.ClusterID, j.GetNodeName(), source, now)
	}
	if err != nil {
		return nil, err
	}
	if !j.form(record.GetRole()) {
		return &pkipb.JoinResponse{Role: record.GetRole(), RetryAsRole: true}, nil
	}
	if wanted, err := s.wantsTPM(ctx, j, token, record, c.GetAdmission()); wanted != nil || err != nil {
		return &pkipb.JoinResponse{Role: record.GetRole(), Attest: wanted}, err
	}
	n := &pkipb.Node{Id: cmp.Or(approved, who.ID), Name: j.GetNodeName(), Role: record.GetRole(), Address: j.GetAddress(), TokenId: record.GetId()}
	if n.Role == profilepb.Role_ROLE_MANAGER {
		n.KeysetEpoch = KeysetEpoch(c)
	}
	resp := &pkipb.JoinResponse{NodeId: n.Id, ClusterId: s.cfg.ClusterID, Role: n.Role}
	if err := s.sign(ctx, j, token, n, resp, c, approved != ""); err != nil {
		if errors.Is(err, errWantsApproval) {
			who.TPMEK = n.GetTpmEk()
			return s.wait(who)
		}
		if no := (*UnprovedError)(nil); errors.As(err, &no) {
			return nil, status.Error(codes.PermissionDenied, no.Error())
		}
		if errors.Is(err, ErrRotated) {
			return nil, joinStoreError(s.cfg.Logger, err)
		}
		if errors.As(err, new(*SignerBusy)) { // who holds the seed may know
			return nil, later(codes.ResourceExhausted, signerPause, "keyd of the leader was asked for too many certificates or keys")
		}
		if no := (*ExternalError)(nil); errors.As(err, &no) {
			return nil, later(codes.Unavailable, externalPause, "%v", no)
		}
		s.cfg.Logger.Error("signing a join failed", "token", token.GetId(), "error", err)
		return nil, errJoinInternal
	}
	err = s.cfg.Store.Update(ctx, func(tx *raftstore.Tx) error { return s.commit(tx, n, source, j.GetStoreLevel()) })
	if err != nil {
		return nil, joinStoreError(s.cfg.Logger, err)
	}
	s.cfg.Pending.done(who)
	err = s.cfg.Store.View(func(r *raftstore.ReadTx) (err error) {
		if resp.Incarnation, err = Incarnation(r); err != nil {
			return err
		}
		if c, err := store.GetCluster(r); err != nil {
			return err
		} else if c.GetRotation() != nil {
			resp.Roots = RootsOf(c)
		}
		for m := range store.Nodes.By(r, "role", profile.RoleName(profilepb.Role_ROLE_MANAGER)) {
			if !m.GetDenied() && m.GetAddress() != "" {
				resp.Managers = append(resp.Managers, &pkipb.Manager{NodeId: m.GetId(), Address: m.GetAddress()})
			}
		}
		return nil
	})
	if err != nil {
		return nil, errJoinInternal
	}
	return resp, nil
}

// unknownKey stands in for the key of a token that does not exist, so that an
// unknown id costs as much time as a wrong seed.
var unknownKey = NewToken().PublicKey()

// sign has the certificates made and checks that they are what was asked for.
func (s *JoinServer) sign(ctx context.Context, j *join, t *pkipb.Token, n *pkipb.Node, resp *pkipb.JoinResponse, c *pkipb.Cluster, approved bool) error {
	issued, err := s.cfg.Signer.SignJoin(ctx, SignJoin{
		Token: t.GetSigned(), Exporter: j.exporter, CSR: j.GetCsr(), BootCSR: j.GetBootCsr(), Proof: j.GetProof(),
		NodeID: n.Id, NodeName: n.Name, Uses: t.GetUses(), WorkerLeafSeconds: c.GetWorkerLeafSeconds(),
		Policy: c.GetAdmission(), TPM: j.GetTpm(), Evidence: j.GetEvidence(), Approved: approved,
	})
	if err != nil {
		return err
	}
	n.TpmEk = issued.TPMEK
	if issued.WantsApproval {
		return errWantsApproval
	}
	if n.TpmAk, err = attestedKey(issued.Leaf); err != nil {
		return err
	}
	if err := setLeaves(n, issued, nil); err != nil {
		return err
	}
	resp.Leaf = issued.Leaf
	if n.Role != profilepb.Role_ROLE_MANAGER {
		return nil
	}
	if issued.Boot == nil {
		return errors.New("the signer gave a manager no boot leaf")
	}
	resp.Boot = issued.Boot
	if resp.SealedKeyset, err = s.cfg.Signer.SealKeyset(ctx, issued.Leaf); err != nil {
		return err
	}
	resp.Slots, err = s.cfg.Slots(ctx)
	return err
}

// commit makes the node and counts the use, together or not at all. The token
// is looked at again: of two joins with its last use, the store lets one pass.
func (s *JoinServer) commit(tx *raftstore.Tx, made *pkipb.Node, source netip.Addr, level uint32) error {
	t, ok := store.Tokens.Get(tx, made.GetTokenId())
	if !ok {
		return errTokenRevoked
	}
	r, err := profile.ParseTokenRecord(t.GetSigned().GetRecord())
	if err != nil {
		return err
	}
	c, err := store.GetCluster(tx)
	if err != nil {
		return err
	}
	if err := checkUse(c, t, r, s.cfg.ClusterID, made.GetName(), source, tx.Now()); err != nil {
		return err
	}
	n := proto.CloneOf(made)
	if made.GetRole() == profilepb.Role_ROLE_MANAGER {
		if err := CheckManagerRoom(tx); err != nil {
			return err
		}
		if err := checkLevel(tx, level); err != nil {
			return status.Error(codes.PermissionDenied, err.Error())
		}
		if err := given(tx, c, n); err != nil {
			return err
		}
	}
	t = proto.CloneOf(t)
	t.Uses++
	if err := store.Tokens.Put(tx, t); err != nil {
		return err
	}
	if err := putIssued(tx, n); err != nil {
		return err
	}
	return s.cfg.OnJoin(tx, n)
}

// joinStoreError keeps the refusals made inside a transaction and hides the
// rest from a caller who is nobody yet.
func joinStoreError(log *slog.Logger, err error) error {
	switch {
	case errors.Is(err, ErrRotated):
		return later(codes.Unavailable, minJoinPause, "the cluster's keys are being rotated")
	case errors.Is(err, raftstore.ErrNotLeader):
		return later(codes.Unavailable, minJoinPause, "the manager is not the leader now")
	case errors.Is(err, raftstore.ErrUncertain):
		return status.Error(codes.Aborted, "the outcome of the join is unknown: check redoubt node ls and try again with a new token")
	}
	if s, ok := status.FromError(err); ok && s.Code() == codes.PermissionDenied {
		return err
	}
	log.Error("writing a join failed", "error", err)
	return errJoinInternal
}
