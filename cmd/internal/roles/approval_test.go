package roles

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// movedClock is the machine's, moved.
type movedClock struct{ by atomic.Int64 }

func (c *movedClock) Confirm(context.Context) (string, error) { return "", nil }
func (c *movedClock) Now() time.Time                          { return time.Now().Add(time.Duration(c.by.Load())) }

const createRole = "/redoubt.control.v1.Access/CreateRole"

func rootOf(node string) Principal {
	return Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: node}
}

// watched is a world of three managers of which two must be for a role.
func watched(t testing.TB, clock raftstore.Clock) (w *world, m3 string) {
	w, m3 = newWorldAt(t, clock), ident.New()
	w.must(func(tx *raftstore.Tx) error {
		if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: m3, Name: "m3", Role: profilepb.Role_ROLE_MANAGER}); err != nil {
			return err
		}
		return SetPolicy(tx, "watched", `@parties("2") forbid (principal, action == Redoubt::Action::"role.create", resource);`)
	})
	return w, m3
}

// admitted judges a call as a server does, and returns its handler's context.
func (w *world) admitted(p Principal, method string, req proto.Message) (context.Context, error) {
	w.t.Helper()
	id := authz.Identity{LocalRoot: p.Node != "", LocalRootOf: p.Node, Person: p.Name}
	if p.Kind == pkipb.Principal_KIND_LOCAL_USER {
		id = authz.Identity{User: p.Name, UserOf: p.Node}
	}
	ctx := authz.NewContext(w.t.Context(), id)
	acts, err := authz.ActsOf(method, req)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.e.Judge(ctx, id, acts); err != nil {
		return nil, err
	}
	return w.e.Consent(ctx, id, method, req, acts)
}

// create makes a role as its handler does.
func (w *world) create(p Principal, req *controlpb.CreateRoleRequest) error {
	w.t.Helper()
	ctx, err := w.admitted(p, createRole, req)
	if err != nil {
		return err
	}
	return w.store.Update(ctx, func(tx *raftstore.Tx) error {
		return CreateRole(tx, req.GetName(), req.GetDescription(), req.GetVerbs())
	})
}

// waits returns the approval that a refused request names.
func (w *world) waits(err error) *pkipb.Approval {
	w.t.Helper()
	if apierr.ReasonOf(err) != apierr.ReasonApproval {
		w.t.Fatalf("%v, want that others must approve it", err)
	}
	var out *pkipb.Approval
	_ = w.store.View(func(r *raftstore.ReadTx) error {
		for a := range pkistore.Approvals.All(r) {
			if strings.Contains(err.Error(), a.GetId()) {
				out = a
			}
		}
		return nil
	})
	if out == nil {
		w.t.Fatalf("%v names no approval", err)
	}
	return out
}

func (w *world) decideOn(p Principal, a *pkipb.Approval, grant bool) error {
	return w.do(func(tx *raftstore.Tx) error {
		_, err := w.e.DecideApproval(tx, p, a.GetId(), grant, a.GetHash())
		return err
	})
}

func (w *world) grants(p Principal, a *pkipb.Approval) {
	w.t.Helper()
	if err := w.decideOn(p, a, true); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) hasRole(name string) (ok bool) {
	_ = w.store.View(func(r *raftstore.ReadTx) error {
		_, ok = pkistore.CustomRoles.Get(r, name)
		return nil
	})
	return ok
}

func says(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// TestTwoMustBeForIt: a request takes effect once, for who made it, when another is
// for exactly that.
func TestTwoMustBeForIt(t *testing.T) {
	w, m3 := watched(t, nil)
	req := &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}
	a := w.waits(w.create(w.root(), req))
	if again := w.waits(w.create(w.root(), req)); again.GetId() != a.GetId() {
		t.Error("the same request again has an approval of its own")
	}
	w.grants(rootOf(w.m2), a)

	other := proto.CloneOf(req)
	other.Verbs = append(other.Verbs, "node.remove")
	if b := w.waits(w.create(w.root(), other)); b.GetId() == a.GetId() {
		t.Error("another request has the approval of this one")
	}
	if b := w.waits(w.create(rootOf(m3), req)); b.GetId() == a.GetId() {
		t.Error("somebody else has the approval of who asked")
	}
	if w.hasRole("drainer") {
		t.Fatal("it took effect without who asked")
	}
	if err := w.create(w.root(), req); err != nil {
		t.Fatal(err)
	}
	w.must(func(tx *raftstore.Tx) error { return RemoveRole(tx, "drainer") })
	if b := w.waits(w.create(w.root(), req)); b.GetId() == a.GetId() || w.hasRole("drainer") {
		t.Error("an approval is good twice")
	}
	w.must(func(tx *raftstore.Tx) error {
		if a, _ := pkistore.Approvals.Get(tx, a.GetId()); a.GetUsedAt() == 0 || a.GetUsedBy() == "" {
			t.Errorf("%v is not used", a)
		}
		return nil
	})
}

// TestWhoCounts: who asked does not, nobody counts twice, and nobody who may not do it.
func TestWhoCounts(t *testing.T) {
	w, m3 := watched(t, nil)
	a := w.waits(w.create(w.root(), &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}))
	says(t, w.decideOn(w.root(), a, true), "root:m1 asked for it, and root:m1 cannot approve it")
	says(t, w.decideOn(w.user("ann"), a, true), "root:m1 asked for it, and user:ann@m1 cannot approve it")
	says(t, w.decideOn(rootOf(ident.New()), a, true), "any more")
	wrong := proto.CloneOf(a)
	wrong.Hash = slices.Repeat([]byte{1}, 32)
	says(t, w.decideOn(rootOf(w.m2), wrong, true), "what was looked at is not what approval")
	says(t, w.decideOn(rootOf(w.m2), &pkipb.Approval{Id: "x"}, true), `there is no approval "x"`)
	w.must(func(tx *raftstore.Tx) error {
		return SetPolicy(tx, "not-m3", `forbid (principal == Redoubt::LocalRoot::"`+m3+`", action == Redoubt::Action::"role.create", resource);`)
	})
	says(t, w.decideOn(rootOf(m3), a, true), "root:m3 may not role.create")
	w.must(func(tx *raftstore.Tx) error { return RemovePolicy(tx, "not-m3") })

	// Three are needed now, after one was for it.
	w.grants(rootOf(w.m2), a)
	w.must(func(tx *raftstore.Tx) error {
		return SetPolicy(tx, "watched", `@parties("3") forbid (principal, action == Redoubt::Action::"role.create", resource);`)
	})
	req := &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}
	says(t, w.create(w.root(), req), "2 of 3 people or managers")
	says(t, w.decideOn(rootOf(w.m2), a, true), "counts once")
	says(t, w.decideOn(Principal{pkipb.Principal_KIND_LOCAL_USER, "bob", w.m2}, a, true), "counts once")
	w.grants(rootOf(m3), a)

	// Who was removed since counts no more.
	w.must(func(tx *raftstore.Tx) error {
		n, _ := pkistore.Nodes.Get(tx, m3)
		n = proto.CloneOf(n)
		n.Denied = true
		return pkistore.Nodes.Put(tx, n)
	})
	says(t, w.create(w.root(), req), "2 of 3 people or managers")
	if w.hasRole("drainer") {
		t.Error("it took effect with one who is gone")
	}
}

// TestUsersOfMachinesCountForNothing: who is a user of two managers is one person, and
// may be a person besides.
func TestUsersOfMachinesCountForNothing(t *testing.T) {
	w, m3 := watched(t, nil)
	ann := w.user("ann")
	again := Principal{pkipb.Principal_KIND_LOCAL_USER, "ann", w.m2}
	for _, p := range []Principal{ann, again} {
		w.bind(SecurityAdmin, p, nil)
	}
	req := &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}
	a := w.waits(w.create(ann, req))
	says(t, w.create(ann, req), "0 of 2 people or managers")
	says(t, w.decideOn(again, a, true), "user:ann@m2 is a user of a machine")
	w.must(func(tx *raftstore.Tx) error { // as one of before wrote it down
		b := proto.CloneOf(a)
		b.Votes = append(b.Votes, &pkipb.Vote{By: again.Record(), At: tx.Now().Unix()})
		s, err := w.e.Standing(tx, b)
		if err != nil || s.Enough || s.Counts[0] {
			t.Errorf("%+v, %v", s, err)
		}
		return nil
	})
	w.grants(rootOf(w.m2), a)
	says(t, w.create(ann, req), "1 of 2 people or managers")
	w.grants(rootOf(m3), a)
	if err := w.create(ann, req); err != nil || !w.hasRole("drainer") {
		t.Error(err)
	}

	// Nor is a policy attainable by them.
	var roots tally
	for _, p := range []Principal{w.root(), ann, again, rootOf(w.m2)} {
		roots.add(p)
	}
	for _, c := range []struct {
		p       Principal
		parties int
		want    bool
	}{{ann, 1, true}, {ann, 2, false}, {w.root(), 2, true}, {w.root(), 3, false}, {rootOf(m3), 3, true}, {person("ann"), 3, true}} {
		if got := roots.enoughWith(c.p, Need{Parties: c.parties}); got != c.want {
			t.Errorf("%s, with roots of m1 and m2, is %d: %v", c.p.Text(""), c.parties, got)
		}
	}
}

// TestWhoMayEndIt: who could be for it, and who asked.
func TestWhoMayEndIt(t *testing.T) {
	w, m3 := watched(t, nil)
	req := &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}
	a := w.waits(w.create(w.root(), req))
	says(t, w.decideOn(Principal{pkipb.Principal_KIND_LOCAL_USER, "bob", w.m2}, a, false), "is a user of a machine")
	w.must(func(tx *raftstore.Tx) error {
		return SetPolicy(tx, "not-m3", `forbid (principal == Redoubt::LocalRoot::"`+m3+`", action == Redoubt::Action::"role.create", resource);`)
	})
	says(t, w.decideOn(rootOf(m3), a, false), "root:m3 may not role.create")
	if err := w.decideOn(w.root(), a, false); err != nil {
		t.Errorf("who asked cannot withdraw it: %v", err)
	}
	b := w.waits(w.create(w.root(), req))
	if err := w.decideOn(rootOf(w.m2), b, false); err != nil {
		t.Error(err)
	}
}

// TestPeopleAreNotMachines: where a policy counts people, local root counts for nothing.
func TestPeopleAreNotMachines(t *testing.T) {
	w, _ := watched(t, nil)
	w.must(func(tx *raftstore.Tx) error { // as when people were there, and are gone
		p, _ := pkistore.AccessPolicies.Get(tx, "watched")
		p = proto.CloneOf(p)
		p.Text = strings.Replace(p.Text, "parties", "people", 1)
		s, _ := pkistore.AccessState.Get(tx, pkistore.AccessID)
		s = proto.CloneOf(s)
		s.Changes++
		return errors.Join(pkistore.AccessPolicies.Put(tx, p), pkistore.AccessState.Put(tx, s))
	})
	err := w.create(w.root(), &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}})
	says(t, err, "0 of 2 people so far")
	says(t, w.decideOn(rootOf(w.m2), w.waits(err), true), "root:m2 is nobody in particular")

	var both tally
	for _, p := range []Principal{w.root(), w.user("ann"), {Kind: pkipb.Principal_KIND_PERSON, Name: "ann"}, {Kind: pkipb.Principal_KIND_PERSON, Name: "ann"}, rootOf(w.m2)} {
		both.add(p)
	}
	if got := both.of(Need{People: 2, Parties: 3}); got != "1 of 2 people, 3 of 3 people or managers" || both.enough(Need{People: 2}) || !both.enough(Need{Parties: 3}) || both.enough(Need{Parties: 4}) {
		t.Errorf("one person and two machines are %s", got)
	}
}

// TestAnApprovalEnds: by one who denies it, whoever was for it, and by time.
func TestAnApprovalEnds(t *testing.T) {
	clock := new(movedClock)
	w, m3 := watched(t, clock)
	req := &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}
	a := w.waits(w.create(w.root(), req))
	w.grants(rootOf(w.m2), a)
	if err := w.decideOn(rootOf(m3), a, false); err != nil {
		t.Fatal(err)
	}
	says(t, w.decideOn(rootOf(w.m2), a, true), "was denied already")
	b := w.waits(w.create(w.root(), req))
	if b.GetId() == a.GetId() {
		t.Error("what was denied can still be granted")
	}
	w.grants(rootOf(w.m2), b)

	ctx, err := w.admitted(w.root(), createRole, req)
	if err != nil {
		t.Fatal(err)
	}
	clock.by.Store(int64(ApprovalLife + time.Second))
	says(t, w.store.Update(ctx, func(tx *raftstore.Tx) error { return CreateRole(tx, "drainer", "", req.GetVerbs()) }), "has expired")
	says(t, w.decideOn(rootOf(m3), b, true), "has expired")
	if c := w.waits(w.create(w.root(), req)); c.GetId() == b.GetId() || w.hasRole("drainer") {
		t.Error("what has expired can still be used")
	}
	// Old ones are forgotten when others come.
	clock.by.Store(int64(2*approvalsKept + 2*ApprovalLife))
	w.waits(w.create(w.root(), req))
	w.must(func(tx *raftstore.Tx) error {
		if n := pkistore.Approvals.Count(tx); n != 1 {
			t.Errorf("%d approvals are kept", n)
		}
		return nil
	})
}

// TestOneCallUsesIt: of calls at the same time one takes effect, and that one may go on
// in further transactions. What fails uses nothing up.
func TestOneCallUsesIt(t *testing.T) {
	w, _ := watched(t, nil)
	req := &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}
	a := w.waits(w.create(w.root(), req))
	w.grants(rootOf(w.m2), a)
	ctx, err := w.admitted(w.root(), createRole, req)
	if err != nil {
		t.Fatal(err)
	}
	fails := errors.New("fails")
	if err := w.store.Update(ctx, func(*raftstore.Tx) error { return fails }); !errors.Is(err, fails) {
		t.Fatal(err)
	}
	if err := w.store.Update(ctx, func(*raftstore.Tx) error { return nil }); err != nil {
		t.Fatal(err) // it reads
	}
	put := func(ctx context.Context) error {
		return w.store.Update(ctx, func(tx *raftstore.Tx) error {
			return pkistore.CustomRoles.Put(tx, &pkipb.CustomRole{Id: ident.New(), Verbs: req.GetVerbs()})
		})
	}
	var calls [8]context.Context // all admitted before one takes effect
	for i := range calls {
		if calls[i], err = w.admitted(w.root(), createRole, req); err != nil {
			t.Fatal(err)
		}
	}
	var done atomic.Int64
	var g sync.WaitGroup
	for _, ctx := range calls {
		g.Go(func() {
			if put(ctx) != nil {
				return
			}
			if put(ctx) == nil { // one that took effect goes on in further transactions
				done.Add(1)
			}
		})
	}
	g.Wait()
	w.must(func(tx *raftstore.Tx) error {
		if n := pkistore.CustomRoles.Count(tx); done.Load() != 1 || n != 2 {
			t.Errorf("%d calls took effect, with %d changes", done.Load(), n)
		}
		return nil
	})
	says(t, put(ctx), "was used, denied, or has expired")
}

// TestThePolicyOfBeforeCounts: a change of policies is judged by those that it changes.
func TestThePolicyOfBeforeCounts(t *testing.T) {
	w, _ := watched(t, nil)
	w.must(func(tx *raftstore.Tx) error {
		return SetPolicy(tx, "policies", `@parties("2") forbid (principal, action in [Redoubt::Action::"policy.set", Redoubt::Action::"policy.remove"], resource);`)
	})
	const method = "/redoubt.control.v1.Access/RemoveAccessPolicy"
	req := &controlpb.RemoveAccessPolicyRequest{Name: "policies"}
	_, err := w.admitted(w.root(), method, req)
	a := w.waits(err)
	w.grants(rootOf(w.m2), a)
	ctx, err := w.admitted(w.root(), method, req)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Update(ctx, func(tx *raftstore.Tx) error { return RemovePolicy(tx, "policies") }); err != nil {
		t.Fatal(err)
	}
	w.must(func(tx *raftstore.Tx) error {
		if a, _ := pkistore.Approvals.Get(tx, a.GetId()); a.GetUsedAt() == 0 {
			t.Error("it is not used")
		}
		return nil
	})
	if d := w.decide(w.root(), "policy.set", Resource{}); !d.Need.None() {
		t.Errorf("%+v", d)
	}
}

// TestApprovalsHaveBounds: nobody keeps others from asking.
func TestApprovalsHaveBounds(t *testing.T) {
	w, _ := watched(t, nil)
	name := func(i int) *controlpb.CreateRoleRequest {
		return &controlpb.CreateRoleRequest{Name: strings.Repeat("a", i+1), Verbs: []string{"node.list"}}
	}
	for i := range maxOpen {
		w.waits(w.create(w.root(), name(i)))
	}
	says(t, w.create(w.root(), name(maxOpen)), "16 requests of yours wait")
	w.waits(w.create(rootOf(w.m2), name(0)))
}

// TestWaitingIsRecorded: that a request waits, who was for it and that it took effect by
// that are in the audit log.
func TestWaitingIsRecorded(t *testing.T) {
	w, _ := watched(t, nil)
	before := w.records()
	req := &controlpb.CreateRoleRequest{Name: "drainer", Verbs: []string{"node.update"}}
	a := w.waits(w.create(w.root(), req))
	w.waits(w.create(w.root(), req))
	got := w.records()[len(before):]
	if len(got) != 1 || got[0].GetOutcome() != auditpb.Outcome_OUTCOME_DENIED || !slices.Contains(got[0].GetVerbs(), "role.create") ||
		got[0].GetChanges()[0].GetTable() != "approvals" || got[0].GetChanges()[0].GetId() != a.GetId() || got[0].GetReason() == "" {
		t.Fatalf("%v", got)
	}
	w.grants(rootOf(w.m2), a)
	ctx, err := w.admitted(w.root(), createRole, req)
	if err != nil {
		t.Fatal(err)
	}
	log := &audit.Log{Store: w.store, Manager: w.m1}
	before = w.records()
	ctx = log.Refusing(ctx, createRole, req, "only to have a recorder")
	if err := w.store.Update(ctx, func(tx *raftstore.Tx) error { return CreateRole(tx, "drainer", "", req.GetVerbs()) }); err != nil {
		t.Fatal(err)
	}
	got = w.records()[len(before):]
	if len(got) != 1 || got[0].GetApproval() != a.GetId() || !slices.ContainsFunc(got[0].GetChanges(), func(c *auditpb.Change) bool { return c.GetTable() == "approvals" && c.GetId() == a.GetId() }) {
		t.Fatalf("%v", got)
	}
}

func (w *world) records() (out []*auditpb.Record) {
	w.t.Helper()
	r, err := w.store.Records()
	if err != nil {
		w.t.Fatal(err)
	}
	for n := range r.Log.Size() {
		e, err := r.Entry(n)
		if err != nil {
			w.t.Fatal(err)
		}
		rec := &auditpb.Record{}
		if err := proto.Unmarshal(e.Record, rec); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}
