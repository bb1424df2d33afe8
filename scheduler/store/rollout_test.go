package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// changing is a service whose spec a test changes.
type changing struct {
	*testing.T
	s  *raftstore.Store
	id string
}

func newChanging(t *testing.T, replicas uint64) *changing {
	s := schedulertest.NewStore(t)
	id, err := store.CreateSigned(t.Context(), s, admitted(t, schedulertest.Spec("web", replicas)), store.Signing{By: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	return &changing{t, s, id}
}

func admitted(t *testing.T, sp *schedulerpb.ServiceSpec) spec.Admitted {
	t.Helper()
	a, err := spec.Admit(sp)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (c *changing) service() *schedulerpb.Service { return service(c.T, c.s, c.id) }

func (c *changing) update(change func(*schedulerpb.ServiceSpec)) *schedulerpb.Service {
	c.Helper()
	sp := proto.CloneOf(c.service().GetSpec())
	change(sp)
	if err := store.UpdateSigned(c.Context(), c.s, c.id, c.service().GetMeta().GetVersion(), sp, store.Signing{By: "ben"}); err != nil {
		c.Fatal(err)
	}
	return c.service()
}

func force(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ }

func env(v string) func(*schedulerpb.ServiceSpec) {
	return func(sp *schedulerpb.ServiceSpec) { sp.Task.Container.Env = []string{"V=" + v} }
}

func (c *changing) history() (out []*schedulerpb.ServiceSpecRecord) {
	view(c.T, c.s, func(r raftstore.Reader) { out = store.History(r, c.id) })
	return out
}

func (c *changing) former(n uint64) *schedulerpb.ServiceSpec {
	for _, rec := range c.history() {
		if rec.GetNumber() == n {
			return rec.GetSpec()
		}
	}
	return nil
}

func (c *changing) back(to uint64) error {
	b := store.Rollback{Version: c.service().GetMeta().GetVersion(), To: to, Spec: c.former(to)}
	return store.RollBack(c.Context(), c.s, c.id, b, store.Signing{By: "cat"})
}

func (c *changing) set(state schedulerpb.UpdateStatus_State) {
	c.Helper()
	svc := c.service()
	st := proto.CloneOf(svc.GetUpdateStatus())
	st.State = state
	stale, err := store.SetUpdateStatus(c.Context(), c.s, []store.StatusChange{{ServiceID: c.id, Version: svc.GetMeta().GetVersion(), Status: st}})
	if err != nil || len(stale) > 0 {
		c.Fatal(stale, err)
	}
}

// shape is "number/revision state".
func (c *changing) want(number, revision uint64, state schedulerpb.UpdateStatus_State) {
	c.Helper()
	svc := c.service()
	if store.SpecNumber(svc) != number || svc.GetRevision() != revision || svc.GetUpdateStatus().GetState() != state {
		c.Errorf("number %d at revision %d, %v; want %d at %d, %v", store.SpecNumber(svc), svc.GetRevision(), svc.GetUpdateStatus(), number, revision, state)
	}
}

func TestSpecsHaveNumbers(t *testing.T) {
	c := newChanging(t, 2)
	c.want(1, 1, 0)
	c.update(env("a"))
	c.want(2, 2, store.Updating)
	if st := c.service().GetUpdateStatus(); st.GetFrom() != 1 || st.GetNumber() != 2 || st.GetSince() == 0 {
		t.Errorf("%v", st)
	}
	c.set(store.Completed)
	c.update(func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 5 })
	c.want(3, 2, store.Completed)
	c.update(func(sp *schedulerpb.ServiceSpec) { sp.Update = &schedulerpb.UpdateConfig{Parallelism: 3} })
	c.want(4, 2, store.Completed)
	c.update(func(*schedulerpb.ServiceSpec) {}) // nothing
	c.want(4, 2, store.Completed)

	var who []string
	for _, rec := range c.history() {
		who = append(who, fmt.Sprintf("%d %s r%d %v", rec.GetNumber(), rec.GetBy(), rec.GetRevision(), rec.GetSpec() != nil))
	}
	if got, want := strings.Join(who, ", "), "1 ann r1 true, 2 ben r2 true, 3 ben r2 true, 4 ben r2 false"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// Back, with the revision of before, as nothing forgot it.
	if err := c.back(1); err != nil {
		t.Fatal(err)
	}
	c.want(1, 1, store.RollbackStarted)
	if n := c.service().GetSpec().GetReplicated().GetReplicas(); n != 2 {
		t.Errorf("%d replicas", n)
	}
	c.set(store.RollbackCompleted)
	if err := c.back(4); err != nil { // and forth
		t.Fatal(err)
	}
	c.want(4, 2, store.RollbackStarted)
	// Numbers and revisions are not used again.
	c.back(1)
	c.update(env("b"))
	c.want(5, 3, store.Updating)
	if err := store.RemoveService(t.Context(), c.s, c.id); err != nil || len(c.history()) > 0 {
		t.Errorf("%v, %v", err, c.history())
	}
}

func TestHistoryIsBounded(t *testing.T) {
	c := newChanging(t, 1)
	for i := range 30 {
		c.update(env(fmt.Sprint(i)))
		c.set(store.Completed)
	}
	if h := c.history(); len(h) != store.MaxFormer+1 || h[0].GetNumber() != 21 || h[len(h)-1].GetNumber() != 31 {
		t.Errorf("%d are kept, the first is %d", len(h), h[0].GetNumber())
	}
	for i := range 10 {
		c.update(func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Container.Env = nil
			for j := range 7 {
				sp.Task.Container.Env = append(sp.Task.Container.Env, fmt.Sprintf("V%d=%d%s", j, i, strings.Repeat("x", 30<<10)))
			}
		})
	}
	h := c.history()
	size := 0
	for _, rec := range h {
		size += proto.Size(rec)
	}
	// The one that all these go back to was the last that worked.
	if size > store.MaxFormerBytes+2048 || len(h) < 4 || h[0].GetNumber() != 31 {
		t.Errorf("%d bytes in %d, from %d", size, len(h), h[0].GetNumber())
	}
}

func TestNothingToGoBackTo(t *testing.T) {
	c := newChanging(t, 1)
	refused := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) || !store.IsRefusal(err) {
			t.Errorf("%v, want %q", err, text)
		}
	}
	refused(c.back(0), "no former specification: there is nothing")
	refused(c.back(1), "in force")
	refused(c.back(7), "no former specification 7")
	c.update(env("a"))
	b := store.Rollback{Version: c.service().GetMeta().GetVersion(), To: 1, Spec: c.service().GetSpec()}
	refused(store.RollBack(t.Context(), c.s, c.id, b, store.Signing{}), "not what specification 1")
	b.Version++
	if err := store.RollBack(t.Context(), c.s, c.id, b, store.Signing{}); !errors.Is(err, store.ErrChanged) {
		t.Error(err)
	}
	if err := store.RemoveService(t.Context(), c.s, c.id); err != nil {
		t.Fatal(err)
	}
	refused(store.RollBack(t.Context(), c.s, c.id, b, store.Signing{}), "no service")
}

func TestAnUpdateThatFailsGoesBackToWhatWorked(t *testing.T) {
	failed := func(c *changing) error {
		return store.RollBackFailed(c.Context(), c.s, c.id, c.service().GetMeta().GetVersion(), "update rolled back due to x")
	}
	t.Run("one", func(t *testing.T) {
		c := newChanging(t, 1)
		c.update(env("a"))
		if err := failed(c); err != nil {
			t.Fatal(err)
		}
		c.want(1, 1, store.RollbackStarted)
		if err := failed(c); !errors.Is(err, store.ErrChanged) {
			t.Errorf("a rollback was rolled back: %v", err)
		}
	})
	t.Run("one upon another", func(t *testing.T) {
		c := newChanging(t, 1)
		c.update(env("a"))
		c.update(env("b"))
		if err := failed(c); err != nil {
			t.Fatal(err)
		}
		c.want(1, 1, store.RollbackStarted)
		c.update(env("c")) // during the way back
		c.want(4, 4, store.Updating)
		if err := failed(c); err != nil {
			t.Fatal(err)
		}
		c.want(1, 1, store.RollbackStarted)
	})
	t.Run("scaled meanwhile", func(t *testing.T) {
		c := newChanging(t, 1)
		c.update(env("a"))
		c.update(func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 7 })
		if err := failed(c); err != nil {
			t.Fatal(err)
		}
		c.want(4, 1, store.RollbackStarted)
		if sp := c.service().GetSpec(); sp.GetReplicated().GetReplicas() != 7 || len(sp.GetTask().GetContainer().GetEnv()) > 0 {
			t.Errorf("%v", sp)
		}
	})
	t.Run("with other replicas", func(t *testing.T) {
		c := newChanging(t, 1)
		c.update(func(sp *schedulerpb.ServiceSpec) { env("a")(sp); sp.GetReplicated().Replicas = 7 })
		if err := failed(c); err != nil {
			t.Fatal(err)
		}
		c.want(1, 1, store.RollbackStarted)
	})
	t.Run("signed", func(t *testing.T) {
		c := newChanging(t, 1)
		sp := proto.CloneOf(c.service().GetSpec())
		force(sp)
		if err := store.UpdateSigned(t.Context(), c.s, c.id, c.service().GetMeta().GetVersion(), sp, store.Signing{Signed: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if err := failed(c); !store.IsRefusal(err) || !strings.Contains(err.Error(), "--sign-with") {
			t.Error(err)
		}
		c.want(2, 2, store.Updating)
	})
}

// The same spec once more has a paused update go on, as other words on how to update do;
// another number of replicas does not.
func TestAPausedUpdateIsResumed(t *testing.T) {
	c := newChanging(t, 1)
	c.update(env("a"))
	since := c.service().GetUpdateStatus().GetSince()
	c.set(store.Paused)
	c.update(func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 3 })
	c.want(3, 2, store.Paused)
	c.update(func(*schedulerpb.ServiceSpec) {})
	c.want(3, 2, store.Updating)
	if st := c.service().GetUpdateStatus(); st.GetSince() <= since || st.GetFrom() != 1 {
		t.Errorf("%v, was since %d", st, since)
	}
	c.set(store.Paused)
	c.update(func(sp *schedulerpb.ServiceSpec) {
		sp.Update = &schedulerpb.UpdateConfig{FailureAction: spec.ActionContinue}
	})
	c.want(4, 2, store.Updating)
	c.set(store.RollbackPaused)
	c.update(func(*schedulerpb.ServiceSpec) {})
	c.want(4, 2, store.RollbackStarted)
}
