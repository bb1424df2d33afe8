package control_test

import (
	"testing"

	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func TestRotateStoreKeys(t *testing.T) {
	w := newWorld(t)
	rotate := func(req *controlpb.RotateStoreKeysRequest) (func() *controlpb.RotateStoreKeysResponse, func() error) {
		return stream(t, func(s *serverStream[*controlpb.RotateStoreKeysResponse]) error { return w.api.RotateStoreKeys(req, s) })
	}
	ordered := func() (epoch uint32) {
		if err := w.store.View(func(r *raftstore.ReadTx) error {
			o, _ := autolockstore.StoreKeys.Get(r, w.manager)
			epoch = o.GetEpoch()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return epoch
	}
	says := func(k *schedulerpb.StoreKeyState) {
		w.describe(w.manager, func(d *schedulerpb.NodeDescription) { d.StoreKey = k })
	}
	_, wait := rotate(&controlpb.RotateStoreKeysRequest{})
	wantReason(t, wait(), apierr.ReasonState, "has not said yet")
	_, wait = rotate(&controlpb.RotateStoreKeysRequest{Nodes: []string{"nobody"}})
	wantReason(t, wait(), apierr.ReasonNotFound, "nobody")
	_, wait = rotate(&controlpb.RotateStoreKeysRequest{Nodes: make([]string, 100)})
	wantReason(t, wait(), apierr.ReasonInvalid, "more than")
	_, wait = rotate(&controlpb.RotateStoreKeysRequest{Nodes: []string{w.manager, w.manager}})
	wantReason(t, wait(), apierr.ReasonInvalid, "twice")
	_, wait = rotate(&controlpb.RotateStoreKeysRequest{Nodes: []string{w.worker}})
	wantReason(t, wait(), apierr.ReasonInvalid, "worker")

	says(&schedulerpb.StoreKeyState{Epoch: 4})
	next, wait := rotate(&controlpb.RotateStoreKeysRequest{Nodes: []string{w.manager}})
	if m := next(); m.GetDone() || m.GetManagers()[0].GetWanted() != 5 || ordered() != 5 {
		t.Errorf("%v, ordered %d", m, ordered())
	}
	says(&schedulerpb.StoreKeyState{Epoch: 5, FormerEpoch: 4})
	if m := next(); m.GetDone() {
		t.Error("done while a former key is kept")
	}
	// Asked again meanwhile: the same one.
	again, waitAgain := rotate(&controlpb.RotateStoreKeysRequest{})
	if m := again(); m.GetDone() || ordered() != 5 {
		t.Errorf("%v, ordered %d", m, ordered())
	}
	says(&schedulerpb.StoreKeyState{Epoch: 5})
	for m := next(); !m.GetDone(); m = next() {
	}
	for m := again(); !m.GetDone(); m = again() {
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
	if err := waitAgain(); err != nil {
		t.Error(err)
	}
	look, wait := rotate(&controlpb.RotateStoreKeysRequest{Watch: true})
	if m := look(); !m.GetDone() || len(m.GetManagers()) != 1 || m.GetManagers()[0].GetKey().GetEpoch() != 5 || ordered() != 5 {
		t.Errorf("%v", m)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
}
