package node

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/identity"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/svid"
)

// identities is what this node's tasks are, and the way to the leader that says
// so: the agent's session's connection.
type identities struct {
	*svid.Holder
	n *Node

	mu   sync.Mutex
	conn grpc.ClientConnInterface // guarded by mu; nil: no session
}

func (n *Node) newIdentities(creds *pki.Credentials, denials *pki.Denials) *identities {
	i := &identities{n: n}
	i.Holder = svid.New(svid.Config{
		ClusterID: n.who().ClusterID, Say: creds.Say, Roots: func() []*x509.Certificate { return creds.Trust().Roots },
		Issue: i.issue, Report: i.report, Denied: denials.Denied, DenialsChanged: denials.Changed, MaxLife: n.cfg.WorkloadLife,
		Files: i.files, Logger: n.log.With("part", "identities"),
	})
	return i
}

// run serves callers and asks for what they are, until ctx ends.
func (i *identities) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(ctx, i.Run(ctx)) })
	g.Go(func() error {
		return ended(ctx, i.Serve(ctx, func(ctx context.Context) (*net.UnixConn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(i.n.env.RunDir, "identity.sock"))
			if err != nil {
				return nil, err
			}
			return c.(*net.UnixConn), nil
		}))
	})
	return g.Wait()
}

// assigned takes the tasks that this node has or is to have.
func (i *identities) assigned(tasks []*schedulerpb.Assignment) {
	want := make(map[string]svid.Want, len(tasks))
	for _, t := range tasks {
		if spec := t.GetSpec().GetIdentity(); !spec.GetNone() {
			want[t.GetTaskId()] = svid.Want{Identity: profile.ServiceURI(i.n.who().ClusterID, "", t.GetServiceName()).String(),
				Life: identity.Life(spec), Files: spec.GetFiles() != ""}
		}
	}
	i.Set(want)
}

// session takes the connection of a session, or nil at its end.
func (i *identities) session(conn grpc.ClientConnInterface) {
	i.mu.Lock()
	i.conn = conn
	i.mu.Unlock()
	if conn != nil {
		i.Connected()
	}
}

var errNoSession = errors.New("there is no session with a manager")

func (i *identities) client() (schedulerpb.WorkloadIdentityClient, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.conn == nil {
		return nil, errNoSession
	}
	return schedulerpb.NewWorkloadIdentityClient(i.conn), nil
}

func (i *identities) issue(ctx context.Context, req *schedulerpb.IssueRequest) (*schedulerpb.IssueResponse, error) {
	c, err := i.client()
	if err != nil {
		return nil, err
	}
	return c.Issue(ctx, req)
}

func (i *identities) report(ctx context.Context, r *schedulerpb.IdentityReport) error {
	c, err := i.client()
	if err == nil {
		_, err = c.Report(ctx, r)
	}
	return err
}

func (i *identities) files(ctx context.Context, task string, certificate, key, bundle []byte) error {
	_, err := i.n.rund.Client().PutIdentity(ctx, &rundpb.PutIdentityRequest{TaskId: task, Certificate: certificate, Key: key, Bundle: bundle})
	return messageOf(err)
}

// signWorkloads has this manager's keyd answer a node.
func (n *Node) signWorkloads(ctx context.Context, req *schedulerpb.IssueRequest, refused []uint32) (*schedulerpb.IssueResponse, error) {
	ask := &keydpb.SignWorkloadsRequest{Batch: req.GetBatch(), Proof: req.GetProof(), Refused: refused}
	if len(req.GetChain()) > 0 {
		ask.Node = &profilepb.CertificateChain{Certificates: req.GetChain()}
	}
	got, err := n.keyd.SignWorkloads(ctx, ask)
	return &schedulerpb.IssueResponse{Documents: got.GetDocuments(), Issuer: got.GetIssuer(), Bundle: got.GetBundle()}, err
}
