package pki_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
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
	// sealing, when set, runs in place of sealing a promotion's keyset; guarded by mu.
	sealing func() error
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{CA: pkitest.New(t), t: t, store: raftstoretest.New(t, store.Tables()...)}
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
	az = authz.New(authz.Config{Directory: store.Directory{Store: c.store}, Changed: c.port.Recheck, Logger: log})
	c.port.Unlock(c.first.Credentials, func() port.Leader { return port.Leader{Self: true} })
	srv := grpc.NewServer(az.ServerOptions()...)
	join, err := pki.NewJoinServer(pki.JoinConfig{
		Store: c.store, Signer: roleSigner{c}, ClusterID: c.ClusterID, Logger: log,
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
	if err := authz.CheckServer(srv); err != nil {
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
	c.t.Cleanup(func() {
		srv.Stop()
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
	q := pki.JoinRequest{Token: tok, Managers: []string{c.addr}, NodeName: "n1", Address: "192.0.2.9:2377", KeydKey: pkitest.KeydKey}
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

func TestJoinWorker(t *testing.T) {
	c := newCluster(t)
	tok := c.token(pki.TokenRequest{Role: worker})
	j, err := c.join(tok)
	if err != nil {
		t.Fatal(err)
	}
	n := c.node(j.NodeID)
	creds, err := pki.NewCredentials(j.Leaf, j.Key, j.Trust)
	if err != nil {
		t.Fatal(err)
	}
	if n.GetRole() != worker || n.GetName() != "n1" || n.GetAddress() != "" || n.GetTokenId() != tok.ID() ||
		string(n.GetLeafSpki()) != string(creds.Identity().SPKI) {
		t.Errorf("the record is not the joiner's: %v", n)
	}
	if len(j.Managers) != 1 || j.Managers[0].GetAddress() != "192.0.2.1:2377" {
		t.Errorf("managers: %v", j.Managers)
	}
	if c.hooks != 1 {
		t.Errorf("OnJoin ran %d times", c.hooks)
	}
	// The new certificate is accepted at once.
	cc, err := port.DialGRPC(t.Context(), creds, []string{c.addr})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	_, err = pkipb.NewRenewClient(cc).Renew(t.Context(), &pkipb.RenewRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("renewal without a request: %v", err)
	}
	_, err = pkipb.NewJoinClient(cc).Join(t.Context(), &pkipb.JoinRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("join as a member: %v", err)
	}
}

func TestJoinManager(t *testing.T) {
	c := newCluster(t)
	j, err := c.join(c.token(pki.TokenRequest{Role: manager}))
	if err != nil {
		t.Fatal(err)
	}
	n := c.node(j.NodeID)
	if n.GetRole() != manager || n.GetAddress() != "192.0.2.9:2377" || len(n.GetBootSpki()) == 0 {
		t.Errorf("the record is not the joiner's: %v", n)
	}
	if string(j.Slots) != "slots" || len(j.SealedKeyset) == 0 || len(j.Managers) != 2 {
		t.Error("the manager did not get what managers need")
	}
	if _, err := pki.NewCredentials(j.Boot, j.BootKey, j.Trust); err != nil {
		t.Error(err)
	}
	_, err = c.join(c.token(pki.TokenRequest{Role: manager}), func(q *pki.JoinRequest) { q.Address = "" })
	if err == nil || !strings.Contains(err.Error(), "--advertise") {
		t.Errorf("a manager without an address: %v", err)
	}
}

func TestJoinRefusals(t *testing.T) {
	c := newCluster(t)
	refused := func(name, want string, tok pki.Token, change ...func(*pki.JoinRequest)) {
		t.Helper()
		_, err := c.join(tok, change...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want … %s …", name, err, want)
		}
	}
	used := c.token(pki.TokenRequest{Role: worker})
	if _, err := c.join(used); err != nil {
		t.Fatal(err)
	}
	refused("used up", "used up", used)

	revoked := c.token(pki.TokenRequest{Role: worker})
	if _, err := pki.RevokeToken(t.Context(), c.store, revoked.ID()[:8]); err != nil {
		t.Fatal(err)
	}
	refused("revoked", "revoked", revoked)

	expired := pki.NewToken()
	signed, err := c.SignRecord(&profilepb.TokenRecord{
		Id: expired.ID(), ClusterId: c.ClusterID, PublicKey: expired.PublicKey(), Role: worker,
		MintedAt: time.Now().Add(-time.Hour).Unix(), ExpiresAt: time.Now().Add(-time.Minute).Unix(), MaxUses: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.update(func(tx *raftstore.Tx) error {
		return store.Tokens.Put(tx, &pkipb.Token{Id: expired.ID(), Signed: signed})
	})
	refused("expired", "expired", c.bind(expired))

	refused("other name", "another name", c.token(pki.TokenRequest{Role: worker, NodeName: "db-3"}))
	refused("other network", "source address", c.token(pki.TokenRequest{Role: worker, CIDR: "192.0.2.0/24"}))
	if _, err := c.join(c.token(pki.TokenRequest{Role: worker, CIDR: "127.0.0.0/8", NodeName: "n1"})); err != nil {
		t.Errorf("a token that fits: %v", err)
	}
}

// TestJoinSaysNothing: an unknown id and a known id without its seed get the
// same answer.
func TestJoinSaysNothing(t *testing.T) {
	c := newCluster(t)
	known := c.token(pki.TokenRequest{Role: worker})
	stranger := c.bind(pki.NewToken())
	_, unknown := c.join(stranger)
	// The id of one token with the seed of another.
	f, g := strings.Split(known.Text(), "."), strings.Split(stranger.Text(), ".")
	f[2] = g[2]
	mixed, err := pki.ParseToken(strings.Join(f, "."))
	if err != nil {
		t.Fatal(err)
	}
	_, seedless := c.join(mixed)
	if unknown == nil || seedless == nil || unknown.Error() != seedless.Error() {
		t.Errorf("answers differ: %v / %v", unknown, seedless)
	}
	// Also for a revoked one: who lacks the seed learns nothing of its state.
	if _, err := pki.RevokeToken(t.Context(), c.store, known.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.join(mixed); err == nil || err.Error() != unknown.Error() {
		t.Errorf("answers differ: %v / %v", unknown, err)
	}
}

func TestJoinPin(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	tok := other.token(pki.TokenRequest{Role: worker})
	if _, err := c.join(tok); !errors.Is(err, pki.ErrOtherCluster) {
		t.Errorf("token of another cluster: %v", err)
	}
	// The right cluster id with a pin of another root: somebody in the middle.
	wrong, err := pki.NewToken().Bind(c.ClusterID, other.Pin())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.join(wrong); !errors.Is(err, pki.ErrUntrusted) {
		t.Errorf("pin of another root: %v", err)
	}
	// A worker's certificate under the right root answers.
	w := c.NewNode(t, worker)
	if _, err := c.join(tok, at(t, c, w.Credentials)...); !errors.Is(err, pki.ErrOtherCluster) {
		t.Errorf("foreign token at a worker: %v", err)
	}
	if _, err := c.join(c.token(pki.TokenRequest{Role: worker}), at(t, c, w.Credentials)...); !errors.Is(err, pki.ErrNotManager) {
		t.Errorf("a worker that answers: %v", err)
	}
	// A locked manager says so.
	c.port.Lock()
	if _, err := c.join(c.token(pki.TokenRequest{Role: worker})); !errors.Is(err, pki.ErrPeerLocked) {
		t.Errorf("a locked manager: %v", err)
	}
	// Nobody answers.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := c.join(tok, func(q *pki.JoinRequest) { q.Managers = []string{l.Addr().String()} }); err == nil {
		t.Error("joined at a dead address")
	}
}

// at makes a join go to a TLS server with those credentials.
func at(t *testing.T, c *cluster, creds *pki.Credentials) []func(*pki.JoinRequest) {
	cfg := creds.ServerConfig(pki.ALPNGRPC)
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return []func(*pki.JoinRequest){func(q *pki.JoinRequest) { q.Managers = []string{l.Addr().String()} }}
}

// TestJoinReplay sends a captured, valid request over another connection.
func TestJoinReplay(t *testing.T) {
	c := newCluster(t)
	tok := c.token(pki.TokenRequest{Role: worker, MaxUses: 5})
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := profile.NewCSR(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	var captured *pkipb.JoinRequest
	send := func(fresh bool) error {
		cfg := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"}}
		conn, err := pki.DialTLS(t.Context(), c.addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		cs := conn.ConnectionState()
		if cs.CurveID != tls.X25519MLKEM768 {
			t.Errorf("negotiated %v", cs.CurveID)
		}
		exporter, err := cs.ExportKeyingMaterial(profile.ExporterLabel, []byte(tok.ID()), 32)
		if err != nil {
			t.Fatal(err)
		}
		if fresh {
			captured = &pkipb.JoinRequest{TokenId: tok.ID(), Csr: csr, NodeName: "n1",
				Proof: tok.Sign(profile.JoinProofInput(exporter, csr, nil, tok.ID()))}
		}
		cc, err := pki.GRPCOver(conn)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		_, err = pkipb.NewJoinClient(cc).Join(t.Context(), captured)
		return err
	}
	if err := send(true); err != nil {
		t.Fatalf("the honest join: %v", err)
	}
	if err := send(false); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the replay: %v", err)
	}
	captured.Csr[len(captured.Csr)-1] ^= 1
	if err := send(false); err == nil {
		t.Error("a damaged request was accepted")
	}
}

// TestJoinLastUse: of many joins with a token's last use, one wins.
func TestJoinLastUse(t *testing.T) {
	c := newCluster(t)
	tok := c.token(pki.TokenRequest{Role: worker})
	const n = 6
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { _, errs[i] = c.join(tok) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !strings.Contains(err.Error(), "used up") && !strings.Contains(err.Error(), "see its log"):
			t.Errorf("unexpected: %v", err)
		}
	}
	nodes := 0
	c.store.View(func(r *raftstore.ReadTx) error {
		nodes = store.Nodes.Count(r)
		return nil
	})
	if won != 1 || nodes != 2 {
		t.Errorf("%d joins won, %d nodes: want 1 and 2", won, nodes)
	}
}

func TestJoinRate(t *testing.T) {
	c := newCluster(t)
	stranger := c.bind(pki.NewToken())
	slowed := false
	for range 40 {
		_, err := c.join(stranger)
		if err == nil {
			t.Fatal("a stranger joined")
		}
		slowed = slowed || strings.Contains(err.Error(), "too many joins")
	}
	if !slowed {
		t.Error("guessing is not slowed down")
	}
	// Whoever guesses does not shut out those who share its address, and many
	// machines behind one address may join.
	fleet := c.token(pki.TokenRequest{Role: worker, MaxUses: 20})
	for i := range 20 {
		if _, err := c.join(fleet); err != nil {
			t.Fatalf("join %d of a fleet behind the guesser's address: %v", i+1, err)
		}
	}
}

func TestRemovedNodeIsRefused(t *testing.T) {
	c := newCluster(t)
	j, err := c.join(c.token(pki.TokenRequest{Role: worker}))
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(j.Leaf, j.Key, j.Trust)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pki.DialTLS(t.Context(), c.addr, creds.ClientConfig(pki.ALPNGRPC, c.first.Identity().NodeID))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cc, err := port.DialGRPC(t.Context(), creds, []string{c.addr})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	c.update(func(tx *raftstore.Tx) error { return pki.Deny(tx, j.NodeID) })
	// The idle connection is cut without having asked for anything.
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, err := conn.Read(make([]byte, 1024)); err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				t.Error("the connection of a removed node stays open")
			}
			break
		}
	}
	if _, err := pkipb.NewRenewClient(cc).Renew(t.Context(), &pkipb.RenewRequest{}); err == nil || status.Code(err) == codes.InvalidArgument {
		t.Errorf("a removed node called: %v", err)
	}
}

func TestTokenBounds(t *testing.T) {
	c := newCluster(t)
	tok := pki.NewToken()
	for name, q := range map[string]pki.TokenRequest{
		"boot":               {Role: profilepb.Role_ROLE_BOOT},
		"no role":            {},
		"manager, two uses":  {Role: manager, MaxUses: 2},
		"manager, long":      {Role: manager, TTL: 48 * time.Hour},
		"manager long-lived": {Role: manager, LongLived: true},
		"worker, a year":     {Role: worker, TTL: 365 * 24 * time.Hour},
		"negative":           {Role: worker, TTL: -1},
		"too many uses":      {Role: worker, MaxUses: pki.MaxTokenUses + 1},
		"both":               {Role: worker, LongLived: true, MaxUses: 1},
		"cidr":               {Role: worker, CIDR: "10.0.0.1/8"},
		"name":               {Role: worker, NodeName: "a b"},
	} {
		q.ID, q.PublicKey = tok.ID(), tok.PublicKey()
		if _, err := pki.CreateToken(t.Context(), c.store, c.CA, q); !errors.Is(err, pki.ErrInvalidToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.token(pki.TokenRequest{Role: worker, LongLived: true})
	list, err := pki.ListTokens(c.store)
	if err != nil || len(list) != 1 || list[0].Record.GetMaxUses() != 0 {
		t.Errorf("list: %v %v", list, err)
	}
	if _, err := pki.RevokeToken(t.Context(), c.store, ident.New()); !errors.Is(err, pki.ErrNoToken) {
		t.Errorf("revoking a token that is not there: %v", err)
	}
}

func TestPlantedRoot(t *testing.T) {
	// A chain that ends in a root other than the trusted one would be trusted
	// later on, by whoever kept it.
	ca, evil := pkitest.New(t), pkitest.New(t)
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.Issue(profile.Identity{ClusterID: ca.ClusterID, NodeID: ident.New(), Role: worker}, key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	trust := pki.Trust{ClusterID: ca.ClusterID, Roots: []*x509.Certificate{ca.Root}, AnyIssuer: true}
	if _, err := pki.NewCredentials(chain, key, trust); err != nil {
		t.Fatal(err)
	}
	chain.Certificates = append(chain.Certificates, evil.Root.Raw)
	if _, err := pki.NewCredentials(chain, key, trust); err == nil {
		t.Error("a planted root was accepted")
	}
}
