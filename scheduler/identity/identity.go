// Package identity is the managers' side of workloads' identities: it has keyd
// issue certificates and tokens for tasks, to the node that they are assigned to
// and to no other, and knows what nodes say that their tasks hold.
//
// A node asks in batches that its own leaf has signed (pki/profile, batch.go). Of
// each item it is looked whether that task is assigned to the caller, is to run,
// and is of the service whose identity is asked for; whether the service wants
// one, and for how long; whether the identity was revoked. What fails is left out
// and told with its reason, the rest goes to keyd, which verifies the signature
// for itself; where nothing is left, keyd is not asked. No certificate is written to the store: with thousands of tasks that
// would be most of what it writes, and nothing is decided by it. The leader remembers which it had
// signed, until they end, so that a revocation list can name them once they are revoked (issued.go).
//
// It refuses to keep anything that another leader could need: what tasks hold is
// reported again by each node whose session begins.
//
//	s := identity.New(identity.Config{Store: store, ClusterID: id, Sign: keyd, Logger: l})
//	schedulerpb.RegisterWorkloadIdentityServer(server, s)
package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Config binds a Server. All but Logger are required.
type Config struct {
	Store     *raftstore.Store
	ClusterID string
	// Sign has keyd answer a request but for the items refused, by their number.
	Sign   func(ctx context.Context, req *schedulerpb.IssueRequest, refused []uint32) (*schedulerpb.IssueResponse, error)
	Logger *slog.Logger
}

// Server implements schedulerpb.WorkloadIdentityServer. It is safe for concurrent
// use.
type Server struct {
	schedulerpb.UnimplementedWorkloadIdentityServer
	c Config

	mu    sync.Mutex // guards the following
	nodes map[string]*node
}

// node is what the leader remembers of one.
type node struct {
	asked, reported bucket
	held            []*schedulerpb.HeldIdentity
	issued          []issued // oldest first; what ended is left out from time to time
	swept           int      // how many were left of issued the last time
}

// bucket counts uses; the zero value is full.
type bucket struct {
	spent int
	since time.Time
}

// take spends n, or says after how long to try again.
func (b *bucket) take(n, burst int, refill time.Duration, now time.Time) (wait time.Duration) {
	if back := int(now.Sub(b.since) / refill); back >= b.spent {
		b.spent, b.since = 0, now
	} else if back > 0 {
		b.spent, b.since = b.spent-back, b.since.Add(time.Duration(back)*refill)
	}
	if over := b.spent + n - burst; over > 0 {
		return time.Duration(over) * refill
	}
	b.spent += n
	return 0
}

// New returns a server.
func New(c Config) *Server {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{c: c, nodes: map[string]*node{}}
}

var errNotLeading = status.Error(codes.Unavailable, "this manager does not lead the cluster: try another")

// caller returns which node calls.
func (s *Server) caller(ctx context.Context) (string, error) {
	id, ok := authz.FromContext(ctx)
	switch {
	case !ok || id.NodeID == "" || id.LocalRoot:
		return "", status.Error(codes.PermissionDenied, "identities are for nodes: call with a node's certificate")
	case !s.c.Store.IsLeader():
		return "", errNotLeading
	}
	return id.NodeID, nil
}

// of returns what is remembered of a node. s.mu is held.
func (s *Server) of(id string) *node {
	n := s.nodes[id]
	if n == nil {
		n = &node{}
		s.nodes[id] = n
	}
	return n
}

// Issue implements schedulerpb.WorkloadIdentityServer.
func (s *Server) Issue(ctx context.Context, req *schedulerpb.IssueRequest) (*schedulerpb.IssueResponse, error) {
	id, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	batch, err := parse(req, id)
	s.mu.Lock()
	wait := s.of(id).asked.take(max(len(batch.GetItems()), minItems), nodeBurst, nodeRefill, time.Now())
	s.mu.Unlock()
	switch {
	case wait > 0:
		return nil, status.Errorf(codes.ResourceExhausted, "this node asks for identities too often: wait %s", wait.Round(time.Millisecond))
	case err != nil:
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	reasons, err := s.judge(id, batch)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	var got *schedulerpb.IssueResponse
	if n := len(reasons); n > 0 && n == len(batch.GetItems()) {
		got = &schedulerpb.IssueResponse{Documents: make([]*profilepb.WorkloadDocument, n)}
	} else if got, err = s.c.Sign(ctx, req, numbers(reasons)); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if batch != nil && len(reasons) < len(batch.GetItems()) {
		// Who revokes asks what was issued after the revocation is written: what is
		// not remembered by then is not handed out.
		s.remember(id, batch, got)
		if reasons, err = s.judge(id, batch); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	for i, reason := range reasons {
		if i < len(got.GetDocuments()) {
			got.Documents[i] = &profilepb.WorkloadDocument{Document: &profilepb.WorkloadDocument_Error{Error: reason}}
		}
	}
	if n := len(reasons); n > 0 {
		s.c.Logger.Warn("identities were refused to a node", "node", id, "refused", n, "first", first(reasons))
	}
	return got, nil
}

// parse returns the batch of a request; nil: it is for the bundle alone.
func parse(req *schedulerpb.IssueRequest, id string) (*profilepb.WorkloadBatch, error) {
	if len(req.GetBatch()) == 0 {
		if len(req.GetChain()) > 0 || len(req.GetProof()) > 0 {
			return nil, errors.New("a leaf and a proof come without a batch that it signed")
		}
		return nil, nil
	}
	batch, err := profile.ParseBatch(req.GetBatch())
	if err == nil {
		err = leafIs(req.GetChain(), id)
	}
	return batch, err
}

func numbers(reasons map[int]string) (all []uint32) {
	for i := range reasons {
		all = append(all, uint32(i))
	}
	return all
}

func first(reasons map[int]string) string {
	for i := range profile.MaxBatchItems {
		if r := reasons[i]; r != "" {
			return r
		}
	}
	return ""
}

// leafIs returns an error unless the chain's leaf is that node's.
func leafIs(chain [][]byte, id string) error {
	if len(chain) == 0 || len(chain) > profile.MaxChain || len(chain[0]) > profile.MaxCert {
		return errors.New("the batch comes without the leaf that signed it")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return errors.New("the leaf that signed the batch is malformed")
	}
	who, err := profile.NodeFromCert(leaf)
	if err == nil && who.NodeID != id {
		err = errors.New("the batch was signed by another node than the caller")
	}
	return err
}

// judge returns why items are refused, by their number.
func (s *Server) judge(id string, batch *profilepb.WorkloadBatch) (map[int]string, error) {
	reasons := map[int]string{}
	err := s.c.Store.View(func(r *raftstore.ReadTx) error {
		for i, item := range batch.GetItems() {
			if err := s.entitled(r, id, item); err != nil {
				reasons[i] = err.Error()
			}
		}
		return nil
	})
	return reasons, err
}

// One text for a task that is not there and one that is another node's: nobody
// learns which tasks there are.
var errNotAssigned = errors.New("the task is not assigned to this node, or is not to run")

func (s *Server) entitled(r *raftstore.ReadTx, id string, item *profilepb.WorkloadItem) error {
	if n, ok := pkistore.Nodes.Get(r, id); ok && n.GetDenied() {
		return errNotAssigned
	}
	t, ok := store.Tasks.Get(r, item.GetTaskId())
	if !ok || t.GetNodeId() != id || t.GetDesired() > schedulerpb.TaskState_TASK_STATE_RUNNING || t.GetStatus().GetState() > schedulerpb.TaskState_TASK_STATE_RUNNING {
		return errNotAssigned
	}
	service, ok := store.Services.Get(r, t.GetServiceId())
	if !ok {
		return errNotAssigned
	}
	want := Of(s.c.ClusterID, service)
	if item.GetIdentity() != want {
		return fmt.Errorf("the task's identity is %s", want)
	}
	spec := service.GetSpec().GetTask()
	if rev, ok := store.Revisions.Get(r, store.RevisionID(service.GetId(), t.GetRevision())); ok {
		spec = rev.GetSpec()
	}
	if spec.GetIdentity().GetNone() {
		return errors.New("the service wants no identity")
	}
	if most := Life(spec.GetIdentity()); item.GetCsr() != nil && time.Duration(item.GetLife())*time.Second > most {
		return fmt.Errorf("the service's certificates live %s at most", most)
	}
	if pki.IdentityDenied(r, want) {
		return errors.New("the identity was revoked")
	}
	return nil
}

// Of is the identity of a service's tasks.
func Of(clusterID string, s *schedulerpb.Service) string {
	return profile.ServiceURI(clusterID, "", s.GetSpec().GetName()).String()
}

// Life is how long certificates of a service's tasks live.
func Life(i *taskpb.Identity) time.Duration {
	if d := time.Duration(i.GetLifeNs()); d > 0 {
		return min(d, profile.MaxSVIDLife)
	}
	return profile.SVIDLife
}

// Report implements schedulerpb.WorkloadIdentityServer.
func (s *Server) Report(ctx context.Context, req *schedulerpb.IdentityReport) (*schedulerpb.IdentityReported, error) {
	id, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(req.GetHeld()); n > maxHeld {
		return nil, status.Errorf(codes.InvalidArgument, "a report of %d identities: at most %d are accepted", n, maxHeld)
	}
	clean := make([]*schedulerpb.HeldIdentity, 0, len(req.GetHeld()))
	tasks := make(map[string]bool, len(req.GetHeld()))
	for _, h := range req.GetHeld() {
		if _, _, _, err := profile.ParseServiceURI(h.GetIdentity()); err != nil || !ident.Valid(h.GetTaskId()) || len(h.GetSerial()) > 20 {
			return nil, status.Error(codes.InvalidArgument, "a report of identities is malformed")
		}
		if !wellFormed(h.GetCertificates(), time.Now()) {
			return nil, status.Error(codes.InvalidArgument, "a report names what is no certificate of a workload")
		}
		if tasks[h.GetTaskId()] {
			return nil, status.Error(codes.InvalidArgument, "a report names a task twice")
		}
		tasks[h.GetTaskId()] = true
		clean = append(clean, &schedulerpb.HeldIdentity{TaskId: h.TaskId, Identity: h.Identity, Serial: h.Serial, IssuedAt: h.IssuedAt, ExpiresAt: h.ExpiresAt,
			Tokens: h.Tokens, Streams: h.Streams, Files: h.Files, Error: oneline.Text(h.Error, maxText), Certificates: h.Certificates})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.of(id)
	if wait := n.reported.take(1, reportBurst, reportRefill, time.Now()); wait > 0 {
		return nil, status.Errorf(codes.ResourceExhausted, "this node reports too often: wait %s", wait.Round(time.Millisecond))
	}
	n.held = clean
	return &schedulerpb.IdentityReported{}, nil
}

// Held is what nodes last said that their tasks hold, by node. It is their word;
// what is said of a task of another node is left out by who shows it.
func (s *Server) Held() map[string][]*schedulerpb.HeldIdentity {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string][]*schedulerpb.HeldIdentity, len(s.nodes))
	for id, n := range s.nodes {
		out[id] = n.held
	}
	return out
}
