package netview_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// BenchmarkChange is what one endpoint's change costs until the message for the
// last node of its network is made and encoded, with 10,000 other tasks on others.
func BenchmarkChange(b *testing.B) {
	for _, nodes := range []int{50, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) { benchChange(b, nodes) })
	}
}

func benchChange(b *testing.B, members int) {
	s := schedulertest.NewStore(b, pkistore.Tables()...)
	var networks []string
	for i := range 11 {
		id, err := meshstore.CreateNetwork(b.Context(), s, "c", &meshpb.NetworkSpec{Name: fmt.Sprintf("n%d", i), Driver: "overlay",
			Subnets: []*meshpb.Subnet{{Subnet: fmt.Sprintf("10.%d.0.0/16", i+1), Gateway: fmt.Sprintf("10.%d.0.1", i+1)}}})
		if err != nil {
			b.Fatal(err)
		}
		networks = append(networks, id)
	}
	var nodes []string
	for range members {
		id := ident.New()
		schedulertest.Update(b, s, func(tx *raftstore.Tx) error { return store.RegisterNode(tx, id, false) })
		nodes = append(nodes, id)
	}
	tasks := make([]string, members) // those of the network that is measured
	for done := 0; done < members+10000; done += 500 {
		schedulertest.Update(b, s, func(tx *raftstore.Tx) error {
			for i := done; i < min(done+500, members+10000); i++ {
				t := &schedulerpb.Task{Id: ident.New(), ServiceId: "svc", Slot: 1, NodeId: nodes[i%members], Desired: store.Running,
					Status: &schedulerpb.TaskStatus{State: store.Running}}
				n := networks[0]
				if i < members {
					tasks[i] = t.Id
				} else {
					n = networks[1+i%10]
				}
				if err := store.Attach(tx, t, []*taskpb.NetworkUse{{Network: n}}, false); err != nil {
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
	for _, n := range nodes {
		cursors[n] = netview.NewCursor(n)
		cursors[n].Next(ix)
	}
	var write, told time.Duration
	bytes, messages, i := 0, 0, 0
	for b.Loop() {
		began := time.Now()
		id := tasks[i%members]
		i++
		schedulertest.Update(b, s, func(tx *raftstore.Tx) error {
			old, _ := store.Tasks.Get(tx, id)
			t := proto.CloneOf(old)
			t.Status.Unhealthy = !t.Status.Unhealthy
			return store.PutTask(tx, t)
		})
		events, err := w.Next(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		write += time.Since(began)
		began = time.Now()
		for _, n := range ix.Observe(events) {
			for _, m := range cursors[n].Next(ix) {
				data, err := proto.Marshal(m)
				if err != nil {
					b.Fatal(err)
				}
				bytes += len(data)
				messages++
			}
		}
		told += time.Since(began)
	}
	n := float64(b.N)
	b.ReportMetric(float64(write.Microseconds())/n, "µs-commit/op")
	b.ReportMetric(float64(told.Microseconds())/n, "µs-told/op")
	b.ReportMetric(float64(messages)/n, "messages/op")
	b.ReportMetric(float64(bytes)/float64(messages), "B/message")
}
