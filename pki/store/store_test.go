package store_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ authz.Directory = store.Directory{}

const patience = 20 * time.Second

func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func put(t *testing.T, s *raftstore.Store, fn func(*raftstore.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestDirectory(t *testing.T) {
	s := raftstoretest.New(t, store.Tables()...)
	d := store.Directory{Store: s}
	n := &pkipb.Node{Id: ident.New(), Name: "a", Role: profilepb.Role_ROLE_WORKER}
	if got, err := d.Node(n.Id); err != nil || got != nil {
		t.Fatalf("a node that is not there: %v %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan []string, 16)
	done := make(chan error, 1)
	go func() { done <- d.Changes(ctx, func(ids []string) { seen <- ids }) }()
	if ids := next(t, seen); ids != nil {
		t.Errorf("first: %v, want nil for all", ids)
	}
	put(t, s, func(tx *raftstore.Tx) error { return store.Nodes.Put(tx, n) })
	if ids := next(t, seen); !slices.Equal(ids, []string{n.Id}) {
		t.Errorf("after a write: %v", ids)
	}
	got, err := d.Node(n.Id)
	if err != nil || got.GetName() != "a" {
		t.Errorf("read back %v, %v", got, err)
	}
	put(t, s, func(tx *raftstore.Tx) error { return store.Nodes.Delete(tx, n.Id) })
	if ids := next(t, seen); !slices.Equal(ids, []string{n.Id}) {
		t.Errorf("after a removal: %v", ids)
	}
	cancel()
	if err := next(t, done); err != context.Canceled {
		t.Error(err)
	}
}

func TestIndexes(t *testing.T) {
	s := raftstoretest.New(t, store.Tables()...)
	put(t, s, func(tx *raftstore.Tx) error {
		for i, role := range []profilepb.Role{profilepb.Role_ROLE_WORKER, profilepb.Role_ROLE_MANAGER, profilepb.Role_ROLE_WORKER} {
			name := []string{"same", "", "same"}[i] // names are not unique, nor required
			if err := store.Nodes.Put(tx, &pkipb.Node{Id: ident.New(), Name: name, Role: role}); err != nil {
				return err
			}
		}
		return nil
	})
	count := func(index, key string) (n int) {
		s.View(func(r *raftstore.ReadTx) error {
			for range store.Nodes.By(r, index, key) {
				n++
			}
			return nil
		})
		return n
	}
	if w, m, named := count("role", "worker"), count("role", "manager"), count("name", "same"); w != 2 || m != 1 || named != 2 {
		t.Errorf("%d workers, %d managers, %d of one name", w, m, named)
	}
}

func TestFollowCluster(t *testing.T) {
	s := raftstoretest.New(t, store.Tables()...)
	if err := s.View(func(r *raftstore.ReadTx) error { _, err := store.GetCluster(r); return err }); err == nil {
		t.Error("a cluster record where there is none")
	}
	put(t, s, func(tx *raftstore.Tx) error {
		return store.Cluster.Put(tx, &pkipb.Cluster{Id: store.ClusterID, ClusterId: "one"})
	})
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan *pkipb.Cluster, 4)
	done := make(chan error, 1)
	go func() { done <- store.FollowCluster(ctx, s, func(c *pkipb.Cluster) { seen <- c }) }()
	if c := next(t, seen); c.GetClusterId() != "one" {
		t.Errorf("first: %v", c)
	}
	put(t, s, func(tx *raftstore.Tx) error {
		c, err := store.GetCluster(tx)
		if err != nil {
			return err
		}
		c = proto.CloneOf(c)
		c.Roots = [][]byte{{1}}
		return store.Cluster.Put(tx, c)
	})
	if c := next(t, seen); len(c.GetRoots()) != 1 {
		t.Errorf("after a change: %v", c)
	}
	cancel()
	next(t, done)
}
