package pki_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	worker  = profilepb.Role_ROLE_WORKER
	manager = profilepb.Role_ROLE_MANAGER
)

// understood is the store level of the tables here.
var understood = raftstore.Understood(store.Tables())

// cluster is one manager with a real store, a real port and real gRPC.
type cluster struct {
	*pkitest.CA
	t     *testing.T
	store *raftstore.Store
	first *pkitest.Node
	addr  string
	port  *port.Port

	mu    sync.Mutex
	hooks int // runs of OnJoin
	// pending are the machines that wait for an operator.
	pending pki.Pending
	// sealing, when set, runs in place of sealing a promotion's keyset; guarded by mu.
	sealing func() error
}

// newCluster serves a cluster; its store has others' tables besides.
func newCluster(t *testing.T, others ...raftstore.Registered) *cluster {
	return newClusterOn(t, raftstoretest.New(t, append(store.Tables(), others...)...))
}

func newClusterOn(t *testing.T, s *raftstore.Store) *cluster {
	c := &cluster{CA: pkitest.New(t), t: t, store: s}
	c.first = c.NewNode(t, manager)
	c.update(func(tx *raftstore.Tx) error {
		n := proto.CloneOf(c.first.Record)
		n.Address = "192.0.2.1:2377"
		return errors.Join(store.Cluster.Put(tx, c.Cluster()), store.Nodes.Put(tx, n))
	})
	c.serve()
	return c
}

func (c *cluster) update(fn func(*raftstore.Tx) error) {
	c.t.Helper()
	if err := c.store.Update(c.t.Context(), fn); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) serve() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = l.Addr().String()
	log := slog.New(slog.DiscardHandler)
	var az *authz.Authorizer
	c.port, err = port.New(port.Config{
		Listener: l, Boot: c.first.Boot, Logger: log,
		Admit: func(alpn string, p *authz.Peer) error { return az.CheckPeer(alpn, p) },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	az = authz.New(authz.Config{Directory: store.Directory{Store: c.store}, People: store.Directory{Store: c.store}, Changed: c.port.Recheck, Logger: log})
	c.port.Unlock(c.first.Credentials, func() port.Leader { return port.Leader{Self: true} })
	srv := grpc.NewServer(az.ServerOptions()...)
	join, err := pki.NewJoinServer(pki.JoinConfig{
		Store: c.store, Signer: roleSigner{c}, ClusterID: c.ClusterID, Logger: log, Pending: &c.pending, OnWait: func(pki.PendingNode) {},
		Slots: func(context.Context) ([]byte, error) { return []byte("slots"), nil },
		OnJoin: func(*raftstore.Tx, *pkipb.Node) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.hooks++
			return nil
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	pkipb.RegisterJoinServer(srv, join)
	pkipb.RegisterRenewServer(srv, pki.NewRenewServer(c.store, c.CA, log))
	members, err := pki.NewMembershipServer(pki.MembershipConfig{Store: c.store, Signer: roleSigner{c}, Logger: log,
		Slots:  func(context.Context) ([]byte, error) { return []byte("slots"), nil },
		OnRole: func(*raftstore.Tx, *pkipb.Node) error { return nil },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	pkipb.RegisterMembershipServer(srv, members)
	enrolment := pki.NewPeopleServer(c.store, c.CA, c.ClusterID, log)
	pkipb.RegisterEnrolmentServer(srv, enrolment)
	people := grpc.NewServer(az.ServerOptions()...)
	pkipb.RegisterPersonRenewalServer(people, enrolment)
	if err := errors.Join(authz.CheckServer(srv), authz.CheckServer(people)); err != nil {
		c.t.Fatal(err)
	}
	pl, err := c.port.Listen(pki.ALPNPerson)
	if err != nil {
		c.t.Fatal(err)
	}
	gl, err := c.port.Listen(pki.ALPNGRPC)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.port.Serve(ctx) })
	wg.Go(func() { az.Run(ctx) })
	wg.Go(func() { srv.Serve(gl) })
	wg.Go(func() { people.Serve(pl) })
	c.t.Cleanup(func() {
		srv.Stop()
		people.Stop()
		cancel()
		wg.Wait()
	})
}

func (c *cluster) token(q pki.TokenRequest) pki.Token {
	c.t.Helper()
	tok := pki.NewToken()
	q.ID, q.PublicKey = tok.ID(), tok.PublicKey()
	if _, err := pki.CreateToken(c.t.Context(), c.store, c.CA, q); err != nil {
		c.t.Fatal(err)
	}
	return c.bind(tok)
}

func (c *cluster) bind(tok pki.Token) pki.Token {
	c.t.Helper()
	bound, err := tok.Bind(c.ClusterID, c.Pin())
	if err != nil {
		c.t.Fatal(err)
	}
	return bound
}

func (c *cluster) join(tok pki.Token, change ...func(*pki.JoinRequest)) (*pki.Joined, error) {
	q := pki.JoinRequest{Token: tok, Managers: []string{c.addr}, NodeName: "n1", Address: "192.0.2.9:2377", KeydKey: pkitest.KeydKey, StoreLevel: understood}
	for _, f := range change {
		f(&q)
	}
	return pki.Join(c.t.Context(), q)
}

func (c *cluster) node(id string) *pkipb.Node {
	n, err := store.Directory{Store: c.store}.Node(id)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}
