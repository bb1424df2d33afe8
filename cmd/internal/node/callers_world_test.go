package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/scheduler/agent/executor"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// callerWorld is an unlocked manager that leads, put together as serveUnlocked
// does it, without the helpers: port 2377, its services and the local socket.
type callerWorld struct {
	ca    *pkitest.CA
	m     *managerState
	boot  *pki.Credentials // its own
	addr  string           // of port 2377
	local string           // the local socket
	users string           // the one for users
	// locked is port 2377 of a manager that is locked.
	locked string
}

func newCallerWorld(t testing.TB) *callerWorld {
	t.Helper()
	ca := pkitest.New(t)
	return newCallerWorldOn(t, ca, ca.NewNode(t, profilepb.Role_ROLE_MANAGER), raftstoretest.New(t, tables()...))
}

// newCallerWorldOn is newCallerWorld for the manager self, with a store that leads.
func newCallerWorldOn(t testing.TB, ca *pkitest.CA, self *pkitest.Node, store *raftstore.Store) *callerWorld {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // another user comes by below
		t.Fatal(err)
	}
	rund, err := executor.New(filepath.Join(dir, "rund.sock"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	n := &Node{env: daemon.Env{Log: log}, log: log, cfg: DefaultConfig(), disk: disk{dir}, rund: rund,
		keyd: keydclient.New(filepath.Join(dir, "keyd.sock")), netd: wire.NewClient(filepath.Join(dir, "netd.sock")),
		refresh: make(chan struct{}, 1), requests: make(chan request), told: make(chan string, 1)}
	t.Cleanup(func() {
		rund.Close()
		n.keyd.Close()
		n.netd.Close()
	})
	n.self = &member{NodeID: self.Record.GetId(), ClusterID: ca.ClusterID, Manager: true}
	w := &callerWorld{ca: ca, boot: self.Boot, m: &managerState{n: n, store: store, creds: self.Credentials, serving: make(chan struct{})}}
	w.m.links = newLinks(w.m)
	w.m.clocks = newClocks(w.m)
	w.update(t, func(tx *raftstore.Tx) error { return pkistore.Cluster.Put(tx, ca.Cluster()) })
	w.put(t, self)
	n.st.phase, n.live = controlpb.NodePhase_NODE_PHASE_ACTIVE, w.m

	judge, err := roles.New(store, &audit.Log{Store: store, Manager: store.NodeID()})
	if err != nil {
		t.Fatal(err)
	}
	w.m.roles = judge
	w.m.denials = w.m.newDenials()
	az := authz.New(authz.Config{Directory: pkistore.Directory{Store: store}, People: pkistore.Directory{Store: store}, Judge: judge, Refused: w.m.denials.Refused, Logger: log})
	lead, leadAddr := newTestPort(t, self.Boot, w.m.admitTo(az))
	lead.Unlock(self.Credentials, func() port.Leader { return port.Leader{Self: true} })
	w.addr = leadAddr
	lockedPort, lockedAddr := newTestPort(t, self.Boot, func(string, *authz.Peer) error { return errors.New("locked") })
	w.locked = lockedAddr

	w.local = filepath.Join(dir, "api.sock")
	l, err := net.Listen("unix", w.local)
	if err != nil {
		t.Fatal(err)
	}
	w.users = filepath.Join(dir, "users.sock")
	lu, err := net.Listen("unix", w.users)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, w.local, w.users} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	serveInTest(t, func(ctx context.Context) error { return w.m.serve(ctx, lead, az) })
	serveInTest(t, az.Run)
	serveInTest(t, w.m.denials.Run)
	serveInTest(t, func(ctx context.Context) error { return n.serveLock(ctx, lead, az, self.Boot, w.m) })
	serveInTest(t, func(ctx context.Context) error { return w.m.serveWitness(ctx, lead, az) })
	serveInTest(t, func(ctx context.Context) error { return n.serveLock(ctx, lockedPort, nil, self.Boot, nil) })
	serveInTest(t, func(ctx context.Context) error { return n.serveLocal(ctx, l) })
	serveInTest(t, func(ctx context.Context) error { return n.serveUsers(ctx, lu) })
	serveInTest(t, func(ctx context.Context) error {
		return n.serveRequests(ctx, errors.New("this node serves no requests"), new(*request), nil)
	})
	t.Cleanup(w.m.closeLinks)
	return w
}

func newTestPort(t testing.TB, boot *pki.Credentials, admit func(string, *authz.Peer) error) (*port.Port, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := port.New(port.Config{Listener: l, Boot: boot, Admit: admit, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	serveInTest(t, p.Serve)
	return p, l.Addr().String()
}

// serveInTest runs serve until the test ends.
func serveInTest(t testing.TB, serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func (w *callerWorld) update(t testing.TB, fn func(*raftstore.Tx) error) {
	t.Helper()
	if err := w.m.store.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// put makes n a member as its record says.
func (w *callerWorld) put(t testing.TB, n *pkitest.Node) *pkitest.Node {
	t.Helper()
	w.update(t, func(tx *raftstore.Tx) error {
		if err := pkistore.Nodes.Put(tx, n.Record); err != nil {
			return err
		}
		return schedstore.RegisterNode(tx, n.Record.GetId(), n.Record.GetRole() == profilepb.Role_ROLE_MANAGER)
	})
	return n
}

// tableCaller is a column of the table.
type tableCaller struct {
	name    string
	message []byte
	// kinds is what the caller is, by the way it comes; a way that is not named
	// gets it nowhere.
	kinds map[string][]authzpb.Caller
	big   bool // its message is refused unread
	local bool // it comes by the local socket
	dial  func(t *testing.T, way string) (interface {
		grpc.ClientConnInterface
		io.Closer
	}, error)
}

// expect is what the rule says of the caller.
func (c *tableCaller) expect(way string, rule []authzpb.Caller) outcome {
	for _, k := range c.kinds[way] {
		if slices.Contains(rule, k) {
			if c.big {
				return tooBig
			}
			return reached
		}
	}
	return refused
}

type closerConn = interface {
	grpc.ClientConnInterface
	io.Closer
}

// callers are the columns. Each comes by whatever protocol the service is on.
func (w *callerWorld) callers(t *testing.T) []*tableCaller {
	const worker, manager = profilepb.Role_ROLE_WORKER, profilepb.Role_ROLE_MANAGER
	day := 24 * time.Hour
	foreign := pkitest.New(t)
	removedWorker, removedManager, demoted := w.ca.NewNode(t, worker), w.ca.NewNode(t, manager), w.ca.NewNode(t, manager)
	removedWorker.Record.Denied, removedManager.Record.Denied = true, true
	demoted.Record.Role = worker
	stale := w.ca.NewNode(t, worker)
	staleRecord := *stale
	staleRecord.Record.LeafSpki = []byte("the hash of a newer key, 32 bytes")
	at := func(role profilepb.Role, d time.Duration) *pki.Credentials {
		return w.put(t, w.ca.NewNodeAt(t, role, time.Now().Add(d))).Credentials
	}
	for _, n := range []*pkitest.Node{removedWorker, removedManager, demoted, &staleRecord} {
		w.put(t, n)
	}
	revoked := w.person(t, w.ca, "mallory", time.Now(), func(p *pkipb.Person) { p.Denied = true })
	superseded := w.person(t, w.ca, "carol", time.Now(), func(p *pkipb.Person) { p.LeafSpki = []byte("the hash of a newer key, 32 bytes") })
	member, boss := w.put(t, w.ca.NewNode(t, worker)), w.put(t, w.ca.NewNode(t, manager))
	tcp := func(creds *pki.Credentials) func(*testing.T, string) (closerConn, error) {
		return func(t *testing.T, way string) (closerConn, error) {
			if way == "api.sock" {
				return nil, errors.New("that is no protocol of port 2377")
			}
			cfg := w.m.creds.ClientConfig(way, "")
			cfg.GetClientCertificate = nil
			if creds != nil {
				cfg.GetClientCertificate = creds.GetClientCertificate
			}
			conn, err := pki.DialTLS(t.Context(), w.addr, cfg)
			if err != nil {
				return nil, err
			}
			return pki.GRPCOver(conn)
		}
	}
	// People come by a protocol of their own, which has the operator API, too.
	byPeoples := func(cert *tls.Certificate, node bool) func(*testing.T, string) (closerConn, error) {
		return func(t *testing.T, way string) (closerConn, error) {
			if way == pki.ALPNLocal || node {
				way = pki.ALPNPerson
			}
			cfg := w.m.creds.ClientConfig(way, "")
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
			conn, err := pki.DialTLS(t.Context(), w.addr, cfg)
			if err != nil {
				return nil, err
			}
			return pki.GRPCOver(conn)
		}
	}
	person := func(cert *tls.Certificate) func(*testing.T, string) (closerConn, error) {
		return byPeoples(cert, false)
	}
	aPerson := map[string][]authzpb.Caller{pki.ALPNLocal: {authzpb.Caller_CALLER_PERSON}, pki.ALPNPerson: {authzpb.Caller_CALLER_PERSON}}
	h2 := func(k ...authzpb.Caller) map[string][]authzpb.Caller {
		return map[string][]authzpb.Caller{pki.ALPNGRPC: k}
	}
	ofManager := map[string][]authzpb.Caller{pki.ALPNGRPC: {authzpb.Caller_CALLER_MANAGER}, pki.ALPNLock: {authzpb.Caller_CALLER_MANAGER},
		pki.ALPNWitness: {authzpb.Caller_CALLER_MANAGER}, pki.ALPNLocal: {authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT}}
	big := make([]byte, maxMessage+1<<20)
	return []*tableCaller{
		{name: "nobody: no certificate", dial: tcp(nil), kinds: h2(authzpb.Caller_CALLER_ANYONE)},
		{name: "a worker of another CA", dial: tcp(foreign.NewNode(t, worker).Credentials)},
		{name: "a manager of another CA", dial: tcp(foreign.NewNode(t, manager).Credentials)},
		{name: "a worker, expired 1 day", dial: tcp(at(worker, -2*day)), kinds: h2(authzpb.Caller_CALLER_EXPIRED_WORKER)},
		{name: "a worker, expired 39 days", dial: tcp(at(worker, -40*day))},
		{name: "a manager, expired", dial: tcp(at(manager, -2*day))},
		{name: "a worker, not valid yet", dial: tcp(at(worker, 2*time.Hour))},
		{name: "a manager, not valid yet", dial: tcp(at(manager, 2*time.Hour))},
		{name: "a worker", dial: tcp(member.Credentials), kinds: h2(authzpb.Caller_CALLER_WORKER)},
		{name: "a worker with the certificate before the last", dial: tcp(stale.Credentials)},
		{name: "a worker the cluster does not know", dial: tcp(w.ca.NewNode(t, worker).Credentials)},
		{name: "a locked manager: its boot leaf", dial: tcp(boss.Boot), kinds: map[string][]authzpb.Caller{pki.ALPNLock: {authzpb.Caller_CALLER_BOOT}}},
		{name: "a demoted manager", dial: tcp(demoted.Credentials), kinds: h2(authzpb.Caller_CALLER_DEMOTED_MANAGER)},
		{name: "a demoted manager's boot leaf", dial: tcp(demoted.Boot)},
		{name: "a removed worker", dial: tcp(removedWorker.Credentials)},
		{name: "a removed manager", dial: tcp(removedManager.Credentials)},
		{name: "a removed manager's boot leaf", dial: tcp(removedManager.Boot)},
		{name: "a manager (local root carried by it)", dial: tcp(boss.Credentials), kinds: ofManager},
		{name: "a manager, 5 MiB message", dial: tcp(boss.Credentials), kinds: ofManager, big: true, message: big},
		{name: "root on this node", local: true, dial: w.dialLocal(w.local, 0, 0), kinds: map[string][]authzpb.Caller{
			"api.sock": {authzpb.Caller_CALLER_NODE_LOCAL_ROOT}, pki.ALPNLocal: {authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT}}},
		{name: "a person", dial: person(w.person(t, w.ca, "alice", time.Now(), nil)), kinds: aPerson},
		{name: "a person, expired", dial: person(w.person(t, w.ca, "bob", time.Now().Add(-13*time.Hour), nil))},
		{name: "a person, not valid yet", dial: person(w.person(t, w.ca, "dora", time.Now().Add(time.Hour), nil))},
		{name: "a revoked person", dial: person(revoked)},
		{name: "a person with the certificate before the last", dial: person(superseded)},
		{name: "a person the cluster does not know", dial: person(newPersonCert(t, w.ca, "erin", time.Now()))},
		{name: "a person of another CA", dial: person(newPersonCert(t, foreign, "alice", time.Now()))},
		{name: "a manager, by the protocol of people", dial: byPeoples(certOf(t, boss.Credentials), true)},
		{name: "another user on this node", local: true, dial: w.dialLocal(w.local, 65534, 65534)},
		{name: "a user of group redoubt", local: true, dial: w.dialLocal(w.users, 1, os.Getegid()), kinds: map[string][]authzpb.Caller{
			"api.sock": {authzpb.Caller_CALLER_LOCAL_USER}, pki.ALPNLocal: {authzpb.Caller_CALLER_LOCAL_USER}}},
		{name: "a user of group redoubt, on root's socket", local: true, dial: w.dialLocal(w.local, 1, os.Getegid())},
		{name: "a user of another group", local: true, dial: w.dialLocal(w.users, 1, 1)},
		{name: "a user of group redoubt without a name", local: true, dial: w.dialLocal(w.users, 4242421, os.Getegid())},
		{name: "root, on the socket for users", local: true, dial: w.dialLocal(w.users, 0, 0)},
		{name: "a manager, by the protocol for users, naming nobody", dial: onlyBy(tcp(boss.Credentials), pki.ALPNUser)},
	}
}

// newPersonCert makes a person's certificate of before that time.
func newPersonCert(t testing.TB, ca *pkitest.CA, name string, at time.Time) *tls.Certificate {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.IssuePerson(name, key.Public(), at, profile.PersonLife)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: chain.GetCertificates(), PrivateKey: key}
}

// person makes somebody who is on record, as change says.
func (w *callerWorld) person(t testing.TB, ca *pkitest.CA, name string, at time.Time, change func(*pkipb.Person)) *tls.Certificate {
	t.Helper()
	cert := newPersonCert(t, ca, name, at)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	rec := &pkipb.Person{Id: name, LeafSpki: profile.SPKIHash(leaf), LeafNotAfter: leaf.NotAfter.Unix(), LifeSeconds: 43200}
	if change != nil {
		change(rec)
	}
	w.update(t, func(tx *raftstore.Tx) error { return pkistore.People.Put(tx, rec) })
	return cert
}

func certOf(t testing.TB, c *pki.Credentials) *tls.Certificate {
	t.Helper()
	cert, err := c.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// onlyBy has a caller come by one protocol, whatever the way is.
func onlyBy(dial func(*testing.T, string) (closerConn, error), way string) func(*testing.T, string) (closerConn, error) {
	return func(t *testing.T, _ string) (closerConn, error) { return dial(t, way) }
}

// dialLocal connects to a local socket as that user, whatever the way is: root's
// serves Bootstrap itself, and both carry Control on.
func (w *callerWorld) dialLocal(path string, uid, gid int) func(*testing.T, string) (closerConn, error) {
	return func(t *testing.T, _ string) (closerConn, error) {
		return grpc.NewClient("passthrough:///"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return dialAs(ctx, path, uint32(uid), uint32(gid))
			}))
	}
}

// dialAs connects to a unix socket from a process of that user: the kernel
// reports who connected, whoever has the socket after that.
func dialAs(ctx context.Context, path string, uid, gid uint32) (net.Conn, error) {
	if uid == 0 {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$") // gRPC's ctx ends when the connection stands
	cmd.Env = []string{dialFor + "=" + path}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// It ends as soon as either side of what it copies does.
	go cmd.Wait()
	return net.FileConn(ours)
}

// dialFor, when set, makes the test binary connect descriptor 3 with a socket.
const dialFor = "REDOUBT_TEST_DIAL"

func TestMain(m *testing.M) {
	path := os.Getenv(dialFor)
	if path == "" {
		os.Exit(m.Run())
	}
	in, err := net.FileConn(os.NewFile(3, "in"))
	if err != nil {
		os.Exit(1)
	}
	out, err := net.Dial("unix", path)
	if err != nil {
		os.Exit(1)
	}
	go func() {
		io.Copy(out, in)
		os.Exit(0)
	}()
	io.Copy(in, out)
}
