package roles

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// admin makes somebody who is security-admin and can call.
func (w *world) admin(name string) Principal {
	w.t.Helper()
	w.must(func(tx *raftstore.Tx) error {
		return pkistore.People.Put(tx, &pkipb.Person{Id: name, LeafSpki: []byte("key of " + name), LeafNotAfter: time.Now().Add(time.Hour).Unix()})
	})
	p := Principal{Kind: pkipb.Principal_KIND_PERSON, Name: name}
	w.bind(SecurityAdmin, p, nil)
	return p
}

func (w *world) breaks(node string, d time.Duration) (b *pkipb.BreakGlass) {
	w.t.Helper()
	w.must(func(tx *raftstore.Tx) (err error) {
		b, err = Break(tx, node, "nobody is there", d)
		return err
	})
	return b
}

func (w *world) refused(want string, fn func(*raftstore.Tx) error) {
	w.t.Helper()
	if err := w.do(fn); err == nil || !strings.Contains(err.Error(), want) {
		w.t.Errorf("want a refusal with %q, got %v", want, err)
	}
}

// TestBreakGlass: local root of that manager has what is covered and no other one has,
// whatever policies say of break-glass; it ends by itself and by its own word.
func TestBreakGlass(t *testing.T) {
	w := newWorld(t)
	w.refused("local root is, already", func(tx *raftstore.Tx) error { _, err := Break(tx, w.m1, "x", time.Minute); return err })
	w.admin("ann")
	other := Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: w.m2}
	for _, bad := range []struct {
		node, reason string
		d            time.Duration
		want         string
	}{
		{w.m1, " ", time.Hour, "needs a reason"}, {w.m1, "a\nb", time.Hour, "one line"}, {w.m1, strings.Repeat("x", maxReason+1), time.Hour, "one line"},
		{w.m1, "a\xffb", time.Hour, "one line"}, {w.m1, "x", time.Second, "1m0s to 4h0m0s"}, {w.m1, "x", MaxBreakGlass + 1, "1m0s to 4h0m0s"}, {"nobody", "x", time.Hour, "no manager"},
	} {
		w.refused(bad.want, func(tx *raftstore.Tx) error { _, err := Break(tx, bad.node, bad.reason, bad.d); return err })
	}
	w.must(func(tx *raftstore.Tx) error {
		return SetPolicy(tx, "nobody-forbids", `forbid (principal is Redoubt::LocalRoot, action == Redoubt::Action::"slot.list", resource);`)
	})
	if b := w.breaks(w.m1, time.Hour); !slices.Equal(b.GetWitnesses(), []string{"ann"}) || b.GetTimes() != 1 {
		t.Errorf("%v", b)
	}
	verbs, _ := Verbs()
	uncovered, err := Uncovered()
	if err != nil {
		t.Fatal(err)
	}
	broken, err := BrokenVerbs()
	if err != nil {
		t.Fatal(err)
	}
	base, _ := builtins()
	for _, v := range verbs {
		if got := w.decide(w.root(), v, Resource{}).Allowed; v != "slot.list" && got != slices.Contains(broken, v) {
			t.Errorf("%s: permitted %t, and docs/roles.md says %t", v, got, !got)
		}
		covered := slices.Contains(coveredVerbs, v) || slices.Contains(base[Operator].Verbs, v)
		if v == "slot.list" || slices.Contains(uncovered, v) { // the policy; a second person's word
			covered = false
		}
		if d := w.decide(w.root(), v, Resource{}); d.Allowed != covered {
			t.Errorf("%s: %t, %s", v, d.Allowed, d.Why())
		}
		if d := w.decide(other, v, Resource{}); v != "slot.list" && d.Allowed != (slices.Contains(base[Operator].Verbs, v) && !slices.Contains(uncovered, v)) {
			t.Errorf("another manager's root, %s: %t, %s", v, d.Allowed, d.Why())
		}
	}
	for _, v := range []string{"slot.add", "slot.remove", "slot.rotate", "autolock.disable", "autolock.enable", "ca.rotate-root", "ca.rotate", "ca.set-external", "ca.update", "admission.update", "node.revoke", "approval.grant", "approval.deny"} {
		if !slices.Contains(uncovered, v) {
			t.Errorf("%s is covered", v)
		}
	}
	// Again before it was acknowledged: the one that it was.
	if b := w.breaks(w.m1, 2*time.Hour); b.GetTimes() != 2 || !slices.Equal(b.GetWitnesses(), []string{"ann"}) {
		t.Errorf("%v", b)
	}
	w.must(func(tx *raftstore.Tx) error { return EndBreak(tx, w.m1) })
	if d := w.decide(w.root(), "policy.set", Resource{}); d.Allowed {
		t.Error("it goes on after its end")
	}
	w.refused("no break-glass of this manager's root under way", func(tx *raftstore.Tx) error { return EndBreak(tx, w.m1) })
	w.refused("no break-glass of this manager's root under way", func(tx *raftstore.Tx) error { return EndBreak(tx, w.m2) })
	w.must(func(tx *raftstore.Tx) error {
		b, _ := pkistore.BreakGlasses.Get(tx, w.m1)
		b = proto.CloneOf(b)
		b.Until = time.Now().Add(-time.Millisecond).UnixNano()
		return pkistore.BreakGlasses.Put(tx, b)
	})
	if d := w.decide(w.root(), "policy.set", Resource{}); d.Allowed {
		t.Error("its time is over, and it goes on")
	}
	w.refused("there is a role", func(tx *raftstore.Tx) error { return CreateRole(tx, "viewer", "", []string{"node.list"}) })
	w.refused("is the role of who broke the glass", func(tx *raftstore.Tx) error { return CreateRole(tx, BreakGlass, "", []string{"node.list"}) })
	w.refused("no role", func(tx *raftstore.Tx) error { _, err := Bind(tx, BreakGlass, w.root(), nil); return err })
}

// TestNothingComesOfBreakGlass: whoever broke the glass can give nobody what it does not
// cover, by no binding, role or policy, nor make away with those who are to hear of it.
func TestNothingComesOfBreakGlass(t *testing.T) {
	w := newWorld(t)
	ann, bob := w.admin("ann"), w.admin("bob")
	w.breaks(w.m1, time.Hour)
	eve := w.admin("eve") // invited and bound by who broke the glass
	w.bind(SecurityAdmin, w.root(), nil)
	w.must(func(tx *raftstore.Tx) error {
		return CreateRole(tx, "slots", "", []string{"slot.add", "ca.rotate-root"})
	})
	w.bind("slots", w.user("joe"), nil)
	w.must(func(tx *raftstore.Tx) error { return SetPolicy(tx, "all", `permit (principal, action, resource);`) })
	w.must(func(tx *raftstore.Tx) error { return Unbind(tx, SecurityAdmin, ann, nil) })
	w.must(func(tx *raftstore.Tx) error { return Unbind(tx, SecurityAdmin, bob, nil) })
	uncovered, _ := Uncovered()
	for _, v := range uncovered {
		for _, p := range []Principal{eve, w.root(), w.user("joe"), {Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: w.m2}} {
			if d := w.decide(p, v, Resource{}); d.Allowed || !strings.Contains(d.Why(), "break-glass of root:m1, which nobody acknowledged") {
				t.Errorf("%s may %s: %t, %s", p.Text(""), v, d.Allowed, d.Why())
			}
		}
		if d := w.decide(ann, v, Resource{}); !d.Allowed {
			t.Errorf("who was security-admin before may not %s: %s", v, d.Why())
		}
	}
	// They stay what they were until one of them says so.
	w.must(func(tx *raftstore.Tx) error { return RemovePolicy(tx, "all") })
	if d := w.decide(bob, "binding.create", Resource{}); !d.Allowed {
		t.Errorf("who was unbound by it: %s", d.Why())
	}
	for _, p := range []Principal{eve, w.root(), w.user("joe"), {}} {
		w.refused("only they may do that", func(tx *raftstore.Tx) error { return MayLose(tx, p, "ann") })
	}
	w.must(func(tx *raftstore.Tx) error { return MayLose(tx, w.root(), "eve") })
	w.must(func(tx *raftstore.Tx) error { return MayLose(tx, bob, "ann") })
	w.must(func(tx *raftstore.Tx) error { return pkistore.People.Delete(tx, "ann") })
	for _, p := range []Principal{bob, w.root()} {
		w.refused("last security-admin of before", func(tx *raftstore.Tx) error { return MayLose(tx, p, "bob") })
	}
	w.refused("is one of those who are to acknowledge", func(tx *raftstore.Tx) error { return MayInvite(tx, "ann") })
	w.must(func(tx *raftstore.Tx) error { return MayInvite(tx, "joe") })
	for _, p := range []Principal{eve, w.root(), w.user("joe"), ann.as(pkipb.Principal_KIND_LOCAL_USER, w.m1)} {
		w.refused("was not security-admin before", func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m1, p) })
	}
	// Broken at a second manager it is another one, and who came of the first is none of
	// its witnesses.
	if b := w.breaks(w.m2, time.Hour); !slices.Equal(b.GetWitnesses(), []string{"bob"}) {
		t.Errorf("witnesses of the second: %v", b.GetWitnesses())
	}
	w.refused("person:eve was not security-admin before", func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m2, eve) })
	w.must(func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m2, bob) })
	if d := w.decide(eve, "slot.add", Resource{}); d.Allowed {
		t.Error("the second one stands for the first")
	}
	w.must(func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m1, bob) })
	if d := w.decide(eve, "slot.add", Resource{}); !d.Allowed {
		t.Errorf("after it was acknowledged: %s", d.Why())
	}
	w.refused("there is no break-glass of root:m1", func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m1, bob) })
}

// TestBreakGlassLocksNobodyOut: where nobody of before can call any more, who is
// security-admin then acknowledges it.
func TestBreakGlassLocksNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.admin("ann")
	w.breaks(w.m1, time.Hour)
	if d := w.decide(w.root(), "slot.add", Resource{}); d.Allowed {
		t.Error("slots are covered")
	}
	w.must(func(tx *raftstore.Tx) error {
		ann, _ := pkistore.People.Get(tx, "ann")
		ann = proto.CloneOf(ann)
		ann.LeafNotAfter = time.Now().Add(-time.Second).Unix()
		return pkistore.People.Put(tx, ann)
	})
	// The end of one certificate has nobody acknowledge it at once.
	w.refused("it is not over for 24h0m0s", func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m1, w.root()) })
	over := func(ago time.Duration) {
		t.Helper()
		w.must(func(tx *raftstore.Tx) error {
			b, _ := pkistore.BreakGlasses.Get(tx, w.m1)
			b = proto.CloneOf(b)
			b.Until = tx.Now().Add(-ago).UnixNano()
			return pkistore.BreakGlasses.Put(tx, b)
		})
	}
	over(ackDelay - time.Hour)
	w.refused("it is not over for 24h0m0s", func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m1, w.root()) })
	over(ackDelay)
	w.refused("user:joe@m1 is not security-admin", func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m1, w.user("joe")) })
	w.must(func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m1, w.root()) })
	if d := w.decide(w.root(), "slot.add", Resource{}); !d.Allowed {
		t.Errorf("nobody may: %s", d.Why())
	}
}

// TestBreakGlassIsAnnounced: to who was and is security-admin, and to nobody else.
func TestBreakGlassIsAnnounced(t *testing.T) {
	w := newWorld(t)
	ann := w.admin("ann")
	heard := func(p Principal) (all []string) {
		w.store.View(func(r *raftstore.ReadTx) error { all = w.e.Announced(r, p); return nil })
		return all
	}
	if len(heard(ann)) != 0 {
		t.Error(heard(ann))
	}
	w.breaks(w.m1, time.Hour)
	w.must(func(tx *raftstore.Tx) error { return EndBreak(tx, w.m1) })
	if got := heard(ann); len(got) != 1 || !strings.Contains(got[0], "root:m1 broke the glass and was security-admin until") || !strings.Contains(got[0], "nobody is there") {
		t.Error(got)
	}
	if got := heard(Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "joe"}); len(got) != 0 {
		t.Error(got)
	}
	w.must(func(tx *raftstore.Tx) error { return Acknowledge(tx, w.m1, ann) })
	if got := heard(ann); len(got) != 0 {
		t.Error(got)
	}
}

// as is a principal of that name of another kind.
func (p Principal) as(kind pkipb.Principal_Kind, node string) Principal {
	return Principal{Kind: kind, Name: p.Name, Node: node}
}
