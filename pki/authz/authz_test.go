package authz

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
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
	authzpb.Caller_CALLER_LOCAL_USER,
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
	with := func(r *authzpb.Rule) *descriptorpb.MethodOptions {
		o := new(descriptorpb.MethodOptions)
		proto.SetExtension(o, authzpb.E_Rule, r)
		return o
	}
	root := []authzpb.Caller{authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT}
	for _, k := range kinds {
		if slices.Contains(operators, k) {
			add(fmt.Sprintf("Kind%d", k), with(&authzpb.Rule{Callers: []authzpb.Caller{k}, Verbs: []*authzpb.Verb{{Name: "probe.do"}}}))
			continue
		}
		add(fmt.Sprintf("Kind%d", k), rule(k))
	}
	add("Own", with(&authzpb.Rule{Callers: root, Own: true}))
	add("NoVerb", rule(root...))
	add("OwnVerb", with(&authzpb.Rule{Callers: root, Own: true, Verbs: []*authzpb.Verb{{Name: "probe.do"}}}))
	add("WorkersVerb", with(&authzpb.Rule{Callers: []authzpb.Caller{authzpb.Caller_CALLER_WORKER}, Verbs: []*authzpb.Verb{{Name: "probe.do"}}}))
	add("BadVerb", with(&authzpb.Rule{Callers: root, Verbs: []*authzpb.Verb{{Name: "probe"}}}))
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
	a := New(Config{Directory: d, Judge: new(judge), Manager: func() bool { return true }})
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
		for _, m := range []string{"NoRule", "EmptyRule", "Unspecified", "UnknownCaller", "NoVerb", "OwnVerb", "WorkersVerb", "BadVerb", "Missing"} {
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
	_, err := a.Unary(ctx, &emptypb.Empty{}, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, _ any) (any, error) {
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
	// In the mesh a record may be behind, but not what is only the external CA's word,
	// nor a worker in a manager's place.
	peer := func(of *Peer, spki []byte, role profilepb.Role, external bool) *Peer {
		p := *of
		p.SPKI, p.Role, p.External = spki, role, external
		return &p
	}
	const worker, manager = profilepb.Role_ROLE_WORKER, profilepb.Role_ROLE_MANAGER
	other := []byte("another key")
	twice := d.node(worker)
	d.set(&pkipb.Node{Id: twice.NodeID, Role: worker, LeafSpki: other, PreviousSpki: twice.SPKI})
	promoted := d.node(worker)
	d.set(&pkipb.Node{Id: promoted.NodeID, Role: manager, LeafSpki: other, PreviousSpki: promoted.SPKI})
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
		{"worker in the mesh", ALPNPeer, w, true},
		{"worker with a key that is not known yet", ALPNPeer, peer(w, other, worker, false), true},
		{"worker that is not known yet", ALPNPeer, peer(&unknown, other, worker, false), true},
		{"worker of the external CA", ALPNPeer, peer(w, w.SPKI, worker, true), true},
		{"worker of the external CA with the key of before", ALPNPeer, peer(twice, twice.SPKI, worker, true), true},
		{"key of the external CA that is not on record", ALPNPeer, peer(w, other, worker, true), false},
		{"node of the external CA that is not on record", ALPNPeer, peer(&unknown, other, worker, true), false},
		{"no key of the external CA", ALPNPeer, peer(w, nil, worker, true), false},
		{"worker in a manager's place", ALPNPeer, peer(m, other, worker, false), false},
		{"worker that was promoted just now", ALPNPeer, promoted, true},
		{"manager that was demoted just now", ALPNPeer, peer(w, other, manager, false), true},
		{"renewed manager in the mesh", ALPNPeer, &newer, true},
		{"denied in the mesh", ALPNPeer, denied, false},
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
	for _, want := range []string{"NoRule", "EmptyRule", "Unspecified", "UnknownCaller", "NoVerb", "OwnVerb", "WorkersVerb", "BadVerb", "no.such.Service", "redoubt.pki.v1.Node"} {
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
