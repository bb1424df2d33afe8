package authority

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// setExternal has an external CA sign workers, by that leader.
func (w *world) setExternal(ctx context.Context, s *Server) error {
	r := root(w.t)
	_, err := s.SetExternalCA(ctx, &controlpb.SetExternalCARequest{Url: "https://ca.example:9000", Provisioner: "redoubt", Chain: [][]byte{issuing(w.t, r, time.Now()), r.Raw}})
	return err
}

func (w *world) removeExternal(ctx context.Context, s *Server) error {
	_, err := s.RemoveExternalCA(ctx, &controlpb.RemoveExternalCARequest{})
	return err
}

// edit changes the cluster record, and undo has it as it was.
func (w *world) edit(f func(*pkipb.Cluster)) (undo func()) {
	before := w.cluster()
	put := func(f func(*pkipb.Cluster)) {
		w.update(func(tx *raftstore.Tx) error {
			c, err := pkistore.GetCluster(tx)
			if err != nil {
				return err
			}
			c = proto.CloneOf(c)
			f(c)
			return pkistore.Cluster.Put(tx, c)
		})
	}
	put(f)
	return func() { put(func(c *pkipb.Cluster) { c.Rotation = before.GetRotation() }) }
}

// deny takes a node out, and undo puts it back.
func (w *world) deny(id string) (undo func()) {
	put := func(denied bool) {
		w.update(func(tx *raftstore.Tx) error {
			n, _ := pkistore.Nodes.Get(tx, id)
			n = proto.CloneOf(n)
			n.Denied = denied
			return pkistore.Nodes.Put(tx, n)
		})
	}
	put(true)
	return func() { put(false) }
}

// features has the node say that it knows an external CA's mark, or not.
func (w *world) features(id string, knows bool) {
	w.update(func(tx *raftstore.Tx) error {
		d := &schedulerpb.NodeDescription{Features: []*taskpb.Feature{{Name: pki.ExternalFeature, Present: knows}}}
		return schedstore.UpdateDescription(tx, id, d)
	})
}

// TestExternalInterrupted: wherever the setting of an external CA, or its taking away,
// is cut short, the record and the keyset that managers were given agree, nothing of it
// is done, and the next leader does it.
func TestExternalInterrupted(t *testing.T) {
	var w *world
	undo := func() {}
	faults := map[string]struct {
		// when keyd made the keyset; it returns keyd's answer
		called func(cancel func()) error
		want   apierr.Reason // "": the error is nobody's to read
	}{
		"the leader dies when keyd made its keys": {func(func()) error { return errDied }, ""},
		"who asked goes away before the commit":   {func(cancel func()) error { cancel(); return nil }, ""},
		"a root's replacement begins meanwhile": {func(func()) error {
			undo = w.edit(func(c *pkipb.Cluster) { c.Rotation = &pkipb.Rotation{} })
			return nil
		}, apierr.ReasonState},
		"a manager is removed meanwhile":                {func(func()) error { undo = w.deny(w.managers[1]); return nil }, apierr.ReasonConflict},
		"who asked goes away, and a manager is removed": {func(cancel func()) error { cancel(); undo = w.deny(w.managers[1]); return nil }, ""},
	}
	for name, tc := range faults {
		for _, set := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, set %t", name, set), func(t *testing.T) {
				w = newWorld(t, 0)
				do := w.setExternal
				s := w.leader()
				if !set {
					if err := w.setExternal(t.Context(), s); err != nil {
						t.Fatal(err)
					}
					do = w.removeExternal
				}
				before := w.cluster()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w.called = func(int) error { return tc.called(cancel) }
				err := do(ctx, s)
				if got := apierr.ReasonOf(err); err == nil || got != tc.want || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v (%v), want %v", err, got, tc.want)
				}
				undo()
				undo, w.called = func() {}, nil
				w.inForce()
				if c := w.cluster(); pki.KeysetEpoch(c) != pki.KeysetEpoch(before) || !proto.Equal(c.GetExternal(), before.GetExternal()) {
					t.Fatalf("half done: %v", c)
				}

				// The next leader's keyd has not taken over the keyset in force yet.
				next := w.leader()
				w.behind = true
				if err := do(t.Context(), next); apierr.ReasonOf(err) != apierr.ReasonState || !strings.Contains(err.Error(), "has not taken over") {
					t.Errorf("a leader without the keyset in force: %v", err)
				}
				w.behind = false
				if err := do(t.Context(), next); err != nil {
					t.Fatal(err)
				}
				w.inForce()
				if c := w.cluster(); (c.GetExternal() != nil) != set {
					t.Errorf("in the end: %v", c.GetExternal())
				}
			})
		}
	}
}

// TestExternalAnswerLost: it was done, and nobody was told. Set again, it is set; taken
// away again, that is refused in so many words, and so it is while a root is replaced.
func TestExternalAnswerLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	for range 2 {
		if err := w.setExternal(t.Context(), w.leader()); err != nil {
			t.Fatal(err)
		}
		w.inForce()
	}
	c := w.cluster()
	if len(c.GetFormerIssuers()) != 1 || pki.KeysetEpoch(c) != 3 {
		t.Errorf("epoch %d, %d former issuers", pki.KeysetEpoch(c), len(c.GetFormerIssuers()))
	}
	for i := range 2 {
		if err := w.removeExternal(t.Context(), w.leader()); (err == nil) != (i == 0) || i > 0 && (apierr.ReasonOf(err) != apierr.ReasonState || !strings.Contains(err.Error(), "no external CA is set")) {
			t.Errorf("taken away %d times before: %v", i, err)
		}
		w.inForce()
	}
	if err := w.begin(w.leader()); err != nil {
		t.Fatal(err)
	}
	calls := w.calls
	for name, do := range map[string]func(context.Context, *Server) error{"set": w.setExternal, "taken away": w.removeExternal} {
		if err := do(t.Context(), w.leader()); apierr.ReasonOf(err) != apierr.ReasonState || !strings.Contains(err.Error(), "a root is being replaced already") {
			t.Errorf("%s while a root is replaced: %v", name, err)
		}
	}
	if w.calls != calls {
		t.Error("keyd made keys for nothing")
	}
}

// TestExternalRefused: no external CA is set that does not answer, or that a node would
// not take certificates of; also where such a node comes meanwhile.
func TestExternalRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	s := w.leader()
	refused := func(when, why string, calls int) {
		t.Helper()
		before := w.calls
		if err := w.setExternal(t.Context(), s); apierr.ReasonOf(err) != apierr.ReasonState || !strings.Contains(fmt.Sprint(err), why) {
			t.Errorf("%s: %v", when, err)
		}
		if w.inForce(); w.cluster().GetExternal() != nil || w.calls != before+calls {
			t.Errorf("%s: it is set, or keyd was asked %d times", when, w.calls-before)
		}
	}
	w.probe = errors.New("the CA at https://ca.example:9000 does not answer: it took too long")
	refused("it does not answer", "it took too long", 0)
	w.probe = nil
	w.features(w.nodes[2], false)
	refused("a worker does not know it", "do not say that they take certificates of an external CA: worker-1", 0)
	w.update(func(tx *raftstore.Tx) error {
		return schedstore.UpdateDescription(tx, w.managers[1], &schedulerpb.NodeDescription{})
	})
	refused("nor does a manager", "external CA: manager-2, worker-1", 0)
	for _, id := range []string{w.nodes[2], w.managers[1]} {
		w.features(id, true)
	}
	w.called = func(int) error { w.features(w.nodes[2], false); return nil }
	refused("one comes meanwhile", "external CA: worker-1", 1)
	w.called = nil
	w.deny(w.nodes[2]) // that one does not count
	if err := w.setExternal(t.Context(), s); err != nil {
		t.Error(err)
	}
}
