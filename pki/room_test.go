package pki_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// Seven managers are the most; workers and managers that were removed take no
// place.
func TestRoomForManagers(t *testing.T) {
	s := raftstoretest.New(t, store.Tables()...)
	add := func(id string, role profilepb.Role, denied bool) {
		t.Helper()
		if err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
			return store.Nodes.Put(tx, &pkipb.Node{Id: id, Role: role, Denied: denied})
		}); err != nil {
			t.Fatal(err)
		}
	}
	room := func() (err error) {
		_ = s.View(func(r *raftstore.ReadTx) error { err = pki.CheckManagerRoom(r); return nil })
		return err
	}
	for i := range raftstore.MaxManagers {
		if err := room(); err != nil {
			t.Fatalf("with %d managers: %v", i, err)
		}
		add(fmt.Sprint("worker-", i), profilepb.Role_ROLE_WORKER, false)
		add(fmt.Sprint("removed-", i), profilepb.Role_ROLE_MANAGER, true)
		add(fmt.Sprint("manager-", i), profilepb.Role_ROLE_MANAGER, false)
	}
	if err := room(); err == nil || !strings.Contains(err.Error(), "7 managers") {
		t.Errorf("the eighth manager: %v", err)
	}
	if err := s.Update(context.Background(), func(tx *raftstore.Tx) error { return pki.Deny(tx, "manager-3") }); err != nil {
		t.Fatal(err)
	}
	if err := room(); err != nil {
		t.Errorf("after one was removed: %v", err)
	}
}
