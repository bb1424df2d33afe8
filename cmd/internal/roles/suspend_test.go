package roles

import (
	"slices"
	"testing"

	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// TestSuspend: with one manager left and people who cannot come, nothing waits for others,
// until the policy is set anew. What it forbids besides it forbids.
func TestSuspend(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob")
	const plain = `forbid (principal, action == Redoubt::Action::"config.remove", resource);`
	if err := w.setPolicy("eyes", guarded+invited+plain); err != nil {
		t.Fatal(err)
	}
	if err := w.setPolicy("plain", `forbid (principal, action == Redoubt::Action::"config.create", resource);`); err != nil {
		t.Fatal(err)
	}
	need := func() Need { return w.decide(person("ann"), "policy.set", Resource{}).Need }
	if need().People != 2 {
		t.Fatal(need())
	}
	suspended := func() (names []string) {
		_ = w.store.View(func(r *raftstore.ReadTx) error { names = Suspended(r); return nil })
		return names
	}
	for range 2 {
		w.must(Suspend)
		if got := suspended(); !need().None() || !slices.Equal(got, []string{"eyes"}) {
			t.Errorf("%v must be for it, with %q suspended", need(), got)
		}
	}
	for _, verb := range []string{"config.remove", "config.create"} {
		if d := w.decide(person("ann"), verb, Resource{}); d.Allowed {
			t.Errorf("%s is permitted: %s", verb, d.Why())
		}
	}
	if err := w.setPolicy("eyes", guarded+invited+plain); err != nil || need().People != 2 || len(suspended()) > 0 {
		t.Errorf("set anew it asks for %v (%v)", need(), err)
	}

	// Where nothing asks for several people nothing is written.
	w.must(func(tx *raftstore.Tx) error { return RemovePolicy(tx, "eyes") })
	before := w.version()
	w.must(Suspend)
	if w.version() != before {
		t.Error("it is compiled anew for nothing")
	}
}

func (w *world) version() (n uint64) {
	_ = w.store.View(func(r *raftstore.ReadTx) error {
		s, _ := pkistore.AccessState.Get(r, pkistore.AccessID)
		n = s.GetChanges()
		return nil
	})
	return n
}
