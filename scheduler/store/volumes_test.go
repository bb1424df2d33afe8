package store_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// withVolume is a service whose tasks have the volume.
func withVolume(name, volume string, change func(*taskpb.VolumeUse)) *schedulerpb.ServiceSpec {
	sp := schedulertest.Spec(name, 1)
	u := &taskpb.VolumeUse{Name: volume}
	if change != nil {
		change(u)
	}
	sp.Task.Container.Mounts = append(sp.Task.Container.Mounts, &taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: "/data", Volume: u})
	return sp
}

func volume(t testing.TB, s *raftstore.Store, ref string) (v *schedulerpb.Volume) {
	t.Helper()
	view(t, s, func(r raftstore.Reader) { v, _ = store.ResolveVolume(r, ref) })
	return v
}

func removeVolume(s *raftstore.Store, t testing.TB, ref string) (on int, err error) {
	t.Helper()
	err = s.Update(t.Context(), func(tx *raftstore.Tx) error {
		_, nodes, err := store.RemoveVolume(tx, ref)
		on = len(nodes)
		return err
	})
	return on, err
}

// holds has a node say that it has data of these volumes, and of no others.
func holds(t testing.TB, s *raftstore.Store, nodeID string, ids ...string) {
	t.Helper()
	d := proto.CloneOf(node(t, s, nodeID).GetDescription())
	if d == nil {
		d = &schedulerpb.NodeDescription{}
	}
	d.Volumes = &schedulerpb.NodeVolumes{}
	for _, id := range ids {
		d.Volumes.Instances = append(d.Volumes.Instances, &taskpb.VolumeInstance{Id: id, Name: "v", Driver: volumes.Local})
	}
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return store.UpdateDescription(tx, nodeID, d) })
}

func wantRefused(t testing.TB, err error, text string) {
	t.Helper()
	if !store.IsRefused(err) || !strings.Contains(err.Error(), text) {
		t.Errorf("%v, want %q", err, text)
	}
}

func TestServicesMakeTheirVolumes(t *testing.T) {
	s, ctx := schedulertest.NewStore(t), t.Context()
	sized := func(u *taskpb.VolumeUse) {
		u.Options, u.Labels = map[string]string{volumes.Size: "1GiB"}, map[string]string{"a": "b"}
	}
	web, err := store.CreateService(ctx, s, withVolume("web", "uploads", sized))
	if err != nil {
		t.Fatal(err)
	}
	v := volume(t, s, "uploads")
	if v.GetServiceId() != web || v.GetSpec().GetDriver() != volumes.Local || v.GetSpec().GetOptions()[volumes.Size] != "1GiB" || v.GetSpec().GetLabels()["a"] != "b" {
		t.Fatal(v)
	}
	// Another shares it; who says otherwise what it is is told.
	if _, err := store.CreateService(ctx, s, withVolume("backup", "uploads", nil)); err != nil {
		t.Fatal(err)
	}
	if got := volume(t, s, "uploads"); got.GetId() != v.GetId() || !proto.Equal(got.GetSpec(), v.GetSpec()) || got.GetServiceId() != web {
		t.Error(got)
	}
	_, err = store.CreateService(ctx, s, withVolume("other", "uploads", func(u *taskpb.VolumeUse) { u.Options = map[string]string{volumes.Size: "2GiB"} }))
	wantRefused(t, err, "its options are size=1GiB, and not size=2GiB")
	for _, want := range []string{"in use by 2 services, of which one is backup", "in use by service backup"} {
		_, err = removeVolume(s, t, "uploads")
		wantRefused(t, err, want)
		if svc := named(t, s, "web"); svc != nil {
			if err := store.RemoveService(ctx, s, svc.GetId()); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The service goes and the volume stays.
	if volume(t, s, "uploads") == nil {
		t.Fatal("a volume went with the service that made it")
	}
	if err := store.RemoveService(ctx, s, named(t, s, "backup").GetId()); err != nil {
		t.Fatal(err)
	}
	if on, err := removeVolume(s, t, "uploads"); err != nil || on != 0 || volume(t, s, "uploads") != nil {
		t.Error(on, err)
	}
}

// named is a service by its name; nil: there is none.
func named(t testing.TB, s *raftstore.Store, name string) (svc *schedulerpb.Service) {
	t.Helper()
	view(t, s, func(r raftstore.Reader) { svc, _ = store.ResolveService(r, name) })
	return svc
}

func TestVolumesAreMadeOnce(t *testing.T) {
	s, ctx := schedulertest.NewStore(t), t.Context()
	id, err := store.CreateVolume(ctx, s, &taskpb.VolumeSpec{Name: "db"})
	if err != nil || volume(t, s, id).GetSpec().GetDriver() != volumes.Local {
		t.Fatal(err)
	}
	if _, err := store.CreateVolume(ctx, s, &taskpb.VolumeSpec{Name: "db"}); !errors.As(err, new(*raftstore.DuplicateError)) || !strings.Contains(err.Error(), `"db" exists already`) {
		t.Error(err)
	}
	_, err = store.CreateVolume(ctx, s, &taskpb.VolumeSpec{Name: "db2", Driver: "nfs"})
	wantRefused(t, err, "no volume driver")
	_, err = store.CreateService(ctx, s, withVolume("web", "Data", nil))
	wantRefused(t, err, "only lowercase")
	alone := withVolume("web", "db", nil)
	alone.Task.Container.Isolation = taskpb.Isolation_ISOLATION_USERNS
	_, err = store.CreateService(ctx, s, alone)
	wantRefused(t, err, "leave isolation userns out")
	first := withVolume("web", "new", nil)
	first.Update = &schedulerpb.UpdateConfig{Order: schedulerpb.UpdateConfig_ORDER_START_FIRST}
	_, err = store.CreateService(ctx, s, first)
	wantRefused(t, err, "use order stop-first")
	_, err = store.CreateService(ctx, s, withVolume("web", "new", func(u *taskpb.VolumeUse) { u.Labels = map[string]string{"com.docker.stack.namespace": "prod"} }))
	wantRefused(t, err, "must be that of the service")
	if volume(t, s, "new") != nil {
		t.Error("a service that was refused made its volume")
	}
}

// TestRemovalWaitsForNodes: a name is not given to other data while there is some left.
func TestRemovalWaitsForNodes(t *testing.T) {
	s, ctx := schedulertest.NewStore(t), t.Context()
	a, b := schedulertest.AddNode(t, s, true), schedulertest.AddNode(t, s, false)
	id, err := store.CreateVolume(ctx, s, &taskpb.VolumeSpec{Name: "db"})
	if err != nil {
		t.Fatal(err)
	}
	stays, err := store.CreateVolume(ctx, s, &taskpb.VolumeSpec{Name: "stays"})
	if err != nil {
		t.Fatal(err)
	}
	unknown := ident.New()
	holds(t, s, a, id, stays, unknown)
	holds(t, s, b, id)
	for range 2 { // the second time changes nothing
		if on, err := removeVolume(s, t, "db"); err != nil || on != 2 || volume(t, s, "db").GetRemovingSince() == 0 {
			t.Fatal(on, err)
		}
	}
	view(t, s, func(r raftstore.Reader) {
		n, _ := store.Nodes.Get(r, a)
		if got := store.ToRemove(r, n); len(got) != 1 || got[0] != id {
			t.Errorf("to be deleted there: %v", got) // neither what stays nor what nobody knows
		}
	})
	_, err = store.CreateService(ctx, s, withVolume("web", "db", nil))
	wantRefused(t, err, "and 1 more: try again")
	_, err = store.CreateVolume(ctx, s, &taskpb.VolumeSpec{Name: "db"})
	wantRefused(t, err, "is being removed")
	holds(t, s, a, stays, unknown)
	if volume(t, s, "db") == nil {
		t.Error("forgotten while a node has it")
	}
	// A node that has just begun says nothing of volumes, which is not that it has none.
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.UpdateDescription(tx, b, &schedulerpb.NodeDescription{Hostname: "b"})
	})
	if volume(t, s, "db") == nil || store.Instance(node(t, s, b), id) == nil {
		t.Error("forgotten before its node knows what it has")
	}
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return store.RemoveNode(tx, b) })
	if volume(t, s, "db") != nil {
		t.Error("it waits for a node that is gone")
	}
	holds(t, s, a)
	if volume(t, s, "stays") == nil {
		t.Error("forgotten though nobody removed it")
	}
}

func TestTasksKeepVolumes(t *testing.T) {
	s, ctx := schedulertest.NewStore(t), t.Context()
	schedulertest.AddNode(t, s, true)
	id, err := store.CreateService(ctx, s, withVolume("web", "db", nil))
	if err != nil {
		t.Fatal(err)
	}
	stop := schedulertest.Run(t, s)
	agents := schedulertest.Agents(t, s)
	schedulertest.Await(t, s, schedulertest.Running(id, 1))
	agents() // its container is not asked to stop
	if err := store.RemoveService(ctx, s, id); err != nil {
		t.Fatal(err)
	}
	stop()
	_, err = removeVolume(s, t, "db")
	wantRefused(t, err, "still has volume db, and is stopping")
	view(t, s, func(r raftstore.Reader) {
		got := store.VolumesOf(r, withVolume("x", "db", nil).GetTask().GetContainer())
		if len(got) != 1 || got[0].GetId() != volume(t, s, "db").GetId() || got[0].GetSpec().GetName() != "db" {
			t.Error(got)
		}
	})
}

// TestGoingBackGivesTheSameData: an update that fails gives its service no volume that it
// did not have.
func TestGoingBackGivesTheSameData(t *testing.T) {
	without := func(sp *schedulerpb.ServiceSpec) { sp.Task.Container.Mounts = nil }
	begin := func(t *testing.T) *changing {
		s := schedulertest.NewStore(t)
		id, err := store.CreateService(t.Context(), s, withVolume("web", "db", nil))
		if err != nil {
			t.Fatal(err)
		}
		c := &changing{t, s, id}
		c.update(without)
		c.want(2, 2, store.Updating)
		return c
	}
	failed := func(c *changing) error {
		return store.RollBackFailed(c.Context(), c.s, c.id, c.service().GetMeta().GetVersion(), "update rolled back due to x")
	}
	// gone takes the volume away, as if nobody asked what may be gone back to.
	gone := func(c *changing) {
		id := volume(c.T, c.s, "db").GetId()
		schedulertest.Update(c.T, c.s, func(tx *raftstore.Tx) error { return store.Volumes.Delete(tx, id) })
	}
	t.Run("in use", func(t *testing.T) {
		c := begin(t)
		for _, state := range []schedulerpb.UpdateStatus_State{store.Updating, store.Paused} {
			c.set(state)
			_, err := removeVolume(c.s, t, "db")
			wantRefused(t, err, "in use by service web")
		}
		c.set(store.Completed)
		if _, err := removeVolume(c.s, t, "db"); err != nil {
			t.Error(err)
		}
	})
	t.Run("the same", func(t *testing.T) {
		c := begin(t)
		was := volume(t, c.s, "db").GetId()
		if err := failed(c); err != nil {
			t.Fatal(err)
		}
		c.want(1, 1, store.RollbackStarted)
		if volume(t, c.s, "db").GetId() != was {
			t.Error("another volume")
		}
	})
	t.Run("none", func(t *testing.T) {
		c := begin(t)
		gone(c)
		wantRefused(t, failed(c), "volume db, which specification 1 has, was removed")
		c.want(2, 2, store.Updating)
		if volume(t, c.s, "db") != nil {
			t.Error("an empty one was made")
		}
	})
	t.Run("another", func(t *testing.T) {
		c := begin(t)
		gone(c)
		if _, err := store.CreateService(t.Context(), c.s, withVolume("other", "db", nil)); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, failed(c), "volume db is not the one that specification 1 had")
		c.want(2, 2, store.Updating)
		// A person may, who is judged by what the spec names today.
		if err := c.back(1); err != nil {
			t.Error(err)
		}
	})
}

// TestDescriptionsBeforeVolumes: while a manager is of a version before, nodes are
// described without what it would not understand.
func TestDescriptionsBeforeVolumes(t *testing.T) {
	for level := uint32(1); level <= 3; level++ {
		d := store.Permitted(&schedulerpb.NodeDescription{Hostname: "a", Volumes: &schedulerpb.NodeVolumes{}}, level)
		d.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if since := raftstore.FieldSince(d, f.Name()); since > level {
				t.Errorf("%s is since level %d, and the store is at %d", f.Name(), since, level)
			}
			return true
		})
		if level == 3 && d.Volumes == nil {
			t.Error("a store that takes volumes gets none")
		}
	}
}
