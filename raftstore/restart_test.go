package raftstore_test

import (
	"fmt"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// TestReopenAfterSnapshotFromLeader lets a follower fall so far behind that it
// gets a snapshot, and restarts it: what the snapshot skipped must not look
// like entries that were taken away.
func TestReopenAfterSnapshotFromLeader(t *testing.T) {
	ctx := waitContext(t)
	a := newMember(t, "a")
	a.bootstrap(t)
	dir, sealer := t.TempDir(), raftstoretest.NewSealer()
	restart := func(b *member) *member {
		t.Helper()
		if b != nil {
			if err := b.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		b = openMember(t, dir, sealer, "b", "a")
		if err := a.AddNonvoter(ctx, b.id, b.hostport()); err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := restart(nil)
	put(t, a.Store, &testpb.Thing{Id: "early"})
	waitFor(t, b, "early")
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		put(t, a.Store, &testpb.Thing{Id: fmt.Sprint("skipped-", i)})
	}
	if err := a.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	b = restart(b)
	waitFor(t, b, "skipped-29")
	put(t, a.Store, &testpb.Thing{Id: "late"})
	waitFor(t, b, "late")
	b = restart(b)
	put(t, a.Store, &testpb.Thing{Id: "last"})
	for _, id := range []string{"early", "skipped-0", "skipped-29", "late", "last"} {
		waitFor(t, b, id)
	}
}
