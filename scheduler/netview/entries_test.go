package netview_test

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Who restricts entry nodes in words that this manager does not know has none
// rather than all.
func TestAConstraintNobodyUnderstands(t *testing.T) {
	s := schedulertest.NewCluster(t)
	node, told := ident.New(), map[string]int{}
	for _, constraint := range []string{"node.role==worker", "node.moon==full"} {
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			if _, ok := store.Nodes.Get(tx, node); !ok {
				if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: node, Name: "w1"}); err != nil {
					return err
				}
				if err := store.RegisterNode(tx, node, false); err != nil {
					return err
				}
			}
			id, sp := ident.New(), schedulertest.Spec("s"+constraint[5:9], 1)
			sp.IngressConstraints = []string{constraint}
			sp.Task.Ports = []*taskpb.Port{{Published: 8000, Target: 80, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_INGRESS}}
			if err := meshstore.CreateIngress(tx, "c", id); err != nil {
				return err
			}
			return store.Services.Put(tx, &schedulerpb.Service{Id: id, Spec: sp, Revision: 1})
		})
		err := s.View(func(r *raftstore.ReadTx) error {
			for _, m := range netview.NewCursor(node).Next(netview.Load(r)) {
				told[constraint] += len(m.GetUpdate())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if told["node.role==worker"] != 1 || told["node.moon==full"] != 1 { // the first still, and not the second
		t.Errorf("told of %v", told)
	}
}
