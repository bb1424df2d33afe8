package netview_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

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

// BenchmarkPublished is what a change costs until the messages for all entry nodes
// are made and encoded: of a task of one service, of its ports, and of a node that
// joins. "first" is what all nodes are told by a new leader.
func BenchmarkPublished(b *testing.B) {
	const nodes, services, tasks = 5000, 200, 10
	s := schedulertest.NewCluster(b)
	var ids []string
	join := func(n int) {
		schedulertest.Update(b, s, func(tx *raftstore.Tx) error {
			for range n {
				id := ident.New()
				if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: id, Name: id[:12]}); err != nil {
					return err
				}
				if err := store.RegisterNode(tx, id, false); err != nil {
					return err
				}
				ids = append(ids, id)
			}
			return nil
		})
	}
	for range nodes / 500 {
		join(500)
	}
	var task, service string
	for i := range services {
		schedulertest.Update(b, s, func(tx *raftstore.Tx) error {
			service = ident.New()
			sp := schedulertest.Spec(fmt.Sprintf("s%d", i), tasks)
			sp.Task.Ports = []*taskpb.Port{{Published: 8000 + uint32(i), Target: 80, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_INGRESS}}
			if err := meshstore.CreateIngress(tx, "c", service); err != nil {
				return err
			}
			if err := store.Services.Put(tx, &schedulerpb.Service{Id: service, Spec: sp, Revision: 1}); err != nil {
				return err
			}
			for j := range tasks {
				t := &schedulerpb.Task{Id: ident.New(), ServiceId: service, Slot: uint32(j) + 1, NodeId: ids[(i*tasks+j)%nodes], Desired: store.Running,
					Status: &schedulerpb.TaskStatus{State: store.Running}}
				task = t.Id
				if err := store.Attach(tx, t, nil, true); err != nil {
					return err
				}
				if err := store.PutTask(tx, t); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var ix *netview.Index
	w, err := s.Watch(func(r *raftstore.ReadTx) error {
		began := time.Now()
		ix = netview.Load(r)
		b.Logf("loaded in %v", time.Since(began))
		return nil
	}, netview.Tables()...)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	cursors := map[string]*netview.Cursor{}
	tell := func(to []string) (messages, bytes int) {
		for _, id := range to {
			if cursors[id] == nil {
				cursors[id] = netview.NewCursor(id)
			}
			for _, m := range cursors[id].Next(ix) {
				data, err := proto.Marshal(m)
				if err != nil {
					b.Fatal(err)
				}
				messages, bytes = messages+1, bytes+len(data)
			}
		}
		return messages, bytes
	}
	began := time.Now()
	n, size := tell(ids)
	b.Logf("first: %d messages, %d MB, %v", n, size>>20, time.Since(began))
	run := func(name string, change func(tx *raftstore.Tx, i int) error) {
		b.Run(name, func(b *testing.B) {
			total := 0
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				schedulertest.Update(b, s, func(tx *raftstore.Tx) error { return change(tx, i) })
				events, err := w.Next(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				n, _ := tell(ix.Observe(events))
				total += n
			}
			b.ReportMetric(float64(total)/float64(b.N), "messages/op")
		})
	}
	run("task", func(tx *raftstore.Tx, i int) error {
		old, _ := store.Tasks.Get(tx, task)
		t := proto.CloneOf(old)
		t.Status.Unhealthy = i%2 == 0
		return store.PutTask(tx, t)
	})
	run("ports", func(tx *raftstore.Tx, i int) error {
		old, _ := store.Services.Get(tx, service)
		svc := proto.CloneOf(old)
		svc.Spec.Task.Ports[0].Target = 80 + uint32(i%2)
		return store.Services.Put(tx, svc)
	})
	run("join", func(tx *raftstore.Tx, i int) error {
		id := ident.New()
		if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: id, Name: id[:12]}); err != nil {
			return err
		}
		return store.RegisterNode(tx, id, false)
	})
}
