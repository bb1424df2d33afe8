package roles

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// world is a store with two managers and an engine.
type world struct {
	t      testing.TB
	store  *raftstore.Store
	e      *Engine
	m1, m2 string
}

func newWorld(t testing.TB) *world { return newWorldAt(t, nil) }

func newWorldAt(t testing.TB, clock raftstore.Clock) *world {
	t.Helper()
	w := &world{t: t, store: raftstoretest.NewAt(t, clock, append(pkistore.Tables(), schedstore.Tables()...)...), m1: ident.New(), m2: ident.New()}
	for name, id := range map[string]string{"m1": w.m1, "m2": w.m2} {
		w.must(func(tx *raftstore.Tx) error {
			return pkistore.Nodes.Put(tx, &pkipb.Node{Id: id, Name: name, Role: profilepb.Role_ROLE_MANAGER})
		})
	}
	var err error
	if w.e, err = New(w.store, &audit.Log{Store: w.store, Manager: w.m1}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) do(fn func(*raftstore.Tx) error) error { return w.store.Update(w.t.Context(), fn) }

func (w *world) must(fn func(*raftstore.Tx) error) {
	w.t.Helper()
	if err := w.do(fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) user(name string) Principal {
	return Principal{pkipb.Principal_KIND_LOCAL_USER, name, w.m1}
}

func (w *world) root() Principal {
	return Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: w.m1}
}

func (w *world) bind(role string, p Principal, labels map[string]string) {
	w.t.Helper()
	w.must(func(tx *raftstore.Tx) error {
		_, err := Bind(tx, role, p, labels)
		return err
	})
}

func (w *world) decide(p Principal, verb string, on Resource) (d Decision) {
	w.t.Helper()
	err := w.store.View(func(r *raftstore.ReadTx) (err error) {
		d, err = w.e.Decide(r, p, verb, on)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// TestLocalRootMayEverything: what local root could do before there were roles goes
// on, as long as no person is security-admin, and takes both of its roles.
func TestLocalRootMayEverything(t *testing.T) {
	w := newWorld(t)
	verbs, err := Verbs()
	if err != nil || len(verbs) < 50 {
		t.Fatal(verbs, err)
	}
	for _, v := range verbs {
		if d := w.decide(w.root(), v, Resource{}); !d.Allowed && !strings.HasSuffix(v, ".use") {
			t.Errorf("%s: %s", v, d.Why())
		}
	}
	for _, k := range []string{"Secret", "Config", "Network"} {
		if d := w.decide(w.root(), strings.ToLower(k)+".use", Resource{Kind: k, ID: "x", Name: "x"}); !d.Allowed {
			t.Errorf("%s.use: %s", k, d.Why())
		}
	}
}

func TestWhoIsNotBoundMayNothing(t *testing.T) {
	w := newWorld(t)
	verbs, _ := Verbs()
	for _, p := range []Principal{w.user("ann"), {Kind: pkipb.Principal_KIND_PERSON, Name: "ann"}, {}} {
		for _, v := range verbs {
			if d := w.decide(p, v, Resource{}); d.Allowed {
				t.Errorf("%s may %s: %s", p.Text(""), v, d.Why())
			}
		}
	}
}

func TestABindingIsForWhatHasItsLabels(t *testing.T) {
	w := newWorld(t)
	w.bind("deployer", w.user("ann"), map[string]string{"env": "test"})
	service := func(labels ...string) Resource {
		r := Resource{Kind: "Service", ID: "web", Name: "web", Labels: map[string]string{}}
		for _, l := range labels {
			k, v, _ := strings.Cut(l, "=")
			r.Labels[k] = v
		}
		return r
	}
	for _, c := range []struct {
		on   Resource
		want bool
	}{
		{service("env=test"), true}, {service("env=test", "a=b"), true}, {service("env=prod"), false}, {service(), false},
		{service("env="), false}, {Resource{}, false},
	} {
		if d := w.decide(w.user("ann"), "service.update", c.on); d.Allowed != c.want {
			t.Errorf("%v: %+v", c.on, d)
		}
	}
	if d := w.decide(w.user("ann"), "node.update", service("env=test")); d.Allowed {
		t.Error("a deployer may update nodes")
	}
}

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	w.bind("operator", w.user("ann"), nil)
	set := func(name, text string) {
		t.Helper()
		w.must(func(tx *raftstore.Tx) error { return SetPolicy(tx, name, text) })
	}
	prod := Resource{Kind: "Service", ID: "db", Name: "db", Labels: map[string]string{"env": "prod", StackLabel: "shop"}}
	set("no-prod", `@description("hands off")
forbid (principal is Redoubt::LocalUser, action in Redoubt::Action::"service", resource is Redoubt::Service)
when { resource.hasTag("env") && resource.getTag("env") == "prod" };`)
	if d := w.decide(w.user("ann"), "service.remove", prod); d.Allowed || d.Why() != "forbidden by policy no-prod, statement 1" {
		t.Errorf("%+v", d)
	}
	if d := w.decide(w.user("ann"), "service.remove", Resource{Kind: "Service", ID: "db", Name: "db"}); !d.Allowed || d.Why() != "permitted by role operator" {
		t.Errorf("%+v", d)
	}
	set("no-prod", `permit (principal == Redoubt::LocalUser::"bob@`+w.m1+`", action == Redoubt::Action::"service.logs", resource in Redoubt::Stack::"shop");`)
	if d := w.decide(w.user("ann"), "service.remove", prod); !d.Allowed {
		t.Errorf("the policy of before is in force: %+v", d)
	}
	if d := w.decide(w.user("bob"), "service.logs", prod); !d.Allowed || d.Why() != "permitted by policy no-prod, statement 1" {
		t.Errorf("%+v", d)
	}
	if d := w.decide(w.user("bob"), "service.logs", Resource{Kind: "Service", ID: "db", Name: "db"}); d.Allowed {
		t.Errorf("%+v", d)
	}
	w.must(func(tx *raftstore.Tx) error { return RemovePolicy(tx, "no-prod") })
	if d := w.decide(w.user("bob"), "service.logs", prod); d.Allowed {
		t.Errorf("%+v", d)
	}
}

func TestBadPolicies(t *testing.T) {
	w := newWorld(t)
	all := `principal, action, resource`
	for _, c := range []struct{ text, want string }{
		{``, "no statement"},
		{`permit (principal, action, resource)`, "does not parse"},
		{`permit (` + all + `);` + "\x00", "does not parse"},
		{`permit (principal, action == Redoubt::Action::"service.destroy", resource);`, `there is no verb "service.destroy"`},
		{`permit (principal, action == Redoubt::Action::"servic", resource);`, `there is no verb "servic"`},
		{`permit (principal in Redoubt::Role::"boss", action, resource);`, `there is no role "boss"`},
		{`permit (principal, action, resource) when { principal in [Redoubt::Role::"boss"] };`, `there is no role "boss"`},
		{`permit (principal == Redoubt::Robot::"r2", action, resource);`, "Robot"},
		{`permit (principal == Person::"ann", action, resource);`, "Person"},
		{`permit (principal, action, resource == Redoubt::Cluster::"mine");`, `the cluster is`},
		{`permit (` + all + `) when { resource.owner == "ann" };`, "owner"},
		{`permit (` + all + `) when { context.source == "x" };`, "source"},
		{`permit (` + all + `) when { resource.name == 5 };`, ""},
		{`permit (principal, action in Redoubt::Action::"service", resource is Redoubt::Service) when { resource.getTag("env") == "prod" };`, "env"},
		{`@approvals("2") permit (` + all + `);`, "no annotation @approvals"},
		{`permit (principal == ?principal, action, resource);`, ""},
		{strings.Repeat(`permit (`+all+`);`, MaxStatements+1), "at most 64"},
		{`permit (` + all + `); //` + strings.Repeat("x", MaxPolicyBytes), "at most 16384"},
		{`@people forbid (` + all + `);`, "@people is a number from 2 to 9"},
		{`@people("1") forbid (principal, action == Redoubt::Action::"role.create", resource);`, "@people is a number from 2 to 9"},
		{`@parties("02") forbid (principal, action == Redoubt::Action::"role.create", resource);`, "@parties is a number from 2 to 9"},
		{`@parties("10") forbid (principal, action == Redoubt::Action::"role.create", resource);`, "@parties is a number from 2 to 9"},
		{`@people("2") @parties("2") forbid (principal, action == Redoubt::Action::"role.create", resource);`, "of two statements"},
		{`@people("2") @people("3") forbid (principal, action == Redoubt::Action::"role.create", resource);`, "does not parse"},
		{`@parties("2") permit (principal, action == Redoubt::Action::"role.create", resource);`, "before a forbid"},
		{`@parties("2") forbid (` + all + `);`, "verbs that the statement names"},
		{`@parties("2") forbid (principal, action in Redoubt::Action::"role", resource);`, "verbs that the statement names"},
		{`@parties("2") forbid (principal, action in [Redoubt::Action::"role"], resource);`, "role cannot wait"},
		{`@parties("2") forbid (principal, action == Redoubt::Action::"slot.rotate", resource);`, "slot.rotate cannot wait for several people, only admission.update, audit.drop, audit.remove-witness, audit.set-retention,"},
		{`@parties("2") forbid (principal, action in [Redoubt::Action::"role.create", Redoubt::Action::"secret.create"], resource);`, "secret.create cannot wait"},
		{`@parties("2") forbid (principal, action == Redoubt::Action::"role.creat", resource);`, `there is no verb "role.creat"`},
		// There are two managers, and no people.
		{`@people("2") forbid (principal, action == Redoubt::Action::"role.create", resource);`, "nobody could role.create any more: 2 people must be for it (policy p, statement 1)"},
		{`@parties("3") forbid (principal, action == Redoubt::Action::"backup.create", resource);`, "nobody could backup.create any more: 3 people or managers"},
		{`@parties("2") forbid (principal, action == Redoubt::Action::"backup.create", resource); forbid (principal, action == Redoubt::Action::"approval.grant", resource);`, "nobody could backup.create"},
		{`forbid (` + all + `);`, "nobody could change"},
		{`forbid (principal, action == Redoubt::Action::"policy.set", resource);`, "nobody could change"},
		{`forbid (principal in Redoubt::Role::"security-admin", action in Redoubt::Action::"binding", resource);`, "nobody could change"},
	} {
		err := w.do(func(tx *raftstore.Tx) error { return SetPolicy(tx, "p", c.text) })
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 500 {
			t.Errorf("%.80q: %v, want %q", c.text, err, c.want)
		}
	}
	if d := w.decide(w.root(), "policy.set", Resource{}); !d.Allowed {
		t.Error("a refused policy is in force")
	}
}

func TestOwnRoles(t *testing.T) {
	w := newWorld(t)
	create := func(name string, verbs ...string) error {
		return w.do(func(tx *raftstore.Tx) error { return CreateRole(tx, name, "", verbs) })
	}
	for want, err := range map[string]error{
		"there is a role viewer already": create("viewer", "node.list"),
		`there is no verb "node.*"`:      create("x", "node.*"),
		`only lowercase letters`:         create("x\"y", "node.list"),
		"without a verb":                 create("x"),
		`is built in`:                    w.do(func(tx *raftstore.Tx) error { return RemoveRole(tx, "viewer") }),
		`there is no role "boss"`:        w.do(func(tx *raftstore.Tx) error { return RemoveRole(tx, "boss") }),
		`there is no user:ann@nowhere`: w.do(func(tx *raftstore.Tx) error {
			_, err := Bind(tx, "viewer", Principal{pkipb.Principal_KIND_LOCAL_USER, "ann", "nowhere"}, nil)
			return err
		}),
		`there is no person:ann`: w.do(func(tx *raftstore.Tx) error {
			_, err := Bind(tx, "viewer", Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "ann"}, nil)
			return err
		}),
		`has no such binding to role "viewer"`: w.do(func(tx *raftstore.Tx) error { return Unbind(tx, "viewer", w.root(), nil) }),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := create("drainer", "node.update", "node.list", "node.update"); err != nil {
		t.Fatal(err)
	}
	w.bind("drainer", w.user("ann"), nil)
	if d := w.decide(w.user("ann"), "node.update", Resource{Kind: "Node", ID: w.m2}); !d.Allowed || d.Why() != "permitted by role drainer" {
		t.Errorf("%+v", d)
	}
	if err := w.do(func(tx *raftstore.Tx) error { return RemoveRole(tx, "drainer") }); err == nil || !strings.Contains(err.Error(), "user:ann@m1 has the role drainer") {
		t.Error(err)
	}
	if err := w.do(func(tx *raftstore.Tx) error { _, err := Bind(tx, "drainer", w.user("ann"), nil); return err }); err == nil || !strings.Contains(err.Error(), "already") {
		t.Error(err)
	}
	w.must(func(tx *raftstore.Tx) error { return Unbind(tx, "drainer", w.user("ann"), nil) })
	if d := w.decide(w.user("ann"), "node.update", Resource{Kind: "Node", ID: w.m2}); d.Allowed {
		t.Errorf("%+v", d)
	}
	w.must(func(tx *raftstore.Tx) error {
		return SetPolicy(tx, "p", `forbid (principal in Redoubt::Role::"drainer", action, resource);`)
	})
	if err := w.do(func(tx *raftstore.Tx) error { return RemoveRole(tx, "drainer") }); err == nil || !strings.Contains(err.Error(), "policy p") {
		t.Error(err)
	}
}

func TestRefusalIsOneLine(t *testing.T) {
	w := newWorld(t)
	err := w.store.View(func(r *raftstore.ReadTx) error {
		on := ResourceOf(r, authz.Act{Verb: "node.update", Kind: "Node", Ref: w.m2})
		return refusal(r, w.user("ann"), "node.update", on, Decision{Roles: []string{"viewer"}})
	})
	if got, want := err.Error(), "user:ann@m1 may not node.update on node m2: neither role viewer nor a policy permits it"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// TestBuiltinRoles holds the roles against what separates them.
func TestBuiltinRoles(t *testing.T) {
	all, err := builtins()
	if err != nil {
		t.Fatal(err)
	}
	verbs, _ := Verbs()
	for _, v := range verbs {
		if !slices.Contains(all[Operator].Verbs, v) && !slices.Contains(all[SecurityAdmin].Verbs, v) {
			t.Errorf("nobody's role permits %s", v)
		}
	}
	for name, not := range map[string][]string{
		"viewer":      {"create", "update", "remove", "revoke", "rotate", "use", "set", "approve", "add"},
		"auditor":     {"create", "update", "remove", "revoke", "rotate", "use", "set", "approve", "add", "logs", "read"},
		SecurityAdmin: {"service.create", "service.update", "secret.use", "config.read", "service.logs", "secret.update"},
		Operator:      {"node.revoke", "ca.rotate", "autolock", "slot.add", "slot.rotate", "admission.update", "binding.create", "policy.set", "role.create", "identity.revoke"},
	} {
		for _, v := range all[name].Verbs {
			for _, n := range not {
				if strings.Contains(v, n) {
					t.Errorf("%s may %s", name, v)
				}
			}
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add(`permit (principal, action, resource);`)
	f.Add(`@description("x") forbid (principal in Redoubt::Role::"viewer", action in [Redoubt::Action::"node.list"], resource is Redoubt::Node) unless { resource.name like "a*" };`)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParsePolicy("p", text, func(role string) bool { return role == "viewer" })
		if err != nil {
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 400 {
				t.Errorf("%q", err)
			}
			return
		}
		for _, p := range list { // what it is written as means the same
			if _, err := ParsePolicy("p", string(p.MarshalCedar()), func(role string) bool { return role == "viewer" }); err != nil {
				t.Errorf("%q became %q: %v", text, p.MarshalCedar(), err)
			}
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	for name, policies := range map[string]int{"roles alone": 0, "100 policies": 100} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			for i := range policies {
				w.must(func(tx *raftstore.Tx) error {
					return SetPolicy(tx, "p"+string(rune('a'+i/26))+string(rune('a'+i%26)), `forbid (principal is Redoubt::Person, action in Redoubt::Action::"service", resource is Redoubt::Service)
when { resource.hasTag("env") && resource.getTag("env") == "prod" };`)
				})
			}
			id := authz.Identity{LocalRoot: true, LocalRootOf: w.m1}
			acts := []authz.Act{{Verb: "node.list", Kind: "Node", Ref: w.m2}}
			b.ReportAllocs()
			for b.Loop() {
				if err := w.e.Judge(b.Context(), id, acts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestPeopleComeAndGo: local root is security-admin while no person is who can call,
// whatever policies say; a person's roles go with the record, and not when revoked.
func TestPeopleComeAndGo(t *testing.T) {
	w := newWorld(t)
	ann := Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "ann"}
	put := func(change func(*pkipb.Person)) {
		t.Helper()
		w.must(func(tx *raftstore.Tx) error {
			p, ok := pkistore.People.Get(tx, "ann")
			if !ok {
				p = &pkipb.Person{Id: "ann"}
			}
			p = proto.CloneOf(p)
			change(p)
			return pkistore.People.Put(tx, p)
		})
	}
	admin := func() bool { return w.decide(w.root(), "policy.set", Resource{}).Allowed }
	put(func(p *pkipb.Person) { p.InvitationId = "one" })
	w.bind(SecurityAdmin, ann, nil)
	if !admin() {
		t.Error("who was only invited ends what root may")
	}
	put(func(p *pkipb.Person) { p.LeafSpki, p.LeafNotAfter = []byte("key"), time.Now().Add(time.Hour).Unix() })
	if admin() || !w.decide(ann, "policy.set", Resource{}).Allowed {
		t.Error("a security-admin came, and root is one, too")
	}
	for _, text := range []string{
		`forbid (principal is Redoubt::LocalRoot, action, resource);`,
		`forbid (principal is Redoubt::LocalRoot, action == Redoubt::Action::"binding.create", resource);`,
	} {
		if err := w.do(func(tx *raftstore.Tx) error { return SetPolicy(tx, "out", text) }); err == nil || !strings.Contains(err.Error(), "once no person may") {
			t.Errorf("%s: %v", text, err)
		}
	}
	w.must(func(tx *raftstore.Tx) error {
		return SetPolicy(tx, "hands-off", `forbid (principal is Redoubt::LocalRoot, action == Redoubt::Action::"node.revoke", resource);`)
	})
	put(func(p *pkipb.Person) { p.LeafNotAfter = time.Now().Add(-time.Second).Unix() })
	if !admin() {
		t.Error("the last certificate ended, and nobody is security-admin")
	}
	put(func(p *pkipb.Person) { p.LeafNotAfter, p.Denied = time.Now().Add(time.Hour).Unix(), true })
	if !admin() {
		t.Error("the last security-admin was revoked, and nobody is one")
	}
	w.must(func(tx *raftstore.Tx) error { return errors.Join(pkistore.People.Delete(tx, "ann"), Forget(tx, "ann")) })
	put(func(p *pkipb.Person) { p.LeafSpki, p.LeafNotAfter = []byte("other"), time.Now().Add(time.Hour).Unix() })
	if d := w.decide(ann, "node.list", Resource{}); d.Allowed || !admin() {
		t.Errorf("another person of that name has the roles of before: %+v", d)
	}
}
