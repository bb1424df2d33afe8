package authz

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

const testService = "redoubt.authz.test.Probe"

// callers of the probe's methods: one method per kind of caller, "Kind3", and
// two that nobody may call.
var kinds = []authzpb.Caller{
	authzpb.Caller_CALLER_ANYONE, authzpb.Caller_CALLER_WORKER, authzpb.Caller_CALLER_MANAGER, authzpb.Caller_CALLER_BOOT,
	authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT, authzpb.Caller_CALLER_NODE_LOCAL_ROOT, authzpb.Caller_CALLER_EXPIRED_WORKER,
}

func methodOf(k authzpb.Caller) string { return fmt.Sprintf("/%s/Kind%d", testService, k) }

func TestMain(m *testing.M) {
	registerProbe()
	goleak.VerifyTestMain(m)
}

func registerProbe() {
	sd := &descriptorpb.ServiceDescriptorProto{Name: proto.String("Probe")}
	add := func(name string, opts *descriptorpb.MethodOptions) {
		sd.Method = append(sd.Method, &descriptorpb.MethodDescriptorProto{
			Name: proto.String(name), InputType: proto.String(".google.protobuf.Empty"),
			OutputType: proto.String(".google.protobuf.Empty"), Options: opts,
		})
	}
	rule := func(callers ...authzpb.Caller) *descriptorpb.MethodOptions {
		o := new(descriptorpb.MethodOptions)
		proto.SetExtension(o, authzpb.E_Rule, &authzpb.Rule{Callers: callers})
		return o
	}
	for _, k := range kinds {
		add(fmt.Sprintf("Kind%d", k), rule(k))
	}
	add("Members", rule(authzpb.Caller_CALLER_WORKER, authzpb.Caller_CALLER_MANAGER))
	add("NoRule", nil)
	add("EmptyRule", rule())
	add("Unspecified", rule(authzpb.Caller_CALLER_UNSPECIFIED))
	add("UnknownCaller", rule(99))
	fd, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("authz_probe.proto"), Package: proto.String("redoubt.authz.test"), Syntax: proto.String("proto3"),
		Dependency: []string{"google/protobuf/empty.proto"}, Service: []*descriptorpb.ServiceDescriptorProto{sd},
	}, protoregistry.GlobalFiles)
	if err != nil {
		panic(err)
	}
	if err := protoregistry.GlobalFiles.RegisterFile(fd); err != nil {
		panic(err)
	}
}

// directory is a table of node records whose changes are pushed by the test.
type directory struct {
	mu      sync.Mutex
	nodes   map[string]*pkipb.Node
	err     error
	changes chan []string
}

func newDirectory() *directory {
	return &directory{nodes: map[string]*pkipb.Node{}, changes: make(chan []string)}
}

func (d *directory) Node(id string) (*pkipb.Node, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nodes[id], d.err
}

func (d *directory) set(n *pkipb.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes[n.GetId()] = n
}

func (d *directory) Changes(ctx context.Context, changed func([]string)) error {
	changed(nil)
	for {
		select {
		case ids := <-d.changes:
			changed(ids)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// node makes a verified peer and its record.
func (d *directory) node(role profilepb.Role) *Peer {
	spki := []byte(ident.New())
	id := profile.Identity{ClusterID: ident.New(), NodeID: ident.New(), Role: role, SPKI: spki}
	n := &pkipb.Node{Id: id.NodeID, Role: role, LeafSpki: spki}
	if role == profilepb.Role_ROLE_BOOT {
		n.Role, n.LeafSpki, n.BootSpki = profilepb.Role_ROLE_MANAGER, []byte("leaf"), spki
	}
	d.set(n)
	return &Peer{Identity: id, Leaf: &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}}
}

func over(info credentials.AuthInfo) context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: info})
}

func overTLS(alpn string, p *Peer) context.Context {
	return over(&ConnInfo{TLSInfo: tlsInfo(tls.ConnectionState{NegotiatedProtocol: alpn}), Peer: p})
}

// callers are all kinds of identities that can knock, and the one kind of rule
// that admits each; 0: none does.
func callers(d *directory) map[string]struct {
	ctx  context.Context
	kind []authzpb.Caller
} {
	type c = struct {
		ctx  context.Context
		kind []authzpb.Caller
	}
	only := func(k ...authzpb.Caller) []authzpb.Caller { return k }
	w, m, b := d.node(profilepb.Role_ROLE_WORKER), d.node(profilepb.Role_ROLE_MANAGER), d.node(profilepb.Role_ROLE_BOOT)
	changed := func(p *Peer, change func(*pkipb.Node)) *Peer {
		n := proto.CloneOf(d.nodes[p.NodeID])
		change(n)
		d.set(n)
		return p
	}
	late := func(p *Peer, by time.Duration) *Peer {
		p.Leaf = &x509.Certificate{NotAfter: time.Now().Add(-by)}
		return p
	}
	stranger := *w
	stranger.NodeID = ident.New()
	promoted := *w
	promoted.Role = profilepb.Role_ROLE_MANAGER
	day := 24 * time.Hour
	const (
		wk, mg, bt = profilepb.Role_ROLE_WORKER, profilepb.Role_ROLE_MANAGER, profilepb.Role_ROLE_BOOT
	)
	return map[string]c{
		"no certificate":            {overTLS("h2", nil), only(authzpb.Caller_CALLER_ANYONE)},
		"no certificate, local":     {overTLS(ALPNLocal, nil), nil},
		"no certificate, lock":      {overTLS(ALPNLock, nil), nil},
		"worker":                    {overTLS("h2", w), only(authzpb.Caller_CALLER_WORKER)},
		"worker on local":           {overTLS(ALPNLocal, w), nil},
		"worker on lock":            {overTLS(ALPNLock, w), nil},
		"worker on raft":            {overTLS("redoubt-raft/1", w), nil},
		"worker, no protocol":       {overTLS("", w), nil},
		"manager":                   {overTLS("h2", m), only(authzpb.Caller_CALLER_MANAGER)},
		"manager on lock":           {overTLS(ALPNLock, m), only(authzpb.Caller_CALLER_MANAGER)},
		"manager on local":          {overTLS(ALPNLocal, m), only(authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT)},
		"manager on raft":           {overTLS("redoubt-raft/1", m), nil},
		"boot on lock":              {overTLS(ALPNLock, b), only(authzpb.Caller_CALLER_BOOT)},
		"boot":                      {overTLS("h2", b), nil},
		"boot on local":             {overTLS(ALPNLocal, b), nil},
		"stranger":                  {overTLS("h2", &stranger), nil},
		"worker says manager":       {overTLS("h2", &promoted), nil},
		"worker says manager local": {overTLS(ALPNLocal, &promoted), nil},
		"denied worker":             {overTLS("h2", changed(d.node(wk), func(n *pkipb.Node) { n.Denied = true })), nil},
		"denied manager":            {overTLS("h2", changed(d.node(mg), func(n *pkipb.Node) { n.Denied = true })), nil},
		"denied manager on local":   {overTLS(ALPNLocal, changed(d.node(mg), func(n *pkipb.Node) { n.Denied = true })), nil},
		"denied boot":               {overTLS(ALPNLock, changed(d.node(bt), func(n *pkipb.Node) { n.Denied = true })), nil},
		"boot of a worker":          {overTLS(ALPNLock, changed(d.node(bt), func(n *pkipb.Node) { n.Role = wk })), nil},
		"previous leaf": {overTLS("h2", changed(d.node(wk), func(n *pkipb.Node) { n.PreviousSpki, n.LeafSpki = n.LeafSpki, []byte("x") })),
			only(authzpb.Caller_CALLER_WORKER)},
		"older leaf":         {overTLS("h2", changed(d.node(wk), func(n *pkipb.Node) { n.PreviousSpki, n.LeafSpki = []byte("y"), []byte("x") })), nil},
		"no leaf on record":  {overTLS("h2", &Peer{Identity: profile.Identity{NodeID: changed(d.node(wk), func(n *pkipb.Node) { n.LeafSpki = nil }).NodeID, Role: wk}, Leaf: w.Leaf}), nil},
		"late worker":        {overTLS("h2", late(d.node(wk), day)), only(authzpb.Caller_CALLER_EXPIRED_WORKER)},
		"late denied worker": {overTLS("h2", late(changed(d.node(wk), func(n *pkipb.Node) { n.Denied = true }), day)), nil},
		"very late worker":   {overTLS("h2", late(d.node(wk), 31*day)), nil},
		"late manager":       {overTLS("h2", late(d.node(mg), time.Minute)), nil},
		"late boot":          {overTLS(ALPNLock, late(d.node(bt), time.Minute)), nil},
		"local root":         {over(&LocalInfo{}), only(authzpb.Caller_CALLER_NODE_LOCAL_ROOT, authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT)},
		"plain TLS info":     {over(credentials.TLSInfo{State: tls.ConnectionState{NegotiatedProtocol: "h2"}}), nil},
		"no auth info":       {over(nil), nil},
		"no peer":            {context.Background(), nil},
	}
}

// TestRuleByIdentity is every rule × every identity.
func TestRuleByIdentity(t *testing.T) {
	d := newDirectory()
	a := New(Config{Directory: d, Manager: func() bool { return true }})
	for name, c := range callers(d) {
		for _, k := range kinds {
			err := tryUnary(a, c.ctx, methodOf(k))
			if got, want := err == nil, slices.Contains(c.kind, k); got != want {
				t.Errorf("%s → %s: admitted %t, want %t (%v)", name, k, got, want, err)
			}
			if err != nil && status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s → %s: refused with %v", name, k, err)
			}
		}
		for _, m := range []string{"NoRule", "EmptyRule", "Unspecified", "UnknownCaller", "Missing"} {
			if tryUnary(a, c.ctx, "/"+testService+"/"+m) == nil {
				t.Errorf("%s → %s: admitted", name, m)
			}
		}
		for _, m := range []string{"", "/", "//", testService, "/no.such.Service/M", "/redoubt.pki.v1.Node/meta"} {
			if tryUnary(a, c.ctx, m) == nil {
				t.Errorf("%s → %q: admitted", name, m)
			}
		}
	}
}

func tryUnary(a *Authorizer, ctx context.Context, method string) error {
	_, err := a.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, _ any) (any, error) {
		if _, ok := FromContext(ctx); !ok {
			return nil, errors.New("the handler got no identity")
		}
		return nil, nil
	})
	return err
}

// TestNoDirectory: without a store nobody with a certificate is admitted, save
// a boot leaf, and local root is root of this node only.
func TestNoDirectory(t *testing.T) {
	d := newDirectory()
	a := New(Config{})
	want := map[string]authzpb.Caller{
		"no certificate":   authzpb.Caller_CALLER_ANYONE,
		"boot on lock":     authzpb.Caller_CALLER_BOOT,
		"boot of a worker": authzpb.Caller_CALLER_BOOT, // as far as anybody can tell
		"denied boot":      authzpb.Caller_CALLER_BOOT,
		"local root":       authzpb.Caller_CALLER_NODE_LOCAL_ROOT,
	}
	for name, c := range callers(d) {
		for _, k := range kinds {
			if got := tryUnary(a, c.ctx, methodOf(k)) == nil; got != (want[name] == k) {
				t.Errorf("%s → %s: admitted %t", name, k, got)
			}
		}
	}
	// A store that cannot be read admits nobody either.
	d.err = errors.New("closed")
	a = New(Config{Directory: d})
	for _, k := range kinds {
		if tryUnary(a, overTLS("h2", &Peer{Identity: profile.Identity{Role: profilepb.Role_ROLE_WORKER}, Leaf: &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}}), methodOf(k)) == nil {
			t.Error("admitted without the records")
		}
	}
}

func TestCheckPeer(t *testing.T) {
	d := newDirectory()
	a := New(Config{Directory: d})
	w, m := d.node(profilepb.Role_ROLE_WORKER), d.node(profilepb.Role_ROLE_MANAGER)
	// A manager that lags behind sees an old record of the leader: raft goes on.
	newer := *m
	newer.SPKI = []byte("renewed")
	unknown := *m
	unknown.NodeID = ident.New()
	denied := d.node(profilepb.Role_ROLE_MANAGER)
	d.set(&pkipb.Node{Id: denied.NodeID, Role: denied.Role, LeafSpki: denied.SPKI, Denied: true})
	const raft = "redoubt-raft/1"
	for _, tc := range []struct {
		name, alpn string
		p          *Peer
		ok         bool
	}{
		{"anonymous", "h2", nil, true},
		{"worker", "h2", w, true},
		{"worker on raft", raft, w, false},
		{"manager on raft", raft, m, true},
		{"renewed manager on raft", raft, &newer, true},
		{"renewed manager on h2", "h2", &newer, false},
		{"unknown manager on raft", raft, &unknown, true}, // the raft configuration decides
		{"denied on raft", raft, denied, false},
		{"denied on leader", "redoubt-leader/1", denied, false},
	} {
		if err := a.CheckPeer(tc.alpn, tc.p); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestCheckAll(t *testing.T) {
	if err := CheckAll("redoubt.pki.v1.Join", "redoubt.pki.v1.Renew", "redoubt.pki.v1.Lock"); err != nil {
		t.Error(err)
	}
	err := CheckAll(testService, "no.such.Service", "redoubt.pki.v1.Node")
	if err == nil {
		t.Fatal("methods without a rule were not found")
	}
	for _, want := range []string{"NoRule", "EmptyRule", "Unspecified", "UnknownCaller", "no.such.Service", "redoubt.pki.v1.Node"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s was not found: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "Members") {
		t.Error("a method with a rule was reported")
	}
	if err := CheckServer(struct{ grpc.ServiceRegistrar }{}); err == nil {
		t.Error("a server that cannot be looked at was accepted")
	}
}

// fakeStream is a stream whose peer says nothing.
type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }
func (s fakeStream) RecvMsg(any) error        { return io.EOF }

// hold is a handler that waits for its context.
func hold(_ any, ss grpc.ServerStream) error {
	<-ss.Context().Done()
	if err := ss.RecvMsg(nil); err == nil || err == io.EOF {
		return errors.New("received after the cut")
	}
	return ss.Context().Err()
}

type closeConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func TestStreamIsCut(t *testing.T) {
	for name, change := range map[string]func(*pkipb.Node) *pkipb.Node{
		"denied":  func(n *pkipb.Node) *pkipb.Node { n.Denied = true; return n },
		"gone":    func(n *pkipb.Node) *pkipb.Node { return &pkipb.Node{Id: "other"} },
		"demoted": func(n *pkipb.Node) *pkipb.Node { n.Role = profilepb.Role_ROLE_BOOT; return n },
		"renewed twice": func(n *pkipb.Node) *pkipb.Node {
			n.LeafSpki, n.PreviousSpki = []byte("a"), []byte("b")
			return n
		},
	} {
		for _, all := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, all=%t", name, all), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDirectory()
					seen := make(chan []string, 4)
					a := New(Config{Directory: d, Changed: func(ids []string) { seen <- ids }})
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					run := make(chan error, 1)
					go func() { run <- a.Run(ctx) }()
					<-seen

					p, bystander := d.node(profilepb.Role_ROLE_WORKER), d.node(profilepb.Role_ROLE_WORKER)
					conn := &closeConn{closed: make(chan struct{})}
					stream := func(ctx context.Context, p *Peer, conn net.Conn) chan error {
						done := make(chan error, 1)
						c := peer.NewContext(ctx, &peer.Peer{AuthInfo: &ConnInfo{TLSInfo: tlsInfo(tls.ConnectionState{NegotiatedProtocol: "h2"}), Peer: p, conn: conn}})
						go func() {
							done <- a.Stream(nil, fakeStream{ctx: c}, &grpc.StreamServerInfo{FullMethod: "/" + testService + "/Members"}, hold)
						}()
						return done
					}
					cut, stays := stream(ctx, p, conn), stream(ctx, bystander, nil)
					synctest.Wait()

					n := proto.CloneOf(d.nodes[p.NodeID])
					d.mu.Lock()
					delete(d.nodes, p.NodeID)
					d.mu.Unlock()
					d.set(change(n))
					ids := []string{p.NodeID}
					if all {
						ids = nil
					}
					d.changes <- ids
					if err := <-cut; status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unauthenticated {
						t.Errorf("the stream ended with %v", err)
					}
					<-conn.closed
					<-seen
					synctest.Wait()
					select {
					case err := <-stays:
						t.Errorf("a bystander's stream ended: %v", err)
					default:
					}
					cancel()
					<-stays
					if err := <-run; err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestStreamEndsWithCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory()
		a := New(Config{Directory: d})
		p := d.node(profilepb.Role_ROLE_WORKER)
		start := time.Now()
		err := a.Stream(nil, fakeStream{ctx: overTLS("h2", p)}, &grpc.StreamServerInfo{FullMethod: "/" + testService + "/Members"}, hold)
		if status.Code(err) != codes.Unauthenticated || time.Since(start) != time.Hour {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// TestLocalSocket serves the probe on a unix socket to root and to another.
func TestLocalSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	a := New(Config{})
	srv := grpc.NewServer(a.LocalServerOptions()...)
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: testService, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		{MethodName: fmt.Sprintf("Kind%d", authzpb.Caller_CALLER_NODE_LOCAL_ROOT), Handler: echoEmpty},
		{MethodName: fmt.Sprintf("Kind%d", authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT), Handler: echoEmpty},
	}}, struct{}{})
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	defer wg.Wait()
	defer srv.Stop()
	cc, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	invoke := func(k authzpb.Caller) error {
		return cc.Invoke(t.Context(), methodOf(k), &emptypb.Empty{}, &emptypb.Empty{})
	}
	if err := invoke(authzpb.Caller_CALLER_NODE_LOCAL_ROOT); err != nil {
		t.Errorf("root of the node: %v", err)
	}
	if err := invoke(authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT); status.Code(err) != codes.PermissionDenied {
		t.Errorf("root of a node that is no manager: %v", err)
	}
}

func echoEmpty(_ any, ctx context.Context, dec func(any) error, ic grpc.UnaryServerInterceptor) (any, error) {
	in := new(emptypb.Empty)
	if err := dec(in); err != nil {
		return nil, err
	}
	m, _ := grpc.Method(ctx)
	return ic(ctx, in, &grpc.UnaryServerInfo{FullMethod: m}, func(context.Context, any) (any, error) { return in, nil })
}

// TestLocalSocketNotRoot connects as another user: on a thread of its own that
// gave up root and ends with the goroutine.
func TestLocalSocketNotRoot(t *testing.T) {
	l, err := net.Listen("unix", "@"+ident.New())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type result struct {
		fd  int
		err error
	}
	dialled := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			err = errno
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: l.Addr().String()})
		}
		dialled <- result{fd, err}
	}()
	r := <-dialled
	defer unix.Close(r.fd)
	if r.err != nil {
		t.Fatal(r.err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, err := LocalCredentials().ServerHandshake(conn); err == nil || !strings.Contains(err.Error(), "65534") {
		t.Errorf("another user on the local socket: %v", err)
	}
}

// TestLocalCredentials: neither kind of credentials takes the other's.
func TestLocalCredentials(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := LocalCredentials().ServerHandshake(a); err == nil {
		t.Error("a connection that is no local socket was accepted")
	}
	if _, _, err := TLSCredentials().ServerHandshake(a); err == nil {
		t.Error("a connection without TLS was accepted")
	}
	if _, _, err := TLSCredentials().ServerHandshake(tls.Server(a, &tls.Config{})); err == nil {
		t.Error("a connection whose peer nobody verified was accepted")
	}
}
