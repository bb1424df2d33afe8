package roles

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

func person(name string) Principal {
	return Principal{Kind: pkipb.Principal_KIND_PERSON, Name: name}
}

// people adds these as security admins whose certificates end in an hour.
func (w *world) people(names ...string) {
	w.t.Helper()
	for _, name := range names {
		w.must(func(tx *raftstore.Tx) error {
			return pkistore.People.Put(tx, &pkipb.Person{Id: name, LeafSpki: []byte(name), LeafNotAfter: time.Now().Add(time.Hour).Unix()})
		})
		w.bind(SecurityAdmin, person(name), nil)
	}
}

func (w *world) change(name string, fn func(*pkipb.Person)) {
	w.t.Helper()
	w.must(func(tx *raftstore.Tx) error {
		p, _ := pkistore.People.Get(tx, name)
		p = proto.CloneOf(p)
		fn(p)
		return pkistore.People.Put(tx, p)
	})
}

func (w *world) setPolicy(name, text string) error {
	return w.do(func(tx *raftstore.Tx) error { return SetPolicy(tx, name, text) })
}

const (
	guarded = `@people("2") forbid (principal, action in [Redoubt::Action::"role.create", Redoubt::Action::"policy.set", Redoubt::Action::"policy.remove",
		Redoubt::Action::"binding.create", Redoubt::Action::"binding.remove"], resource);`
	invited = `@parties("2") forbid (principal, action == Redoubt::Action::"person.invite", resource);`
)

// TestTwoPeople: two persons must be for it, whoever is root where; a person who is
// revoked counts no more, and one whose certificate has ended does.
func TestTwoPeople(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob", "eve")
	if err := w.setPolicy("guarded", guarded+invited); err != nil {
		t.Fatal(err)
	}
	req := &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}
	a := w.waits(w.create(person("ann"), req))
	says(t, w.decideOn(person("ann"), a, true), "person:ann asked for it")
	says(t, w.decideOn(w.root(), a, true), "is nobody in particular")
	w.grants(person("bob"), a)
	says(t, w.decideOn(person("bob"), a, true), "counts once")
	w.change("bob", func(p *pkipb.Person) { p.LeafNotAfter = 1 })
	ctx, err := w.admitted(person("ann"), createRole, req)
	if err != nil {
		t.Fatalf("bob, who sleeps, counts no more: %v", err)
	}
	w.change("bob", func(p *pkipb.Person) { p.Denied = true })
	says(t, w.store.Update(ctx, func(tx *raftstore.Tx) error { return CreateRole(tx, "drainer", "", req.GetVerbs()) }), "not enough any more: 1 of 2 people")
	says(t, w.create(person("ann"), req), "1 of 2 people")
	c := w.waits(w.create(person("ann"), &controlpb.CreateRoleRequest{Name: "lister", Verbs: []string{"node.list"}}))
	says(t, w.decideOn(person("bob"), c, true), "there is no person:bob any more")
	if b := w.waits(w.create(person("eve"), req)); b.GetId() == a.GetId() {
		t.Error("the third has what the first asked for")
	}
	w.grants(person("eve"), a)
	if err := w.create(person("ann"), req); err != nil || !w.hasRole("drainer") {
		t.Error(err)
	}
	if b := w.waits(w.create(person("ann"), req)); b.GetId() == a.GetId() {
		t.Error("an approval is good twice")
	}
}

// TestPeopleAreLeft: a policy that asks for more people than there are is refused, and so
// is one by which those whose certificates have all ended are never invited again; what
// is taken from the last who are needed is refused, unless they are removed.
func TestPeopleAreLeft(t *testing.T) {
	w := newWorld(t)
	says(t, w.setPolicy("guarded", guarded), "2 people must be for it")
	w.people("ann", "bob")
	says(t, w.setPolicy("guarded", `@people("3") forbid (principal, action == Redoubt::Action::"ca.rotate-root", resource);`), "there are not so many who may")
	says(t, w.setPolicy("guarded", guarded+`@people("2") forbid (principal, action == Redoubt::Action::"person.invite", resource);`), "count @parties")
	if err := w.setPolicy("guarded", guarded+invited); err != nil {
		t.Fatal(err)
	}
	says(t, w.do(func(tx *raftstore.Tx) error { return Unbind(tx, SecurityAdmin, person("bob"), nil) }), "there are not so many who may")

	// Over a weekend all certificates end: two managers invite somebody again.
	for _, name := range []string{"ann", "bob"} {
		w.change(name, func(p *pkipb.Person) { p.LeafNotAfter = 1 })
	}
	const invite = "/redoubt.control.v1.People/InvitePerson"
	again := func(key string) *controlpb.InvitePersonRequest {
		return &controlpb.InvitePersonRequest{Name: "ann", Id: key, PublicKey: []byte(key)}
	}
	_, err := w.admitted(w.root(), invite, again("one"))
	w.grants(rootOf(w.m2), w.waits(err))
	ctx, err := w.admitted(w.root(), invite, again("another"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Update(ctx, func(tx *raftstore.Tx) error {
		p, _ := pkistore.People.Get(tx, "ann")
		p = proto.CloneOf(p)
		p.InvitationId = "another"
		return pkistore.People.Put(tx, p)
	}); err != nil {
		t.Fatal(err)
	}
	_, err = w.admitted(w.root(), invite, again("a third"))
	w.waits(err)
	w.must(func(tx *raftstore.Tx) error { return errors.Join(pkistore.People.Delete(tx, "bob"), Forget(tx, "bob")) })
}

// TestMayLeave: a manager stays by which alone the policies can be met.
func TestMayLeave(t *testing.T) {
	w := newWorld(t)
	leaves := func(id string) error {
		return w.store.View(func(r *raftstore.ReadTx) error { return MayLeave(r, id) })
	}
	if err := leaves(w.m2); err != nil {
		t.Errorf("without a policy: %v", err)
	}
	w.people("ann", "bob")
	if err := w.setPolicy("eyes", guarded+invited); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{w.m1, w.m2} {
		says(t, leaves(id), "nobody could change roles and policies or invite people any more without manager m")
	}
	w.must(func(tx *raftstore.Tx) error {
		return pkistore.Nodes.Put(tx, &pkipb.Node{Id: ident.New(), Name: "m3", Role: profilepb.Role_ROLE_MANAGER})
	})
	if err := leaves(w.m2); err != nil {
		t.Errorf("one of three: %v", err)
	}

	// Where it is lost already nobody else is held for it.
	w.must(func(tx *raftstore.Tx) error {
		for n := range pkistore.Nodes.All(tx) {
			if n = proto.CloneOf(n); n.GetId() != w.m1 && n.GetId() != w.m2 {
				n.Denied = true
				return pkistore.Nodes.Put(tx, n)
			}
		}
		return nil
	})
	w.must(func(tx *raftstore.Tx) error {
		p, _ := pkistore.AccessPolicies.Get(tx, "eyes")
		p = proto.CloneOf(p)
		p.Text = strings.ReplaceAll(p.Text, `@parties("2")`, `@parties("3")`)
		return errors.Join(pkistore.AccessPolicies.Put(tx, p), count(tx))
	})
	if err := leaves(w.m2); err != nil {
		t.Errorf("of what could not be met: %v", err)
	}
}

// TestWhatMakesItBetter: once people are gone, what does not make anything worse is not
// refused for leaving it bad.
func TestWhatMakesItBetter(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob")
	if err := w.setPolicy("eyes", guarded+invited); err != nil {
		t.Fatal(err)
	}
	w.must(func(tx *raftstore.Tx) error {
		return SetPolicy(tx, "ca", `@people("2") forbid (principal, action == Redoubt::Action::"ca.rotate-root", resource);`)
	})
	w.must(func(tx *raftstore.Tx) error { return errors.Join(pkistore.People.Delete(tx, "bob"), Forget(tx, "bob")) })
	// Changes go as if they were approved: that is another test's.
	w.must(func(tx *raftstore.Tx) error {
		return pkistore.People.Put(tx, &pkipb.Person{Id: "eve", LeafSpki: []byte("eve"), LeafNotAfter: time.Now().Add(time.Hour).Unix()})
	})
	w.bind("viewer", person("eve"), nil)
	says(t, w.setPolicy("backups", `@people("2") forbid (principal, action == Redoubt::Action::"backup.create", resource);`), "nobody could backup.create any more")
	w.must(func(tx *raftstore.Tx) error { return RemovePolicy(tx, "ca") })
	w.bind(SecurityAdmin, person("eve"), nil)
	says(t, w.do(func(tx *raftstore.Tx) error { return Unbind(tx, SecurityAdmin, person("eve"), nil) }), "there are not so many who may")
}
