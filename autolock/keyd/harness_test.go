package keyd

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// instance is a keyd that serves two real sockets.
type instance struct {
	*keydclient.Client // of keyd.sock
	root               *keydclient.Client
	server             *Server
	dir, socket        string
	stop               func()
}

func testConfig(t *testing.T, dir string) Config {
	return Config{
		Dir: dir, ControlUID: uint32(os.Getuid()), Section: DefaultSection(),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// start serves the state in dir until stop or the end of the test.
func start(t *testing.T, dir string) *instance {
	t.Helper()
	return startWith(t, testConfig(t, dir))
}

// startWith is start with another configuration.
func startWith(t *testing.T, cfg Config) *instance {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "keyd") // short, as socket paths must be
	if err != nil {
		t.Fatal(err)
	}
	var ls []net.Listener
	for _, name := range []string{"keyd", "unlock"} {
		l, err := net.Listen("unix", filepath.Join(run, name))
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ls[0], ls[1]) }()
	k := &instance{
		Client: keydclient.New(filepath.Join(run, "keyd")), root: keydclient.New(filepath.Join(run, "unlock")),
		server: s, dir: cfg.Dir, socket: filepath.Join(run, "keyd"),
	}
	stopped := false
	k.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		k.Close()
		k.root.Close()
		os.RemoveAll(run)
	}
	t.Cleanup(k.stop)
	return k
}

// restart is what a reboot does: the same directory, locked.
func (k *instance) restart(t *testing.T) *instance {
	t.Helper()
	k.stop()
	return start(t, k.dir)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t *testing.T, key *ecdsa.PrivateKey, keydKey []byte) []byte {
	t.Helper()
	der, err := profile.NewCSR(key, keydKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// cluster is an initialised keyd with what its init left outside of it.
type cluster struct {
	*instance
	key     autolock.OperatorKey
	init    *keydpb.InitResponse
	nodeID  string
	leafKey *ecdsa.PrivateKey
	keydKey []byte
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	k := start(t, t.TempDir())
	c := &cluster{instance: k, key: autolock.NewOperatorKey(), nodeID: ident.New(), leafKey: newKey(t)}
	var err error
	if c.keydKey, err = k.PrepareJoin(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.init, err = k.Init(t.Context(), &keydpb.InitRequest{
		NodeId: c.nodeID, ManagerCsr: newCSR(t, c.leafKey, c.keydKey), BootCsr: newCSR(t, newKey(t), nil),
		Slots: []*keydpb.Slot{c.key.Slot()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) unlock(t *testing.T) {
	t.Helper()
	if _, err := c.root.Unlock(t.Context(), c.key.Seed()); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) restart(t *testing.T) {
	t.Helper()
	c.instance = c.instance.restart(t)
}

// token is a join token with its secret half.
type token struct {
	id      string
	private ed25519.PrivateKey
	signed  *profilepb.SignedTokenRecord
}

func newRecord(t *testing.T, role profilepb.Role) (*profilepb.TokenRecord, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &profilepb.TokenRecord{
		Id: ident.New(), PublicKey: public, Role: role, MaxUses: 1,
		ExpiresAt: time.Now().Add(10 * time.Minute).Unix(),
	}, private
}

func (c *cluster) mint(t *testing.T, role profilepb.Role, edit func(*profilepb.TokenRecord)) *token {
	t.Helper()
	rec, private := newRecord(t, role)
	if edit != nil {
		edit(rec)
	}
	resp, err := c.MintToken(t.Context(), &keydpb.MintTokenRequest{Record: rec})
	if err != nil {
		t.Fatal(err)
	}
	return &token{rec.Id, private, resp.Signed}
}

// join makes an honest join request with tok.
func (tok *token) join(t *testing.T, csr, bootCSR []byte) *keydpb.SignJoinRequest {
	t.Helper()
	exporter := make([]byte, profile.ExporterLen)
	rand.Read(exporter)
	req := &keydpb.SignJoinRequest{
		Token: tok.signed, Exporter: exporter, Csr: csr, BootCsr: bootCSR,
		NodeId: ident.New(), NodeName: "node-1",
	}
	tok.prove(req)
	return req
}

func (tok *token) prove(req *keydpb.SignJoinRequest) {
	req.Proof = ed25519.Sign(tok.private, profile.JoinProofInput(req.Exporter, req.Csr, req.BootCsr, tok.id))
}

func wantCode(t *testing.T, err error, want keydpb.Code) {
	t.Helper()
	if got := keydclient.CodeOf(err); got != want {
		t.Errorf("got %v (%v), want %v", err, got, want)
	}
}

// leafOf returns a chain's leaf, verified against root as any peer would.
func leafOf(t *testing.T, chain *profilepb.CertificateChain, root []byte) *x509.Certificate {
	t.Helper()
	certs, err := profile.ParseChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	roots, issuers := x509.NewCertPool(), x509.NewCertPool()
	r, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(r)
	issuers.AddCert(certs[1])
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: issuers}); err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func (c *cluster) rootDER() []byte { return c.init.Manager.Certificates[2] }

func codeName(err error) keydpb.Code { return keydclient.CodeOf(err) }

func scalarSignerOf(k *keyset) scalarSigner {
	return scalarSigner{k.issuing.PublicKey.(*ecdsa.PublicKey), k.issuingKey}
}

func newSlot() *keydpb.Slot {
	k := autolock.NewOperatorKey()
	return k.Slot()
}

func newID() string { return ident.New() }
