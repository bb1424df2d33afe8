package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

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
	conn.SetReadDeadline(time.Now().Add(time.Minute))
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
